"""What goes on inside a synthesis network, read and replaced from outside: modulations and feature maps.

Everything works by forward hooks on submodules, so the network need not know, and the paths of its weights stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from backbones.stylegan.anatomy import Place

Change = Callable[[Any], Any]
Changes = dict[str, list[Change]]


@contextmanager
def changed(network: nn.Module, changes: Mapping[str, Sequence[Change]]) -> Iterator[None]:
    """While open, what each submodule named gives passes through its changes. The network must be private."""
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, change=change: change(output)
        )
        for path, each in changes.items()
        for change in each
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_changes(channels: Mapping[str, Tensor]) -> Changes:
    """Modulations [N, channels] by layer -> what sets them."""
    return {f"{name}.affine": [_setter(value)] for name, value in channels.items()}


def _setter(value: Tensor) -> Change:
    return lambda output: value.to(output.dtype)


def feature_changes(places: Mapping[str, Place], features: Mapping[str, Tensor]) -> Changes:
    """What applies the view's features, named '<place>/<part>' as `Featured` says."""
    changes: Changes = {}
    for name in dict.fromkeys(key.rpartition("/")[0] for key in features):
        parts = {part: features[f"{name}/{part}"] for part in _PARTS if f"{name}/{part}" in features}
        place = places[name]
        changes.setdefault(name, []).append(_on_features(parts))
        if "replace" in parts and place.coarser is not None:
            changes.setdefault(place.coarser, []).append(_without_picture(parts.get("weight")))
    return changes


_PARTS = ("set", "replace", "scale", "shift", "weight")


def _on_features(parts: Mapping[str, Tensor]) -> Change:
    def change(output: Any) -> Any:
        features, *rest = output if isinstance(output, tuple) else (output,)
        value = parts.get("set", parts.get("replace"))
        if value is not None:
            value = value.to(features.dtype)
            features = value if "weight" not in parts else features.lerp(value, _wide(parts["weight"], features))
        if "scale" in parts:
            features = features * (1 + parts["scale"].to(features.dtype))
        if "shift" in parts:
            features = features + parts["shift"].to(features.dtype)
        return (features, *rest) if isinstance(output, tuple) else features

    return change


def _without_picture(weight: Tensor | None) -> Change:
    """(features, picture) -> the same with the picture faded out by `weight`, by default entirely."""

    def change(output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        features, picture = output
        if picture is None:
            return output
        return features, torch.zeros_like(picture) if weight is None else picture * (1 - _wide(weight, picture))

    return change


def _wide(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.dtype)[:, None, None, None]


def recorders(places: Mapping[str, Place], found: dict[str, Tensor]) -> Changes:
    """What leaves everything as it is and puts the features into `found`."""

    def recorder(name: str) -> Change:
        def record(output: Any) -> Any:
            found[name] = output[0] if isinstance(output, tuple) else output
            return output

        return record

    return {name: [recorder(name)] for name in places}


def merged(*several: Changes) -> Changes:
    """All changes, those of later arguments after those of earlier ones."""
    changes: Changes = {}
    for each in several:
        for path, more in each.items():
            changes[path] = [*changes.get(path, []), *more]
    return changes
