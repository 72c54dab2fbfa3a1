"""Which encoder belongs to a generator: that of its own file, of another file, or an embedded one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backbones.stylegan.backbone import StyleGAN
from backbones.stylegan.encoders.inverter import Inverter
from backbones.stylegan.encoders.stored import load_inverter
from backbones.stylegan.formats.encoder_networks import load_inverter_file
from backbones.stylegan.formats.recognition import format_of
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.picture_encoders import embedded_folder, picture_encoders


def finder(name: str) -> Callable[[Backbone, str], Inverter]:
    """The function that gives the encoder `name` of a generator; see :data:`unified.picture_encoders`."""

    def find(backbone: Backbone, source: str) -> Inverter:
        if not isinstance(backbone, StyleGAN):
            raise UserError(f"The encoder {name!r} is one into StyleGAN; {backbone.id} is none.")
        found, inverter, where = _read(backbone, name, source)
        if found != name:
            raise UserError(f"{where} holds the encoder {found!r}, not {name!r}: use the recipe {found!r}.")
        _check(backbone, inverter, where, name)
        return inverter

    return find


def _read(backbone: StyleGAN, name: str, source: str) -> tuple[str, Inverter, str]:
    """(what it is, the encoder, where it was found)."""
    if source:
        path = Path(source).expanduser()
        return *(load_inverter(path) if path.is_dir() else load_inverter_file(path)), source
    folder = embedded_folder(backbone, f"encoder-{name}")
    if folder is not None:
        return *load_inverter(folder), f"avatars/encoder-{name}"
    own = Path(backbone.id).expanduser()
    if format_of(own) == "encoder .pt":
        return *load_inverter_file(own), backbone.id
    raise UserError(
        f"{backbone.id} comes with no encoder {name!r}: load a published checkpoint that holds the generator and its"
        f" encoder (a .pt of {name}), name such a file as the method's `weights`, or use avatars/stylegan2, whose"
        f" encoder `unified zoo build avatars/encoder-{name}` trains."
    )


def _check(backbone: StyleGAN, inverter: Inverter, where: str, name: str) -> None:
    shape = tuple(inverter.latent_avg.shape)
    if shape != backbone.style_shape():
        raise UserError(
            f"The encoder of {where} gives {shape[0]} style vectors of width {shape[1]}; {backbone.id} takes"
            f" {backbone.style_shape()[0]} of {backbone.style_shape()[1]}: use an encoder that was trained for it."
        )
    if inverter.generator and inverter.generator != backbone.fingerprint:
        raise UserError(
            f"The encoder of {where} was trained for a generator with the weights {inverter.generator}; {backbone.id}"
            f" has {backbone.fingerprint}: train it again with `unified zoo build avatars/encoder-{name}`."
        )


#: Every encoder there is, with what it is in one line.
ENCODERS = {
    "psp": "pSp: pictures to W+ in one pass",
    "e4e": "e4e: pictures to W+ that stays close to W, for editing",
    "restyle-psp": "ReStyle over pSp: to W+ in several rounds",
    "restyle-e4e": "ReStyle over e4e: to W+ in several rounds, for editing",
    "styletransformer": "StyleTransformer: pictures to W+ by queries that look at features",
    "hyperstyle": "HyperStyle: a picture to W, and to changes of the generator's weights",
    "hfgi": "HFGI: e4e, and what its picture misses through the generator's features",
}

#: Embedded models that are built into another one.
NEEDS = {"hfgi": ("avatars/encoder-e4e",)}

for _name in ENCODERS:
    picture_encoders.register(_name, finder(_name))
