"""Concepts exchanged with diffusers and others: the same picture there and here, and refusals instead of no-ops."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from backbones.diffusion.flux import Flux, pack
from backbones.diffusion.stable_diffusion import StableDiffusion
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.parameter import LoRA
from inversion.spaces.textual import Word
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.target import Target
from unified.errors import UserError

SD = "stable-diffusion"
GENERATOR = torch.Generator


def start(family: str, space) -> Code:
    backbone = tiny(family)
    with backbone.bound() as view:
        return space.initial(view, pictures(backbone), rng=Random(0))


def loud(code: Code, size: float = 0.3) -> Code:
    generator = GENERATOR().manual_seed(1)
    return code.map(lambda t: t + size * torch.randn(t.shape, generator=generator, dtype=t.dtype))


def noise(backbone) -> Code:
    latents = torch.randn(1, *backbone.latent_shape(), generator=GENERATOR().manual_seed(0))
    return Code("start-noise", {"latents": latents}, True, {"settings": {}, "sampling": {"steps": 4}})


def ours(family: str, concept: Concept, prompt: str, guidance: float = 3.0) -> torch.Tensor:
    backbone = tiny(family)
    started = concept.with_codes([*concept.codes, noise(backbone)])
    with backbone.bound(started) as view:
        return view.sample(Target(prompt=prompt, n=1, sampling={"guidance": guidance}), rng=Random(0))


def theirs(pipeline, prompt: str, guidance: float = 3.0) -> torch.Tensor:
    """The plain diffusers pipeline from the same start noise."""
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "unet"):
        latents = noise(tiny(SD)).tensors["latents"]
        return pipeline(
            prompt, latents=latents, num_inference_steps=4, guidance_scale=guidance, output_type="pt"
        ).images
    latents = pack(noise(tiny("flux")).tensors["latents"])
    return pipeline(
        prompt, latents=latents, num_inference_steps=4, height=8, width=8, max_sequence_length=48, output_type="pt"
    ).images


def assert_like(one: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.allclose(one, other, atol=5e-5), float((one - other).abs().max())


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_word_trained_here_is_the_same_in_diffusers(tmp_path, vectors: int) -> None:
    concept = Concept([loud(start(SD, Word(vectors=vectors)))], name="<me>")
    (path,) = tiny(SD).export(concept, tmp_path, software="diffusers")
    pipeline = tiny_diffusion.stable_diffusion_pipeline()
    plain = theirs(pipeline, "a <me>")
    pipeline.load_textual_inversion(str(path), token="<me>")
    found = theirs(pipeline, "a <me>")
    assert_like(found, ours(SD, concept, "a <me>"))
    assert not torch.allclose(plain, found, atol=1e-3)


def test_a_word_of_diffusers_or_a1111_is_the_same_here(tmp_path) -> None:
    concept = Concept([loud(start(SD, Word(vectors=2)))], name="<me>")
    rows = concept.codes[0].tensors["text_encoder"]
    expected = ours(SD, concept, "a <me> b")
    files = [
        *tiny(SD).export(concept, tmp_path / "d", software="diffusers"),
        *tiny(SD).export(concept, tmp_path / "a", software="a1111"),
        tmp_path / "bare.safetensors",
        tmp_path / "old.bin",
    ]
    save_file({"emb_params": rows}, files[2])
    torch.save({"<other>": rows}, files[3])
    for path in files:
        assert torch.equal(ours(SD, tiny(SD).adopt(path), "a <me> b"), expected)
    save_file({"<x>": torch.zeros(1, 768)}, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"width 768.* has 8"):
        tiny(SD).adopt(tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"for clip_l.* reads clip_l, t5"):
        tiny("flux").adopt(files[2])


@pytest.mark.parametrize("family", [SD, "flux"])
@pytest.mark.parametrize("alpha", [None, 5.0])
def test_a_lora_trained_here_is_the_same_in_diffusers(family: str, alpha: float | None, tmp_path) -> None:
    code = loud(start(family, LoRA(rank=2, alpha=alpha)))
    if family == SD:  # also convolutions
        weight = tiny(SD).components["unet"].get_submodule("conv_in").weight
        code.tensors["conv_in.weight.down"] = (
            torch.randn(2, weight[0].numel(), generator=GENERATOR().manual_seed(2)) / 5
        )
        code.tensors["conv_in.weight.up"] = torch.randn(len(weight), 2, generator=GENERATOR().manual_seed(3)) / 5
    concept = Concept([code], name="red", carrier="red")
    (path,) = tiny(family).export(concept, tmp_path, software="diffusers")
    pipeline = tiny_diffusion.stable_diffusion_pipeline() if family == SD else tiny_diffusion.flux_pipeline()
    plain = theirs(pipeline, "a red hat", 1.0)
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    found = theirs(pipeline, "a red hat", 1.0)
    assert_like(found, ours(family, concept, "a red hat", 1.0))
    assert not torch.allclose(plain, found, atol=1e-3)
    assert_like(ours(family, tiny(family).adopt(path, name="red", carrier="red"), "a red hat", 1.0), found)


@pytest.mark.parametrize("family", [SD, "flux"])
def test_a_lora_of_diffusers_is_the_same_here(family: str, tmp_path) -> None:
    """Trained with peft and saved by the pipeline, alpha not the rank: in the metadata of the file."""
    pipeline = tiny_diffusion.stable_diffusion_pipeline() if family == SD else tiny_diffusion.flux_pipeline()
    network = pipeline.unet if family == SD else pipeline.transformer
    torch.manual_seed(3)
    network.add_adapter(
        LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v", "to_out.0"])
    )
    found = theirs(pipeline, "a red hat", 1.0)
    from diffusers.training_utils import _collate_lora_metadata

    key = "unet" if family == SD else "transformer"
    layers = {f"{key}_lora_layers": get_peft_model_state_dict(network)}
    type(pipeline).save_lora_weights(tmp_path, **layers, **_collate_lora_metadata({key: network}))
    concept = tiny(family).adopt(tmp_path, name="red", carrier="red")
    assert_like(ours(family, concept, "a red hat", 1.0), found)


def test_kohya_files_are_read_by_diffusers_and_here(tmp_path) -> None:
    unet = loud(start(SD, LoRA(rank=2, alpha=4.0)))
    encoder = tiny(SD).components["text_encoder"]
    text = {}
    for name, _ in encoder.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            text[f"{name}.weight.down"] = torch.randn(2, 8, generator=GENERATOR().manual_seed(4))
            text[f"{name}.weight.up"] = torch.randn(8, 2, generator=GENERATOR().manual_seed(5))
    both = [unet, Code("lora", text, False, {"settings": {"rank": 2}, "component": "text_encoder"})]
    for codes in ([unet], both):
        concept = Concept(codes, name="red", carrier="red")
        (path,) = tiny(SD).export(concept, tmp_path, software="kohya")
        assert_like(
            ours(SD, tiny(SD).adopt(path, name="red", carrier="red"), "a red hat"), ours(SD, concept, "a red hat")
        )
    pipeline = tiny_diffusion.stable_diffusion_pipeline()
    (path,) = tiny(SD).export(Concept([unet], name="red"), tmp_path, software="kohya")
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    assert_like(theirs(pipeline, "a red hat"), ours(SD, Concept([unet], name="red", carrier="red"), "a red hat"))
    # alpha in the file counts: the lower half of it is half of the change.
    tensors = {k: v / 2 if k.endswith(".alpha") else v for k, v in load_file(path).items()}
    save_file(tensors, path)
    halved = Concept([unet], name="red", carrier="red").scaled(0.5)
    assert_like(ours(SD, tiny(SD).adopt(path, name="red", carrier="red"), "a red hat"), ours(SD, halved, "a red hat"))
    with pytest.raises(UserError, match="'diffusers' instead"):
        tiny("flux").export(Concept([start("flux", LoRA(rank=2))]), tmp_path, software="kohya")


def test_a_peft_folder_is_read_with_its_alpha(tmp_path) -> None:
    from peft import get_peft_model

    torch.manual_seed(3)
    pipeline = tiny_diffusion.stable_diffusion_pipeline()
    model = get_peft_model(
        pipeline.unet, LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=["to_k"])
    )
    found = theirs(pipeline, "a red hat")
    model.save_pretrained(tmp_path)
    assert_like(ours(SD, tiny(SD).adopt(tmp_path, name="red", carrier="red"), "a red hat"), found)


def test_weights_that_would_be_loaded_in_part_are_refused_unless_asked(tmp_path) -> None:
    concept = Concept([loud(start(SD, LoRA(rank=2)))], name="red", carrier="red")
    (path,) = tiny(SD).export(concept, tmp_path, software="diffusers")
    tensors = load_file(path)
    tensors["unet.another.to_q.lora_A.weight"] = torch.zeros(2, 8)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"unet\.another\.to_q.*partial=True"):
        tiny(SD).adopt(path)
    some = tiny(SD).adopt(path, name="red", carrier="red", partial=True)
    assert_like(ours(SD, some, "a red hat"), ours(SD, concept, "a red hat"))
    with pytest.raises(UserError, match="another architecture"):
        tiny("flux").adopt(path)
    with pytest.raises(UserError, match="fits"):
        tiny("flux").adopt(path, partial=True)
    save_file({k: torch.zeros(3, 5) for k in tensors}, path)  # other widths
    with pytest.raises(UserError, match="no place"):
        tiny(SD).adopt(path)


def test_custom_diffusion_weights_come_back_where_diffusers_own_loader_does_nothing(tmp_path) -> None:
    concept = Concept([loud(start(SD, KeysValues()))], name="red", carrier="red")
    (path,) = tiny(SD).export(concept, tmp_path, software="diffusers")
    expected = ours(SD, concept, "a red hat")
    assert torch.equal(ours(SD, tiny(SD).adopt(path, name="red", carrier="red"), "a red hat"), expected)
    pipeline = tiny_diffusion.stable_diffusion_pipeline()
    plain = theirs(pipeline, "a red hat")
    pipeline.unet.load_attn_procs(str(tmp_path), weight_name=path.name)
    assert torch.equal(theirs(pipeline, "a red hat"), plain)  # once this fails, their loader works again
    assert not torch.allclose(expected, ours(SD, Concept([], name="red", carrier="red"), "a red hat"), atol=1e-3)


def test_files_are_never_executed_and_unknown_ones_refused(tmp_path) -> None:
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"a": Trap()}, tmp_path / "trap.bin")
    with pytest.raises(UserError, match=r"not loaded|could not be read"):
        tiny(SD).adopt(tmp_path / "trap.bin")
    assert not (tmp_path / "sprung").exists()
    save_file({"x.y": torch.zeros(2), "z": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="no known concept format"):
        tiny(SD).adopt(tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="no file"):
        tiny(SD).adopt(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="concept file"):
        tiny(SD).export(Concept([noise(tiny(SD))]), tmp_path, software="diffusers")


def test_backbones_of_the_pipelines_are_the_tiny_ones() -> None:
    """The comparisons above are of equal weights."""
    for pipeline, cls, family in (
        (tiny_diffusion.stable_diffusion_pipeline(), StableDiffusion, SD),
        (tiny_diffusion.flux_pipeline(), Flux, "flux"),
    ):
        assert cls("x", pipeline).fingerprint == tiny(family).fingerprint
