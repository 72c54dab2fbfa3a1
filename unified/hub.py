"""Checkpoints from the model hub: only the files that a loader reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from unified.errors import UserError

Choose = Callable[[Sequence[str]], Sequence[str]]
"""The names of a repository's files -> the names or patterns of those to fetch."""


def fetch(id: str, choose: Choose) -> Path:
    """The folder with the chosen files of a hub repository, fetched if they are not here yet.

    Without network, what an earlier call has fetched. Raises UserError if the repository is absent, gated, holds
    nothing that is read here, or cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        chosen = list(choose(HfApi().list_repo_files(id)))
        if not chosen:
            raise UserError(f"The hub repository {id!r} holds no checkpoint of a known format.")
        return Path(snapshot_download(id, allow_patterns=chosen))
    except UserError:
        raise
    except Exception as error:
        # The hub's client raises its own errors and those of the HTTP library below it, which changes.
        found = None if _refused(error) else _fetched_before(id)
        if found is not None:
            return found
        raise UserError(_reason(id, error)) from error


def _fetched_before(id: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(id, local_files_only=True))
    except Exception:
        return None


def _refused(error: Exception) -> bool:
    """Whether the hub itself answered no."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    return isinstance(error, RepositoryNotFoundError | HFValidationError)


def _reason(id: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError

    if isinstance(error, GatedRepoError):
        return (
            f"The hub model {id!r} is gated: accept its licence on its page and log in with `hf auth login`, or give"
            " the path of a downloaded checkpoint."
        )
    if _refused(error):
        return (
            f"{id!r} is no embedded model and no file, and the model hub has no such model, or it is private: check"
            " the name, log in with `hf auth login` if it is private, or give the path of a checkpoint."
        )
    said = str(error).strip().splitlines()
    return (
        f"{id!r} is no embedded model and no file, and the model hub could not be reached"
        f" ({said[0] if said else type(error).__name__}): check the network, or give the path of a checkpoint."
    )
