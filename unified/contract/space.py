"""Where a concept lives in a backbone and how it is put into it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.registry import Registry
from unified.errors import UserError

if TYPE_CHECKING:
    from unified.contract.view import View


@dataclasses.dataclass(frozen=True)
class Space(ABC):
    """A space; subclasses are frozen dataclasses whose fields are its settings (rank, layers, ...).

    The settings travel in the codes' meta, so that a saved concept is bound as it was inverted.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    clash: ClassVar[Clash]
    needs: ClassVar[tuple[type, ...]]  # protocols the backbone must have
    per_picture: ClassVar[bool] = False
    gives_back: ClassVar[bool] = True  # a code per picture leads to that picture; not if the model is only shown it
    learns_from: ClassVar[frozenset[Evidence]] = frozenset(Evidence)  # evidence whose gradient reaches the code
    encodes: ClassVar[bool] = False  # `initial` depends on the pictures: it is an inversion by itself

    @abstractmethod
    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        """The code that optimisation starts from: effective values, never empty."""

    @abstractmethod
    def bind(self, view: View, code: Code, name: str) -> None:
        """Put `code` into `view` under the concept's `name`. Structure only: values are read late."""

    def prior(self, view: View, code: Code) -> Tensor:
        """A penalty on the code, [pictures] or [1]; zero unless the space has one."""
        first = next(iter(code.tensors.values()))
        return torch.zeros(code.pictures or 1, dtype=first.dtype)

    def project(self, code: Code, *, rng: Random, keys: Sequence[int]) -> None:
        """Put the code back into the space after an optimiser step (in place); nothing by default.

        keys: the random streams of the reference's pictures.
        """

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        """The tensors to try at this step (`progress` in 0..1): the code's own unless the space adds noise.

        keys: the random streams of the reference's pictures.
        """
        return code.tensors

    def measure(self, view: View, code: Code, reference: Reference) -> Mapping[str, list[float]]:
        """How far what the view gives back is from the reference, by unit, one value a picture.

        Called once an inversion is done, with all codes bound; empty for spaces that do not promise the
        pictures back.
        """
        return {}

    def settings(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {f.name: _json(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def code(self, tensors: Mapping[str, Tensor], **meta: Any) -> Code:
        """A code of this space, with its settings in the meta."""
        return Code(self.name, dict(tensors), self.per_picture, {"settings": self.settings(), **meta})


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


spaces: Registry[type[Space]] = Registry("space")


def space_of(code: Code) -> Space:
    """The space a code belongs to, with the settings it was made with.

    Raises UserError for an unknown space or settings this version does not know.
    """
    cls = spaces.get(code.space)
    known = {f.name for f in dataclasses.fields(cls)}
    given = code.meta.get("settings", {})
    unknown = sorted(set(given) - known)
    if unknown:
        raise UserError(
            f"A code of space {code.space!r} has the settings {', '.join(unknown)}, which this version does not"
            f" know (it knows {', '.join(sorted(known)) or 'none'}). Upgrade unified, or invert again."
        )
    return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})


def parse_spaces(text: str) -> tuple[Space, ...]:
    """'word & kv' -> the two spaces with default settings."""
    names = [part.strip() for part in text.split("&")]
    if not all(names):
        raise UserError(f"{text!r} is no list of spaces; write names joined by '&', such as 'word & lora'.")
    return tuple(spaces.get(name)() for name in names)
