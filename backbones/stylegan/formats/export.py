"""A concept as a generator of its own: tuned weights and noise maps written in, for tools that know checkpoints."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.stylegan.backbone import StyleGAN, StyleGAN2, stylegan
from backbones.stylegan.formats.rosinality import save_rosinality
from backbones.stylegan.generator import Generator
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.shadow import pristine_tensor
from unified.contract.space import spaces
from unified.errors import UserError
from unified.exporting import Exporter, exporters
from unified.files import write_file

_NO_PLACE = {"features": "feature maps", "channels": "single style channels"}


def tuned(backbone: StyleGAN, concept: Concept, *, picture: int = 0) -> tuple[Generator, Tensor | None]:
    """(a generator with the concept's weights, and noise maps of this picture; its styles [1, num_ws, w_dim] or None).

    The generator renders the styles as the concept does, bit for bit. Raises UserError for codes that are neither
    styles, noise nor weights.
    """
    with torch.no_grad(), backbone.bound(concept) as view:
        for key, what in _NO_PLACE.items():
            if key in view.slots:
                raise UserError(
                    f"The concept {concept.name} holds {what}, for which a generator's checkpoint has no place: invert"
                    " in style vectors and weights, such as with the recipe 'pti'."
                )
        network = view.component("generator")
        values = {name: pristine_tensor(network, name) for name in backbone.generator.state_dict()}
        if "noise" in view.slots:
            for name, value in view.slots["noise"].rows([picture]).items():
                values[f"synthesis.{name}.noise_const"] = value[0]
        styles: Tensor | None = None
        if "styles" in view.slots:
            styles = view.slots["styles"].rows([picture]).detach().clone().contiguous()
        generator = copy.deepcopy(backbone.generator)
        generator.load_state_dict(values)
    return generator, styles


def _write(backbone: Backbone, concept: Concept, path: Path, picture: int) -> list[Path]:
    """The generator as rosinality's .pt; beside it the styles, if any: as `w` [1, num_ws, w_dim] in an .npz, as the
    official projector writes them, and as a concept of the new generator."""
    assert isinstance(backbone, StyleGAN)
    generator, styles = tuned(backbone, concept, picture=picture)
    save_rosinality(path, generator, backbone._discriminator)
    if styles is None:
        return [path]
    buffer = io.BytesIO()
    np.savez(buffer, w=styles.float().cpu().numpy())
    exported = stylegan(str(path), generator)
    code = spaces.get("w+")().code({"w": styles})
    moved = Concept([code], concept.name, concept.carrier, concept.category, exported.id, exported.fingerprint)
    return [path, write_file(path.with_suffix(".npz"), buffer.getvalue()), moved.save(path.with_suffix(".safetensors"))]


exporters.register(
    "rosinality .pt", Exporter(suffix=".pt", takes=lambda backbone: isinstance(backbone, StyleGAN2), write=_write)
)
