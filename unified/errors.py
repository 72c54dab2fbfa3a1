"""The error every user-facing check raises."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right.

    The message is one clear sentence or two: what was given, what was expected, what to do.
    The command line prints it without a traceback and exits with code 2.
    """
