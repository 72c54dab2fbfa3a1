"""The closed vocabularies of the contract."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a space is made of: the survey's inversion spaces (sections 3.2, 4.2 and 5)."""

    STYLE = "style"
    NOISE = "noise"
    TEXTUAL = "textual"
    FEATURE = "feature"
    PARAMETER = "parameter"
    TOKEN = "token"


class Clash(StrEnum):
    """What happens when two codes meet at one place of a view.

    REPLACE: sets a parameter; a later stage of the same concept supersedes, another concept is refused.
    ADD: adds to a parameter; any number add up.
    NAMED: stands under a name of its own in the prompt; two concepts need two names.
    SLOT: fills the one place of its sort (a latent, a start noise); as REPLACE.
    """

    REPLACE = "replace"
    ADD = "add"
    NAMED = "named"
    SLOT = "slot"


class Evidence(StrEnum):
    """How a view explains a picture: by the backbone's own training error, or by rendering it."""

    LIKELIHOOD = "likelihood"
    RENDER = "render"
