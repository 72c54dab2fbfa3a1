"""The exchange formats on SDXL, both ways, and the words of models with several text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from backbones.diffusion.formats import kohya
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.parameter import LoRA
from inversion.spaces.textual import Word
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError

XL = "stable-diffusion-xl"


def loud(space: Space, family: str = XL) -> Code:
    backbone = tiny(family)
    with backbone.bound() as view:
        code = space.initial(view, pictures(backbone), rng=Random(0))
    generator = torch.Generator().manual_seed(1)
    return code.map(lambda t: t + 0.3 * torch.randn(t.shape, generator=generator))


def red(*codes: Code) -> Concept:
    return Concept(list(codes), name="red", carrier="red")


def latents() -> torch.Tensor:
    return torch.randn(1, *tiny(XL).latent_shape(), generator=torch.Generator().manual_seed(0))


def ours(concept: Concept, prompt: str = "a red hat") -> torch.Tensor:
    start = Code("start-noise", {"latents": latents()}, True, {"settings": {}, "sampling": {"steps": 2}})
    with tiny(XL).bound(concept.with_codes([*concept.codes, start])) as view:
        return view.sample(Target(prompt=prompt, n=1, sampling={"guidance": 1.0}), rng=Random(0))


def theirs(pipeline, prompt: str = "a red hat") -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt, latents=latents(), num_inference_steps=2, guidance_scale=1.0, output_type="pt", height=64, width=64
    ).images


def assert_like(one: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.allclose(one, other, atol=5e-5), float((one - other).abs().max())


def adopted(path: Path) -> Concept:
    return tiny(XL).adopt(path, name="red", carrier="red")


def text_lora(component: str) -> Code:
    encoder, tensors = tiny(XL).components[component], {}
    for name, module in encoder.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            width = module.weight.shape[0]
            tensors[f"{name}.weight.down"] = torch.randn(2, width, generator=torch.Generator().manual_seed(4))
            tensors[f"{name}.weight.up"] = torch.randn(width, 2, generator=torch.Generator().manual_seed(5))
    return Code("lora", tensors, False, {"settings": {"rank": 2}, "component": component})


def test_kohya_names_are_the_originals_and_come_back_from_diffusers_map_of_them() -> None:
    unet = tiny(XL).components["unet"]
    blocks = [path for path in kohya.modules(unet) if path.split(".")[0].endswith(("blocks", "block"))]
    names = {path: "lora_unet_" + str(kohya.original_path(path, unet)).replace(".", "_") for path in blocks}
    assert len(set(names.values())) == len(names) > 40
    back = _maybe_map_sgm_blocks_to_diffusers({name: path for path, name in names.items()}, unet.config)
    # Their map numbers the blocks; the names of the parts, and the inside of residual blocks, are left to a later step.
    inner = {"input_blocks": "down_blocks", "middle_block": "mid_block", "output_blocks": "up_blocks"}
    inner |= {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj"}
    inner |= {"skip_connection": "conv_shortcut", "0_op": "0_conv"}
    for name, path in back.items():
        for old, new in inner.items():
            name = name.replace(old, new)
        assert name == "lora_unet_" + path.replace(".", "_")
    # Of the real SDXL, as files have them: level 1 begins at input block 4.
    assert names["down_blocks.0.downsamplers.0.conv"].endswith("input_blocks_3_0_op")
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert names[attention] == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def test_kohya_files_of_sdxl_are_read_by_diffusers_and_here(tmp_path: Path) -> None:
    unet = loud(LoRA(rank=2, alpha=4.0))
    (path,) = tiny(XL).export(red(unet), tmp_path, software="kohya")
    assert all(
        name.startswith(("lora_unet_input_", "lora_unet_output_", "lora_unet_middle_")) for name in load_file(path)
    )
    plain, expected = ours(red()), ours(red(unet))
    assert not torch.allclose(plain, expected, atol=1e-3)
    assert_like(ours(adopted(path)), expected)
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline()
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    assert_like(theirs(pipeline), expected)
    # Other software names the same modules as diffusers does.
    tensors = load_file(path)
    other = {}
    for place in kohya.modules(tiny(XL).components["unet"]):
        name = kohya.name_of(tiny(XL), "unet", place)
        for part in ("lora_down.weight", "lora_up.weight", "alpha"):
            if f"{name}.{part}" in tensors:
                other[f"lora_unet_{place.replace('.', '_')}.{part}"] = tensors[f"{name}.{part}"]
    assert len(other) == len(tensors)
    save_file(other, tmp_path / "other.safetensors")
    assert_like(ours(adopted(tmp_path / "other.safetensors")), expected)


def test_kohya_files_change_both_text_encoders_of_sdxl(tmp_path: Path) -> None:
    both = red(text_lora("text_encoder"), text_lora("text_encoder_2"))
    (path,) = tiny(XL).export(both, tmp_path, software="kohya")
    begins = {name.split("_text_model_")[0] for name in load_file(path)}
    assert begins == {"lora_te1", "lora_te2"}
    assert_like(ours(adopted(path)), ours(both))
    assert not torch.allclose(ours(both), ours(red(both.codes[0])), atol=1e-4)


def test_loras_of_diffusers_and_peft_are_the_same_here(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v", "to_out.0"])
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline()
    pipeline.unet.add_adapter(config)
    found = theirs(pipeline)
    from diffusers.training_utils import _collate_lora_metadata

    layers = get_peft_model_state_dict(pipeline.unet)
    type(pipeline).save_lora_weights(
        tmp_path / "diffusers", unet_lora_layers=layers, **_collate_lora_metadata({"unet": pipeline.unet})
    )
    assert_like(ours(adopted(tmp_path / "diffusers")), found)
    torch.manual_seed(3)
    other = tiny_diffusion.stable_diffusion_xl_pipeline()
    model = get_peft_model(other.unet, config)
    found = theirs(other)
    model.save_pretrained(tmp_path / "peft")
    assert_like(ours(adopted(tmp_path / "peft")), found)


@pytest.mark.parametrize("vectors", [1, 2])
def test_words_of_both_text_encoders_are_the_same_in_diffusers(tmp_path: Path, vectors: int) -> None:
    concept = Concept([loud(Word(vectors=vectors))], name="<me>")
    (path,) = tiny(XL).export(concept, tmp_path, software="diffusers")
    rows = load_file(path)
    assert set(rows) == {"clip_l", "clip_g"}
    expected = ours(concept, "a <me> b")
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline()
    for name, ending in (("clip_l", ""), ("clip_g", "_2")):
        encoder, tokenizer = getattr(pipeline, f"text_encoder{ending}"), getattr(pipeline, f"tokenizer{ending}")
        pipeline.load_textual_inversion(rows[name], token="<me>", text_encoder=encoder, tokenizer=tokenizer)
    assert_like(theirs(pipeline, "a <me> b"), expected)
    for software in ("diffusers", "a1111"):
        (path,) = tiny(XL).export(concept, tmp_path / software, software=software)
        assert torch.equal(ours(tiny(XL).adopt(path), "a <me> b"), expected)
    save_file({"clip_l": rows["clip_l"]}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=r"for clip_l.* reads clip_l, clip_g"):
        tiny(XL).adopt(tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    ("family", "names"), [("flux", {"clip_l", "t5"}), ("stable-diffusion-3", {"clip_l", "clip_g", "t5"})]
)
def test_words_of_clip_and_t5_come_back(family: str, names: set[str], tmp_path: Path) -> None:
    code = loud(Word(), family)
    (path,) = tiny(family).export(Concept([code], name="<me>"), tmp_path, software="diffusers")
    assert set(load_file(path)) == names
    again = tiny(family).adopt(path).codes[0]
    assert again.tensors.keys() == code.tensors.keys()
    assert all(torch.equal(again.tensors[key], value) for key, value in code.tensors.items())


def test_custom_diffusion_weights_of_sdxl_come_back(tmp_path: Path) -> None:
    concept = red(loud(KeysValues()))
    (path,) = tiny(XL).export(concept, tmp_path, software="diffusers")
    assert all(name.endswith("_custom_diffusion.weight") for name in load_file(path))
    assert torch.equal(ours(adopted(path)), ours(concept))
    assert not torch.allclose(ours(concept), ours(red()), atol=1e-3)
