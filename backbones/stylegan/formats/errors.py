"""The one exception that damaged and hostile files raise."""

from __future__ import annotations

from unified.errors import UserError


class UnsafeFileError(UserError):
    """A file that asks for something outside the allow list, or is damaged. Nothing of it was run.

    global_name: the refused "module.name", or None if the file is damaged or misuses an allowed one.
    """

    def __init__(self, message: str, *, global_name: str | None = None) -> None:
        super().__init__(message)
        self.global_name = global_name


def damaged(why: str) -> UnsafeFileError:
    return UnsafeFileError(f"The file is damaged or not a StyleGAN checkpoint: {why}. Download it again.")


def refused(name: str) -> UnsafeFileError:
    shown = name if len(name) <= 200 else name[:200] + "..."
    return UnsafeFileError(
        f"The file asks for {shown!r}, which is not part of a StyleGAN checkpoint and was not loaded. "
        "`unified models inspect FILE` lists all it asks for; if you do not trust its source, delete it.",
        global_name=name,
    )
