"""Registers the diffusion and flow backbones and their embedded models."""

import backbones.diffusion.clip
import backbones.diffusion.e4t
import backbones.diffusion.elite
import backbones.diffusion.formats.custom_diffusion
import backbones.diffusion.formats.lora
import backbones.diffusion.formats.words
import backbones.diffusion.ip_adapter
import backbones.diffusion.loading  # noqa: F401
from unified.avatars.attributes import HAIR_COLOURS
from unified.zoo.registry import ZooModel, register_model

# Its text encoder has read captions of avatars alone: "red afro" is the nearest there is to a first and a last name.
_HAIR = [
    "afro",
    "bob",
    "braids",
    "bun",
    "cornrows",
    "dreadlocks",
    "mohawk",
    "mullet",
    "pigtails",
    "pixie",
    "pompadour",
    "ponytail",
    "quiff",
    "undercut",
]
_PEOPLE = tuple(f"{colour} {hair}" for colour in HAIR_COLOURS if colour != "none" for hair in _HAIR)

register_model(
    ZooModel(
        name="avatars/stable-diffusion",
        summary="StableDiffusionPipeline, 64x64: KL autoencoder f4, UNet, CLIP text encoder",
        folder="stable-diffusion",
        backbone="stable-diffusion",
        load="backbones.diffusion.loading:load_folder",
        build="backbones.diffusion.train.unet:build",
        needs=("avatars/clip", "avatars/autoencoder"),
        category="person",
        rates={
            "dreambooth": 1e-4,
            "dreambooth-lora": 1e-3,
            "break-a-scene": (5e-4, 1e-4),
            "cones2": 5e-4,
            "catversion": 1e-2,
        },
        people=_PEOPLE,
    )
)
register_model(
    ZooModel(
        name="avatars/flux",
        summary="FluxPipeline, 64x64: the same autoencoder, a rectified flow, T5 and CLIP text encoders",
        folder="flux",
        backbone="flux",
        load="backbones.diffusion.loading:load_folder",
        build="backbones.diffusion.train.flux:build",
        needs=("avatars/clip", "avatars/autoencoder", "avatars/stable-diffusion"),
        category="person",
    )
)
register_model(
    ZooModel(
        name="avatars/clip",
        summary="CLIPModel trained contrastively on pictures and captions: CLIP-I, CLIP-T, text-driven edits",
        folder="clip",
        build="backbones.diffusion.train.clip:build",
    )
)
register_model(
    ZooModel(
        name="avatars/autoencoder",
        summary="AutoencoderKL f4 (4x16x16), a part of avatars/stable-diffusion and avatars/flux",
        folder="autoencoder",
        build="backbones.diffusion.train.autoencoder:build",
    )
)
register_model(
    ZooModel(
        name="avatars/ip-adapter",
        summary="IP-Adapter (plus) of avatars/stable-diffusion: pictures of a person as a second prompt",
        folder="ip-adapter",
        build="backbones.diffusion.train.ip_adapter:build",
        needs=("avatars/clip", "avatars/stable-diffusion"),
    )
)
register_model(
    ZooModel(
        name="avatars/elite",
        summary="ELITE of avatars/stable-diffusion: a picture of a person to a word and patch features",
        folder="elite",
        build="backbones.diffusion.train.elite:build",
        needs=("avatars/clip", "avatars/stable-diffusion"),
    )
)
register_model(
    ZooModel(
        name="avatars/e4t",
        summary="E4T of avatars/stable-diffusion: a picture of a person to a word near its class, and weight offsets",
        folder="e4t",
        build="backbones.diffusion.train.e4t:build",
        needs=("avatars/clip", "avatars/stable-diffusion"),
    )
)
