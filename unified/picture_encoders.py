"""Networks that were trained to read pictures into one space of one generator (survey section 4.3.1).

The packages that hold such networks register here how they are found; spaces ask for the one of their name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.registry import Registry
from unified.errors import UserError
from unified.zoo.registry import folder_of, zoo


class PictureEncoder(Protocol):
    """fingerprint: hash of its weights; a code that it made is bound only where the same weights are."""

    @property
    def fingerprint(self) -> str: ...


#: By the name of the space: (backbone, source) -> the encoder; source "" is the one that belongs to the backbone.
picture_encoders: Registry[Callable[[Backbone, str], Any]] = Registry("picture encoder")


def encoder_of(backbone: Backbone, name: str, source: str = "") -> Any:
    """The encoder of the space `name`, read once for a backbone. Raises UserError if there is none."""
    return backbone.once(("picture encoder", name, source), lambda: picture_encoders.get(name)(backbone, source))


def embedded_folder(backbone: Backbone, name: str) -> Path | None:
    """The folder of the embedded encoder that was trained for an embedded backbone, or None for other backbones.

    Raises UserError if there is one that has not been built.
    """
    owner = backbone.id.rpartition("/")[0]
    candidate = f"{owner}/{name}"
    return folder_of(candidate) if backbone.id in zoo and candidate in zoo else None


def signed(encoder: PictureEncoder) -> dict[str, Any]:
    """What a code's meta says of the encoder that it needs."""
    return {"encoder": encoder.fingerprint}


def check_signature(code: Code, encoder: PictureEncoder, name: str) -> None:
    """Raise UserError for a code that was made with other encoder weights."""
    made = code.meta.get("encoder")
    if made != encoder.fingerprint:
        raise UserError(
            f"The concept {name!r} was inverted with an encoder of space {code.space!r} with weights {made}; here it"
            f" has weights {encoder.fingerprint}. Load the encoder that it was made with, or invert again."
        )
