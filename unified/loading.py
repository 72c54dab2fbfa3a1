"""From a name, a path or a hub id to a backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from unified.contract.backbone import Backbone
from unified.contract.registry import Registry
from unified.errors import UserError
from unified.hub import fetch
from unified.zoo.registry import folder_of, resolve, zoo


@dataclass(frozen=True)
class Loader:
    """A checkpoint format. `recognises` judges by content, cheaply; `load` takes (path, id), and its settings.

    hub: file patterns to fetch of a hub repository that this loader reads; () if it does not read any.
    wanted: instead of patterns, from the names of a repository's files to those to fetch.
    settings: dataclass of what can be said about loading; None for loaders that take (path, id) alone.
    """

    name: str
    recognises: Callable[[Path], bool]
    load: Callable[..., Backbone]
    hub: tuple[str, ...] = ()
    wanted: Callable[[Sequence[str]], Sequence[str]] | None = None
    settings: type[Any] | None = None


loaders: Registry[Loader] = Registry("checkpoint format")

#: Makes backbones over objects in memory: gives None for objects that it does not know.
held: Registry[Callable[[object], Backbone | None]] = Registry("object in memory")


def load(name: str | Path | object, *, settings: Mapping[str, Any] | None = None) -> Backbone:
    """An embedded model ("avatars/stylegan2"), a checkpoint file or folder, a model id of the hub, or an object
    of another library that holds a model in memory.

    settings: how to load it, by name, for formats that have such settings: for diffusers' pipelines "dtype",
    "quantization" and "offload", such as {"dtype": "bfloat16", "offload": "cuda"}.

    The format is recognised by content. Raises UserError for what is none of these, or of no known format,
    naming those that are, and for settings that the format does not have.
    """
    if not isinstance(name, str | Path):
        if settings:
            raise UserError(
                f"settings={dict(settings)} were given for an object that is loaded already: leave them out."
            )
        return _held(name)
    text = str(name)
    if text in zoo:
        model = zoo.get(text)
        if not model.load:
            able = ", ".join(n for n, m in zoo if m.load)
            raise UserError(f"{text} is no generator but an extractor; load one of {able}.")
        folder = folder_of(text)
        backbone: Backbone = _load_path(folder, text, settings) if settings else resolve(model.load)(folder, text)
        backbone.category, backbone.rates, backbone.people = model.category, model.rates, model.people
        return backbone
    path = Path(name).expanduser()
    if path.exists():
        return _load_path(path, text, settings)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and not path.suffix:
        return _load_path(_from_hub(text), text, settings)
    raise UserError(f"There is no embedded model, file or folder {text!r}. Embedded: {', '.join(zoo.names())}.")


def _held(thing: object) -> Backbone:
    for _, adopt in held:
        backbone = adopt(thing)
        if backbone is not None:
            return backbone
    raise UserError(
        f"An object of type {type(thing).__name__} was given; give a name, a path, or a {', '.join(held.names())}."
    )


def _load_path(path: Path, id: str, settings: Mapping[str, Any] | None = None) -> Backbone:
    for _, loader in loaders:
        if loader.recognises(path):
            if not settings:
                return loader.load(path, id)
            return loader.load(path, id, _settings(loader, settings))
    known = "; ".join(name for name, _ in loaders)
    raise UserError(f"{path} is of no known checkpoint format. Known: {known}.")


def _settings(loader: Loader, settings: Mapping[str, Any]) -> Any:
    known = [] if loader.settings is None else [field.name for field in dataclasses.fields(loader.settings)]
    unknown = sorted(set(settings) - set(known))
    if loader.settings is None or unknown:
        raise UserError(
            f"Loading a {loader.name} has no setting {', '.join(unknown)}; it has {', '.join(known) or 'none'}."
        )
    return loader.settings(**settings)


def _from_hub(id: str) -> Path:
    """The folder of a hub repository: first what describes it, then what the loader that knows it reads."""
    described = fetch(id, lambda files: [name for name in files if "/" not in name and name.endswith(".json")])
    for _, loader in loaders:
        if (loader.wanted or loader.hub) and loader.recognises(described):
            return fetch(id, loader.wanted or partial(_matching, loader.hub))
    known = "; ".join(name for name, loader in loaders if loader.wanted or loader.hub)
    raise UserError(f"The hub repository {id!r} holds no checkpoint of a known format. Known: {known}.")


def _matching(patterns: Sequence[str], files: Sequence[str]) -> list[str]:
    return [name for name in files if any(fnmatch(name, pattern) for pattern in patterns)]
