"""The one exception that damaged and hostile files raise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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


@contextlib.contextmanager
def describing(path: object) -> Iterator[None]:
    """Whatever the values of a file provoke inside comes out as UnsafeFileError; UserError passes."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise damaged("it needs more memory than there is") from None
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError) as error:
        # Content that no writer produces; what is usual is checked and named where it is read.
        raise UnsafeFileError(
            f"{path} is damaged: its values do not fit together ({type(error).__name__}: {str(error)[:100]}). "
            "Download it again."
        ) from None


def refused(name: str) -> UnsafeFileError:
    shown = name if len(name) <= 200 else name[:200] + "..."
    return UnsafeFileError(
        f"The file asks for {shown!r}, which is not part of a StyleGAN checkpoint and was not loaded. "
        "`unified models inspect FILE` lists all it asks for; if you do not trust its source, delete it.",
        global_name=name,
    )
