"""Where pipelines come from: folders, single files, memory; and quantised ones."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import unified
from backbones.diffusion.loading import PIPELINES, load_file, recognises_file
from inversion.methods.optimize import Optimize
from inversion.spaces.parameter import LoRA
from inversion.spaces.textual import Word
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures
from unified.contract.recipe import Recipe, Stage
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

MAKE = {
    "stable-diffusion": tiny_diffusion.stable_diffusion_pipeline,
    "stable-diffusion-xl": tiny_diffusion.stable_diffusion_xl_pipeline,
    "stable-diffusion-3": tiny_diffusion.stable_diffusion_3_pipeline,
    "flux": tiny_diffusion.flux_pipeline,
}


@pytest.mark.parametrize("family", MAKE)
def test_a_folder_and_a_pipeline_in_memory_are_the_same_backbone(family: str, tmp_path: Path) -> None:
    pipeline = MAKE[family]()
    held = unified.load(pipeline)
    pipeline.save_pretrained(tmp_path / "model")
    loaded = unified.load(tmp_path / "model")
    assert type(held) is type(loaded) and held.name == family
    assert held.fingerprint == loaded.fingerprint
    options = {"prompt": "a hat", "sampling": {"steps": 1}, "output": "pt"}
    # Loaded tensors may be aligned differently in memory, which changes the last bits.
    assert torch.allclose(held.generate(**options), loaded.generate(**options), atol=1e-4)


def test_other_objects_and_other_pipelines_are_refused() -> None:
    with pytest.raises(UserError, match="of type dict was given"):
        unified.load({})
    img2img = diffusers.StableDiffusionImg2ImgPipeline(
        **tiny_diffusion.stable_diffusion_pipeline().components, requires_safety_checker=False
    )
    with pytest.raises(UserError, match=r"Img2Img.*supported are"):
        unified.load(img2img)


def checkpoint(path: Path, *names: str) -> Path:
    save_file({name: torch.zeros(4) for name in names}, path)
    return path


def test_single_files_are_recognised_by_their_tensors_and_go_to_their_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def from_single_file(cls, path, **settings):
        asked.append((cls.__name__, Path(path).name, settings))
        return MAKE[PIPELINES[cls.__name__].name]()

    for name in PIPELINES:
        monkeypatch.setattr(getattr(diffusers, name), "from_single_file", classmethod(from_single_file))
    unet = "model.diffusion_model.input_blocks.0.0.bias"
    marks = {
        "stable-diffusion": (unet,),
        "stable-diffusion-xl": (unet, "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"),
        "stable-diffusion-3": ("model.diffusion_model.joint_blocks.37.x_block.mlp.fc1.weight",),
        "flux": ("double_blocks.0.img_attn.norm.key_norm.scale",),
    }
    for family, names in marks.items():
        found = unified.load(checkpoint(tmp_path / f"{family}.safetensors", *names))
        assert found.name == family
    assert [name for name, _, _ in asked] == list(PIPELINES)
    assert all(settings == {"dtype": torch.float32} for _, _, settings in asked)

    MAKE["stable-diffusion-xl"]().save_pretrained(tmp_path / "mine")
    unified.load(checkpoint(tmp_path / "mine.safetensors", unet))  # the folder beside it says what it is
    assert asked[-1][0] == "StableDiffusionXLPipeline" and asked[-1][2]["config"] == str(tmp_path / "mine")
    assert asked[-1][2]["local_files_only"] is True

    lora = checkpoint(tmp_path / "lora.safetensors", "unet.down_blocks.0.lora_A.weight")
    assert not recognises_file(lora)
    with pytest.raises(UserError, match="no known checkpoint format"):
        unified.load(lora)


def test_a_single_file_that_cannot_be_completed_says_what_to_put_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(cls, path, **settings):
        raise OSError("no network")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", classmethod(fails))
    path = checkpoint(tmp_path / "model.safetensors", "model.diffusion_model.input_blocks.0.0.bias")
    with pytest.raises(UserError, match=r"no network.*model_index\.json"):
        load_file(path, "model")
    refiner = checkpoint(
        tmp_path / "r.safetensors", "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias"
    )
    with pytest.raises(UserError, match=r"xl_refiner.*supported are"):
        load_file(refiner, "r")


class Int8Linear(nn.Linear):
    """A linear layer that keeps 8-bit integers, as quantising backends do: no float, so nothing learns."""

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8Linear:
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        found = cls(linear.in_features, linear.out_features, bias=False)
        found.weight = nn.Parameter((linear.weight / scale).round().to(torch.int8), requires_grad=False)
        found.bias = linear.bias
        found.register_buffer("scale", scale)
        return found

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.to(input.dtype) * self.scale, self.bias)


def test_on_a_quantised_base_words_learn_and_weights_are_not_touched() -> None:
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline()
    for name, module in list(pipeline.unet.named_modules()):
        if isinstance(module, nn.Linear) and ".attn" in name:
            pipeline.unet.set_submodule(name, Int8Linear.of(module))
    backbone = unified.load(pipeline)
    assert backbone.dtype == torch.float32
    before = backbone.fingerprint
    assert not [path for path in backbone.tunable()[1] if backbone.components["unet"].get_parameter(path).ndim == 0]
    assert all("attn" not in path or "bias" in path or "norm" in path for path in backbone.tunable()[1])
    plan = Recipe("t", (Stage((Word(),), Optimize(steps=2, lr=1e-2)),), "", "")
    found = invert(backbone, pictures(backbone, 2), plan, InvertSettings())
    plain = invert(backbone, pictures(backbone, 2), plan.with_overrides(lr=0.0), InvertSettings())
    for component, rows in found.codes[0].tensors.items():
        assert not torch.equal(rows, plain.codes[0].tensors[component])
    del backbone.__dict__["fingerprint"]
    assert backbone.fingerprint == before
    with pytest.raises(UserError, match="No weight of the generator"):
        invert(
            backbone,
            pictures(backbone, 2),
            Recipe("t", (Stage((LoRA(),), Optimize(steps=1)),), "", ""),
            InvertSettings(),
        )
