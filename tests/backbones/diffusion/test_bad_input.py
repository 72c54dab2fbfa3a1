"""What does not fit is refused in one sentence: adapters, prompts, schedulers, precisions, sizes, hub models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

import unified
from backbones.diffusion.hub import wanted
from inversion.spaces.parameter import LoRA
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.kinds import Evidence
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.errors import UserError

SD = "stable-diffusion"
FAMILIES = (SD, "stable-diffusion-xl", "stable-diffusion-3", "flux")


# --- adapters ---------------------------------------------------------------------------------------------


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    with tiny(SD).bound() as view:
        code = LoRA(rank=2).initial(view, pictures(tiny(SD)), rng=Random(0))
    (path,) = tiny(SD).export(Concept([code], name="red"), tmp_path, software="diffusers")
    return path


def test_a_lora_of_another_architecture_is_refused(lora: Path) -> None:
    for family in FAMILIES[1:]:
        with pytest.raises(UserError, match=r"unet\..*another architecture"):
            tiny(family).adopt(lora)


def test_a_lora_whose_ranks_disagree_is_refused_by_name(lora: Path) -> None:
    tensors = load_file(lora)
    name = next(name for name in tensors if name.endswith("to_q.lora_A.weight"))
    tensors[name] = torch.cat([tensors[name]] * 2)
    save_file(tensors, lora)
    with pytest.raises(UserError, match=rf"{name.removesuffix('.lora_A.weight')}\W"):
        tiny(SD).adopt(lora)


def test_half_a_pair_is_refused_by_name(lora: Path) -> None:
    tensors = load_file(lora)
    name = next(name for name in tensors if name.endswith("to_q.lora_B.weight"))
    del tensors[name]
    save_file(tensors, lora)
    with pytest.raises(UserError, match=rf"{name.removesuffix('.lora_B.weight')}.*partial=True"):
        tiny(SD).adopt(lora)
    assert len(tiny(SD).adopt(lora, partial=True).codes[0].tensors) == len(tensors) - 1


@pytest.mark.parametrize(
    "ending", ["hada_w1_a", "lokr_w1", "dora_scale", "lora_down.weight.absmax", "lora_A.default.weight", "diff"]
)
def test_adapters_of_another_kind_or_naming_are_refused_by_name(ending: str, tmp_path: Path) -> None:
    name = f"lora_unet_mid_block_attentions_0_proj_in.{ending}"
    save_file({name: torch.zeros(2, 2), f"{name}.b": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"{name}.*(architecture or naming|known concept format)"):
        tiny(SD).adopt(tmp_path / "a.safetensors")


# --- prompts, sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(family: str) -> None:
    with pytest.raises(UserError, match=r"takes \d+ tokens; the text encoder takes \d+"):
        tiny(family).generate(prompt="hat " * 80, sampling={"steps": 1})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_size_that_the_autoencoder_does_not_divide_is_refused(family: str) -> None:
    backbone = tiny(family)
    step, side = backbone.size_step, backbone.resolution
    assert step > 1
    images = torch.rand(1, 3, side, side + 1)
    with backbone.bound() as view:
        with pytest.raises(UserError, match=rf"{side + 1}x{side}.*multiples of {step}.*to {side}x{side}\.$"):
            view.attempt(Reference(images), rng=Random(0), prompts=["a"], evidence=Evidence.LIKELIHOOD)
        view.attempt(Reference(images[..., :-1]), rng=Random(0), prompts=["a"], evidence=Evidence.LIKELIHOOD)


# --- schedulers, precisions -------------------------------------------------------------------------------


def test_schedulers_that_cannot_invert_are_refused_with_those_that_can() -> None:
    pipeline = tiny_diffusion.stable_diffusion_pipeline()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UserError, match=r"a FlowMatchEulerDiscreteScheduler.*such as DDIMScheduler"):
        unified.load(pipeline)
    pipeline.scheduler = DPMSolverMultistepScheduler()
    assert unified.load(pipeline).name == SD
    for make in (tiny_diffusion.flux_pipeline, tiny_diffusion.stable_diffusion_3_pipeline):
        pipeline = make()
        pipeline.scheduler = FlowMatchHeunDiscreteScheduler()
        with pytest.raises(UserError, match=r"a FlowMatchHeun.*give the pipeline a FlowMatchEuler"):
            unified.load(pipeline)


def test_half_precision_on_the_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unet.* is in float16 and on the CPU.*pipeline\.to\(torch\.float32\)"):
        unified.load(tiny_diffusion.stable_diffusion_pipeline(dtype=torch.float16))
    path = saved(tmp_path)
    with pytest.raises(UserError, match=r"float16.*choose one of float32, bfloat16"):
        unified.load(path, settings={"dtype": "float16"})
    backbone = unified.load(path, settings={"dtype": "bfloat16"})
    assert backbone.dtype == torch.bfloat16
    assert backbone.generate(prompt="a", sampling={"steps": 1}, output="pt").isfinite().all()


def test_guidance_is_not_put_on_top_of_distilled_guidance() -> None:
    assert tiny("flux").sampling.guidance > 1
    pipeline = tiny_diffusion.flux_pipeline()
    pipeline.transformer.register_to_config(guidance_embeds=True)
    assert unified.load(pipeline).sampling.guidance == 1


# --- settings of loading ----------------------------------------------------------------------------------


def saved(folder: Path) -> Path:
    tiny_diffusion.stable_diffusion_pipeline().save_pretrained(folder / "model")
    return folder / "model"


def test_settings_that_a_format_does_not_have_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(UserError, match=r"no setting device; it has dtype, quantization, offload"):
        unified.load(path, settings={"device": "cuda"})
    with pytest.raises(UserError, match=r"loaded already"):
        unified.load(tiny_diffusion.stable_diffusion_pipeline(), settings={"dtype": "bfloat16"})
    for given, message in (
        ({"offload": "nowhere"}, "give a device"),
        ({"quantization": 4}, "PipelineQuantizationConfig or a mapping"),
        ({"quantization": {"quant_backend": "magic", "quant_kwargs": {"a": 1}}}, "magic"),
        ({"quantization": {"bits": 4}}, "not taken by diffusers"),
        ({"quantization": object(), "offload": "cpu"}, "give one"),
    ):
        with pytest.raises(UserError, match=message):
            unified.load(path, settings=given)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no such device"):
            unified.load(path, settings={"offload": "cuda"})


# --- the model hub ----------------------------------------------------------------------------------------

REPOSITORY = [
    ".gitattributes", "README.md", "model_index.json", "v1-5-pruned.safetensors", "flux1-dev.safetensors",
    "feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin", "text_encoder_2/config.json",
    "text_encoder_2/model-00001-of-00002.safetensors", "text_encoder_2/model-00002-of-00002.safetensors",
    "text_encoder_2/model.safetensors.index.json", "text_encoder_2/model.safetensors.index.fp16.json",
    "tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer_2/spiece.model", "tokenizer_2/tokenizer.json",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/model.onnx", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors", "vae_encoder/model.safetensors",
]  # fmt: skip


def test_only_what_the_pipeline_needs_is_fetched() -> None:
    assert wanted(REPOSITORY) == [
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.safetensors", "text_encoder_2/config.json",
        "text_encoder_2/model-00001-of-00002.safetensors", "text_encoder_2/model-00002-of-00002.safetensors",
        "text_encoder_2/model.safetensors.index.json", "tokenizer/merges.txt", "tokenizer/vocab.json",
        "tokenizer_2/spiece.model", "tokenizer_2/tokenizer.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"no \.safetensors weights of unet"):
        wanted([name for name in REPOSITORY if name != "unet/diffusion_pytorch_model.safetensors"])


def on_the_hub(monkeypatch: pytest.MonkeyPatch, answer: Any, cached: Path | None = None) -> list[dict[str, Any]]:
    """Let the hub's client give (or raise) `answer` for the list of files; returns the calls that fetch."""
    calls: list[dict[str, Any]] = []

    def files(self: Any, id: str) -> list[str]:
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def snapshot(id: str, **options: Any) -> str:
        calls.append(options)
        if cached is None:
            raise OSError("nothing here")
        return str(cached)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return calls


def test_a_hub_model_is_fetched_in_parts_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = saved(tmp_path)
    files = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
    calls = on_the_hub(monkeypatch, [*files, "whole.safetensors", "unet/diffusion_pytorch_model.bin"], path)
    assert unified.load("someone/model").id == "someone/model"
    described, fetched = calls
    assert described["allow_patterns"] == ["model_index.json"]
    assert sorted(fetched["allow_patterns"]) == sorted(files)
    # Without network, what is here already.
    calls = on_the_hub(monkeypatch, OfflineModeIsEnabled("offline"), path)
    assert unified.load("someone/model").fingerprint == tiny(SD).fingerprint
    assert calls == [{"local_files_only": True}] * 2


def test_a_repository_of_another_kind_is_refused_before_its_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    calls = on_the_hub(monkeypatch, ["config.json", "model.safetensors"], tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint of a known format. Known: .*diffusers folder"):
        unified.load("someone/model")
    assert [call["allow_patterns"] for call in calls] == [["config.json"]]


def refused(kind: type[Exception]) -> Exception:
    import httpx

    response = httpx.Response(403, request=httpx.Request("GET", "https://example.org"))
    return kind("no", response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refused(GatedRepoError), r"'someone/model' is gated: accept its licence.*hf auth login"),
        (refused(RepositoryNotFoundError), r"'someone/model' is no embedded model.*no such model, or it is private"),
        (OfflineModeIsEnabled("offline mode is on"), r"could not be reached \(offline mode is on\): check the network"),
        (ConnectionError("name not resolved"), r"could not be reached \(name not resolved\): check the network"),
        (["README.md", "weights.bin"], r"'someone/model' holds no checkpoint of a known format"),
    ],
)
def test_hub_models_that_cannot_be_had_are_told_apart(
    answer: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_hub(monkeypatch, answer)
    with pytest.raises(UserError, match=message):
        unified.load("someone/model")
