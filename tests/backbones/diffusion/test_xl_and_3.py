"""SDXL and SD 3/3.5: the pictures of diffusers' own pipelines, every inversion space, and exact inversions."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from backbones.diffusion.stable_diffusion import StableDiffusion
from backbones.diffusion.stable_diffusion_3 import StableDiffusion3
from backbones.diffusion.stable_diffusion_xl import StableDiffusionXL
from inversion.methods.edit_friendly import EditFriendly
from inversion.methods.optimize import Optimize
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.low_rank import DoRA
from inversion.spaces.neti import NeuralMapper
from inversion.spaces.noise import StepNoise
from inversion.spaces.orthogonal import OFT
from inversion.spaces.parameter import LoRA, TextWeights
from inversion.spaces.rank_one import RankOne
from inversion.spaces.spectral import SpectralShifts
from inversion.spaces.spectrum import LayerWords, StageWords
from inversion.spaces.text_output import LastOutputs, OutputResidual
from inversion.spaces.text_prefix import TextPrefix
from inversion.spaces.textual import Word
from tests.inversion.noise import by_recipe, noise_concept, worst
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.attention import Editor
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, refusal
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

XL, SD3 = "stable-diffusion-xl", "stable-diffusion-3"
BOTH = pytest.mark.parametrize("family", [XL, SD3])


def start_noise(latents: torch.Tensor, steps: int) -> Concept:
    meta = {"settings": {}, "sampling": {"steps": steps}}
    return Concept([Code("start-noise", {"latents": latents}, True, meta)], category="a")


def ours_and_theirs(
    backbone: Backbone, pipeline, guidance: float, *, negative: str = "", **settings
) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.randn(2, *backbone.latent_shape(), generator=torch.Generator().manual_seed(0))
    sampling = {"num_inference_steps": 4, "guidance_scale": guidance, "output_type": "pt", **settings}
    if negative:
        sampling["negative_prompt"] = [negative] * 2
    expected = pipeline(["a red hat"] * 2, latents=latents.clone(), **sampling).images
    target = Target(prompt="a red hat", n=2, negative_prompt=negative, sampling={"guidance": guidance})
    with backbone.bound(start_noise(latents, 4)) as view:
        return view.sample(target, rng=Random(0)), expected


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (4.0, ""), (4.0, "a blue hat")])
def test_xl_samples_what_diffusers_samples(prediction: str, guidance: float, negative: str) -> None:
    """Two encoders, the pooled vector, the sizes; and without a negative prompt zeros in its place."""
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline(prediction=prediction)
    found, expected = ours_and_theirs(StableDiffusionXL("tiny", pipeline), pipeline, guidance, negative=negative)
    assert torch.allclose(found, expected, atol=2e-5), (found - expected).abs().max()


def test_an_empty_prompt_is_read_where_the_model_was_trained_so() -> None:
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline()
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    found, expected = ours_and_theirs(StableDiffusionXL("tiny", pipeline), pipeline, 4.0)
    assert torch.allclose(found, expected, atol=2e-5)
    zeros, _ = ours_and_theirs(tiny(XL), tiny_diffusion.stable_diffusion_xl_pipeline(), 4.0)
    assert not torch.allclose(found, zeros, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("t5", [True, False])
def test_sd3_samples_what_diffusers_samples(guidance: float, later: bool, t5: bool) -> None:
    pipeline = tiny_diffusion.stable_diffusion_3_pipeline(later=later)
    length = 48
    if not t5:
        pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
        length = 256
    backbone = StableDiffusion3("tiny", pipeline)
    assert backbone.t5_length == length and backbone.resolution == 8
    found, expected = ours_and_theirs(
        backbone, pipeline, guidance, height=8, width=8, max_sequence_length=backbone.t5_length
    )
    assert torch.allclose(found, expected, atol=2e-5), (found - expected).abs().max()


def test_trailing_timesteps_are_diffusers() -> None:
    """Models trained down to pure noise (v-prediction, zero terminal signal) are sampled from the very last time."""
    pipeline = tiny_diffusion.stable_diffusion_pipeline(prediction="v_prediction")
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", rescale_betas_zero_snr=True
    )
    backbone = StableDiffusion("tiny", pipeline)
    for steps in (1, 4, 7, 30):
        pipeline.scheduler.set_timesteps(steps)
        assert [level.time for level in backbone.levels(steps)[:-1]] == pipeline.scheduler.timesteps.tolist()
    assert backbone.levels(4)[0].a == 0.0
    found, expected = ours_and_theirs(backbone, pipeline, 4.0)
    assert bool(torch.isfinite(found).all()) and torch.allclose(found, expected, atol=2e-4)
    broken = tiny_diffusion.stable_diffusion_pipeline()
    broken.scheduler = DDIMScheduler.from_config(broken.scheduler.config, rescale_betas_zero_snr=True)
    with pytest.raises(UserError, match="pure noise"):
        StableDiffusion("tiny", broken)


@BOTH
def test_target_and_split_are_inverse_and_levels_go_down(family: str) -> None:
    backbone = tiny(family, torch.float64)
    x0, eps = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    levels = backbone.levels(7)
    assert len(levels) == 8 and all(one.s > other.s for one, other in itertools.pairwise(levels))
    for level in levels[:-1]:
        a, s = torch.tensor(level.a), torch.tensor(level.s)
        found = backbone.split(backbone.target(x0, eps, a, s), a * x0 + s * eps, a, s)
        assert torch.allclose(found[0], x0) and torch.allclose(found[1], eps)


def test_sd3_trains_on_shifted_noise() -> None:
    """Equation 23 of Esser et al. 2024: the median 1/2 of the logit-normal goes to 3 / (1 + 3)."""
    time, a, s = tiny(SD3).random_levels(torch.tensor([0.5, 0.1]))
    assert float(s[0]) == pytest.approx(0.75) and float(time[0]) == pytest.approx(750)
    assert torch.allclose(a + s, torch.ones(2, dtype=a.dtype)) and s[1] < s[0]


def test_refiners_are_refused() -> None:
    pipeline = tiny_diffusion.stable_diffusion_xl_pipeline()
    pipeline.text_encoder = None
    with pytest.raises(UserError, match="refiner"):
        StableDiffusionXL("tiny", pipeline)


# --- attention ----------------------------------------------------------------------------------------------


class Silent(Editor):
    def __init__(self) -> None:
        self.seen = []

    def project(self, call) -> None:
        self.seen.append(call)


@pytest.mark.parametrize("family", [XL, SD3, "later"])
def test_a_silent_editor_changes_no_bit_and_sees_every_place(family: str) -> None:
    pipeline = tiny_diffusion.stable_diffusion_3_pipeline(later=True) if family == "later" else None
    backbone = StableDiffusion3("tiny", pipeline) if pipeline else tiny(family)
    target = Target(prompt="a red hat", n=2, sampling={"steps": 2})
    with backbone.bound() as view:
        plain = view.sample(target, rng=Random(0))
    silent = Silent()
    with backbone.bound() as view:
        view.edit_attention(silent)
        assert torch.equal(view.sample(target, rng=Random(0)), plain)
    assert {call.place for call in silent.seen} == set(backbone.places())
    for call in silent.seen:
        assert call.size[0] * call.size[1] == call.query[:, :, call.picture_queries].shape[2]
    kinds = {place.kind for place in backbone.places()}
    assert kinds == {XL: {"self", "cross"}, SD3: {"joint"}, "later": {"joint", "self"}}[family]


@BOTH
def test_maps_of_a_word_are_where_its_tokens_stand(family: str) -> None:
    backbone = tiny(family)
    with backbone.bound() as view:
        said = backbone.token_places(view, ["a red hat"], "red")
    # <bos>, 'a' and then the letters of 'red'; T5 begins without <bos>, and each word with a mark of its own.
    expected = [2, 3, 4] if family == XL else [2, 3, 4, 77 + 2, 77 + 3, 77 + 4, 77 + 5]
    assert said[0].nonzero().flatten().tolist() == expected


# --- inversion spaces ---------------------------------------------------------------------------------------

MAPPER = NeuralMapper(frequencies=16, hidden=8)
SPACES = [
    *[(family, space) for family in (XL, SD3) for space in (Word(vectors=2), StageWords(stages=3), OutputResidual())],
    *[(family, space) for family in (XL, SD3) for space in (LastOutputs(), TextWeights(), KeysValues())],
    *[(family, space) for family in (XL, SD3) for space in (LoRA(rank=2), DoRA(rank=2), SpectralShifts())],
    *[(family, OFT(block=4)) for family in (XL, SD3)],
    *[(XL, space) for space in (LayerWords(), MAPPER, TextPrefix(layers=2), RankOne())],
]


@pytest.mark.parametrize(("family", "space"), SPACES, ids=lambda v: v if isinstance(v, str) else v.name)
def test_every_space_learns_is_saved_and_is_drawn(family: str, space: Space, tmp_path) -> None:
    """Every text encoder's part gets a gradient: none of a concept is silently left out."""
    backbone = tiny(family)
    plan = Recipe("t", (Stage((space,), Optimize(steps=2, lr=1e-2, templates=("a {} b",))),), "", "", carrier="a")
    with backbone.bound() as view:
        first = space.initial(view, pictures(backbone, 2), rng=Random(0).child("seed"))
    found = invert(backbone, pictures(backbone, 2), plan, InvertSettings())
    code = found.codes[0]
    assert first.tensors.keys() == code.tensors.keys()
    learnt = [n for n in code.tensors if not n.startswith("row/") and not n.endswith((".frequencies", ".norm"))]
    begin = invert(backbone, pictures(backbone, 2), plan.with_overrides(lr=0.0), InvertSettings()).codes[0]
    for part in {n.split(".")[0].split("/")[0] for n in learnt if n.startswith("text_encoder")}:
        own = [n for n in learnt if n.split(".")[0].split("/")[0] == part]
        assert any(not torch.equal(code.tensors[n], begin.tensors[n]) for n in own), part
    assert any(not torch.equal(code.tensors[n], begin.tensors[n]) for n in learnt)
    loaded = Concept.load(found.save(tmp_path / "c"))
    options = {"prompt": "a <me> b", "sampling": {"steps": 2}, "output": "pt"}
    drawn = backbone.generate(found, **options)
    assert torch.equal(drawn, backbone.generate(loaded, **options))
    assert bool(torch.isfinite(drawn).all())


@BOTH
def test_where_an_idea_needs_cross_attention_it_is_refused_by_class(family: str) -> None:
    for space in (LayerWords(), MAPPER, TextPrefix(), RankOne()):
        reason = refusal(type(tiny(family)), [Stage((space,), Optimize())])
        assert (reason is None) is (family == XL), (space.name, reason)
        assert reason is None or "cross-attention" in reason


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_edit_friendly_inversion_is_exact(family: str, dtype: torch.dtype) -> None:
    backbone = tiny(family, dtype)
    concept, reference = noise_concept(backbone, StepNoise(), EditFriendly(steps=5, guidance=3.5))
    assert worst(backbone, concept, reference) < (1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize(
    ("family", "recipe"),
    [(XL, "null-text"), (XL, "ledits++"), (XL, "ddim-inversion"), (SD3, "rf-inversion"), (SD3, "rf-solver")],
)
def test_noise_recipes_run(family: str, recipe: str) -> None:
    backbone = tiny(family)
    concept, reference = by_recipe(backbone, recipe, steps=3)
    assert max(concept.meta["error"]["latents"]) >= 0
    drawn = backbone.generate(concept, prompt="a red hat", output="pt")
    assert drawn.shape == (len(reference), 3, backbone.resolution, backbone.resolution)


def test_a_row_equal_to_a_known_words_gives_that_words_picture() -> None:
    backbone = tiny(XL)
    rows = {}
    for text in backbone.texts():
        ids = text.tokenizer("x", add_special_tokens=False)["input_ids"]
        rows[text.component] = backbone.components[text.component].get_submodule(text.embedding)(torch.tensor(ids))
    word = Concept([Code("word", rows, False, {"settings": {}})], name="<me>")
    options = {"sampling": {"steps": 2}, "seed": 1, "output": "pt"}
    assert torch.equal(backbone.generate(word, prompt="a <me>", **options), backbone.generate(prompt="a x", **options))


@BOTH
def test_a_lora_trained_here_is_the_same_in_diffusers(family: str, tmp_path) -> None:
    backbone = tiny(family)
    with backbone.bound() as view:
        code = LoRA(rank=2, alpha=5.0).initial(view, pictures(backbone), rng=Random(0))
    generator = torch.Generator().manual_seed(1)
    code = code.map(lambda t: t + 0.2 * torch.randn(t.shape, generator=generator))
    concept = Concept([code], name="red", carrier="red")
    (path,) = backbone.export(concept, tmp_path, software="diffusers")
    make = {XL: tiny_diffusion.stable_diffusion_xl_pipeline, SD3: tiny_diffusion.stable_diffusion_3_pipeline}
    pipeline = make[family]()
    size = {} if family == XL else {"height": 8, "width": 8, "max_sequence_length": 48}
    plain, before = ours_and_theirs(backbone, pipeline, 1.0, **size)
    assert torch.allclose(plain, before, atol=2e-5)
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    adopted = backbone.adopt(path, name="red", carrier="red")
    for bound in (concept, adopted):
        latents = torch.randn(2, *backbone.latent_shape(), generator=torch.Generator().manual_seed(0))
        with backbone.bound(start_noise(latents, 4), bound.renamed("<red>")) as view:
            found = view.sample(Target(prompt="a red hat", n=2, sampling={"guidance": 1.0}), rng=Random(0))
        _, expected = ours_and_theirs(backbone, pipeline, 1.0, **size)
        assert torch.allclose(found, expected, atol=5e-5), (found - expected).abs().max()
    assert not torch.allclose(found, plain, atol=1e-3)
