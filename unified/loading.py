"""From a name, a path or a hub id to a backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unified.contract.backbone import Backbone
from unified.contract.registry import Registry
from unified.errors import UserError
from unified.zoo.registry import folder_of, resolve, zoo


@dataclass(frozen=True)
class Loader:
    """A checkpoint format. `recognises` judges by content, cheaply; `load` takes (path, id).

    hub: file patterns to fetch of a hub repository that this loader reads; () if it does not read any.
    """

    name: str
    recognises: Callable[[Path], bool]
    load: Callable[[Path, str], Backbone]
    hub: tuple[str, ...] = ()


loaders: Registry[Loader] = Registry("checkpoint format")

#: Makes backbones over objects in memory: gives None for objects that it does not know.
held: Registry[Callable[[object], Backbone | None]] = Registry("object in memory")


def load(name: str | Path | object) -> Backbone:
    """An embedded model ("avatars/stylegan2"), a checkpoint file or folder, a model id of the hub, or an object
    of another library that holds a model in memory.

    The format is recognised by content. Raises UserError for what is none of these, or of no known format,
    naming those that are.
    """
    if not isinstance(name, str | Path):
        return _held(name)
    text = str(name)
    if text in zoo:
        model = zoo.get(text)
        if not model.load:
            able = ", ".join(n for n, m in zoo if m.load)
            raise UserError(f"{text} is no generator but an extractor; load one of {able}.")
        backbone: Backbone = resolve(model.load)(folder_of(text), text)
        backbone.category = model.category
        return backbone
    path = Path(name).expanduser()
    if path.exists():
        return _load_path(path, text)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and not path.suffix:
        return _load_path(_from_hub(text), text)
    raise UserError(f"There is no embedded model, file or folder {text!r}. Embedded: {', '.join(zoo.names())}.")


def _held(thing: object) -> Backbone:
    for _, adopt in held:
        backbone = adopt(thing)
        if backbone is not None:
            return backbone
    raise UserError(
        f"An object of type {type(thing).__name__} was given; give a name, a path, or a {', '.join(held.names())}."
    )


def _load_path(path: Path, id: str) -> Backbone:
    for _, loader in loaders:
        if loader.recognises(path):
            return loader.load(path, id)
    known = "; ".join(name for name, _ in loaders)
    raise UserError(f"{path} is of no known checkpoint format. Known: {known}.")


def _from_hub(id: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = sorted({pattern for _, loader in loaders for pattern in loader.hub})
    try:
        return Path(snapshot_download(id, allow_patterns=patterns))
    except Exception as error:
        # The hub client raises a family of errors (absent, gated, no network); all mean the same to the user.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{id!r} is no embedded model and no file, and it could not be had from the model hub ({reason})."
            f" Give the path of a downloaded checkpoint, log in if it is gated, or use an embedded model:"
            f" {', '.join(zoo.names())}."
        ) from error
