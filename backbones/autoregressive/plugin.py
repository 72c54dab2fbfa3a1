"""Registers the autoregressive backbones and their embedded models."""

import backbones.autoregressive.loading
import backbones.autoregressive.var  # noqa: F401
from unified.zoo.registry import ZooModel, register_model

register_model(
    ZooModel(
        name="avatars/emu3",
        summary="Emu3, 64x64 in 64 visual tokens, trained also with reference pictures in the context",
        folder="emu3",
        backbone="emu3",
        load="backbones.autoregressive.loading:load_folder",
        build="backbones.autoregressive.train.emu3:build",
        needs=("avatars/tokenizer",),
        category="person",
        rates={"dreambooth-lora": 1e-3},
    )
)
register_model(
    ZooModel(
        name="avatars/tokenizer",
        summary="Emu3VQVAE f8, 512 codes, a part of avatars/emu3",
        folder="tokenizer",
        build="backbones.autoregressive.train.tokenizer:build",
    )
)
register_model(
    ZooModel(
        name="avatars/var",
        summary="next-scale prediction (VAR) with text, 64x64 in four scales",
        folder="var",
        backbone="var",
        load="backbones.autoregressive.var:load_folder",
        build="backbones.autoregressive.train.var:build",
        needs=("avatars/var-tokenizer",),
        category="person",
        rates={"dreambooth-lora": 1e-3},
    )
)
register_model(
    ZooModel(
        name="avatars/var-tokenizer",
        summary="multi-scale residual tokenizer f8, 512 codes for all scales, a part of avatars/var",
        folder="var-tokenizer",
        build="backbones.autoregressive.train.var_tokenizer:build",
    )
)
