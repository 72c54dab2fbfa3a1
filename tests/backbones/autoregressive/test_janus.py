"""Janus and Chameleon against transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from backbones.autoregressive.janus import Janus
from backbones.autoregressive.prompt import left_pad
from backbones.autoregressive.sampling import SamplingSettings, draw_codes, generators
from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.spaces.parameter import LoRA, Weights
from inversion.spaces.remembered import Prefix
from inversion.spaces.textual import Word
from inversion.spaces.token import VisualTokens
from tests.tiny import multimodal
from tests.tiny.families import pictures, tiny
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert
from unified.loading import load

TEXTS = ["a person with short brown hair, smiling", "a person", "a zebra"]


@pytest.fixture(scope="module")
def model() -> Janus:
    return multimodal.janus()


def greedy(model: Janus, texts: list[str], guidance: float, *, cache: str = "fused") -> torch.Tensor:
    with model.bound() as view:
        prompts = model.prompts(view, texts)
        return draw_codes(
            model.network(view),
            prompts,
            slots=model.slots(4, 4),
            generators=generators(range(len(texts))),
            settings=SamplingSettings(temperature=0, guidance=guidance, cache=cache),  # type: ignore[arg-type]
            unconditional=None if guidance == 1 else model.unconditional(view, "", texts),
            pad=model.pad,
        )


@pytest.mark.parametrize("text", TEXTS)
def test_guided_greedy_equals_transformers_image_mode(model: Janus, text: str) -> None:
    with model.bound() as view:
        ids = model.prompts(view, [text]).ids
    network = model.components["model"]
    expected = network.generate(
        ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=False, guidance_scale=3.0
    )
    assert torch.equal(greedy(model, [text], 3.0), expected)
    assert expected.unique().numel() > 1


def test_left_padded_batches_give_what_each_prompt_gives_alone(model: Janus) -> None:
    for guidance in (1.0, 3.0):
        together = greedy(model, TEXTS, guidance)
        assert torch.equal(together, torch.cat([greedy(model, [text], guidance) for text in TEXTS]))
    assert torch.equal(greedy(model, TEXTS, 3.0), greedy(model, TEXTS, 3.0, cache="dynamic"))


def test_prompt_is_the_chat_of_the_released_model(model: Janus) -> None:
    with model.bound() as view:
        ids = model.prompts(view, ["a person"]).ids[0].tolist()
    tokenizer = model.tokenizer
    text = tokenizer("<|User|>: a person\n\n<|Assistant|>:", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2 + len(text)
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.convert_tokens_to_ids("<begin_of_image>")
    assert tokenizer.decode(ids[1:-1]) == tokenizer.decode(text)


def test_decoding_equals_transformers(model: Janus) -> None:
    codes = torch.randint(0, 16, (2, 4, 4))
    network = model.components["model"]
    with torch.no_grad():
        expected = network.decode_image_tokens(codes.flatten(1)).permute(0, 3, 1, 2)
    assert torch.allclose(model.decode_codes(None, codes), (expected * 0.5 + 0.5).clamp(0, 1), atol=1e-5)  # type: ignore[arg-type]


def test_codes_are_nearest_on_the_sphere(model: Janus) -> None:
    images = pictures(model, 3).images
    codes = model.codes(None, images)  # type: ignore[arg-type]
    network = model.components["model"].model.vqmodel
    with torch.no_grad():
        latents = functional.normalize(network.quant_conv(network.encoder(images * 2 - 1)), dim=1)
    table = functional.normalize(network.quantize.embedding.weight, dim=-1)
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.equal(codes.flatten(), torch.cdist(rows, table).argmin(1))
    # What codes decode to is explained by straight-through vectors of those codes.
    vectors, again = model.quantise(latents * 7)
    assert torch.equal(again, codes) and torch.allclose(vectors.norm(dim=1), torch.ones(3, 4, 4), atol=1e-5)


def test_teacher_forcing_equals_a_loop_over_the_language_model(model: Janus) -> None:
    reference = pictures(model, 1)
    with torch.no_grad(), model.bound() as view:
        attempt = view.attempt(reference, rng=Random(0), prompts=["a person"])
        ids, codes = model.prompts(view, ["a person"]).ids, model.codes(view, reference.images).flatten(1)
    parts = model.components["model"].model
    nats = []
    with torch.no_grad():
        read = parts.language_model.embed_tokens(ids)
        for i in range(16):
            hidden = parts.language_model(inputs_embeds=read).last_hidden_state[:, -1]
            nats.append(functional.cross_entropy(parts.generation_head(hidden), codes[:, i]))
            drawn = parts.generation_aligner(parts.generation_embeddings(codes[:, i : i + 1]))
            read = torch.cat([read, drawn], dim=1)
    assert torch.allclose(attempt.error[0], torch.stack(nats), atol=1e-4)


def test_saved_folders_load_and_incomplete_ones_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    network, tokenizer = multimodal.janus_model()
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, Janus)
    assert torch.equal(greedy(loaded, TEXTS, 3.0), greedy(Janus("x", network, tokenizer), TEXTS, 3.0))
    file = tmp_path / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if "generation_head" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="without its image head"):
        load(tmp_path)


def test_sizes_that_disagree_are_refused() -> None:
    network, tokenizer = multimodal.janus_model(image_tokens=9)
    with pytest.raises(UserError, match="tokens a picture"):
        Janus("x", network, tokenizer)


def test_images_that_the_tokenizer_does_not_divide_are_refused(model: Janus) -> None:
    for backbone in (model, tiny("chameleon")):
        with pytest.raises(UserError, match="multiples of 4"):
            backbone.codes(None, torch.rand(1, 3, 18, 16))  # type: ignore[attr-defined]


def run(stage: Stage) -> object:
    backbone = tiny("chameleon")
    return invert(backbone, pictures(backbone, 2), Recipe("t", (stage,), scheme="", cite=""), InvertSettings())


def test_chameleon_explains_and_is_inverted_but_does_not_draw() -> None:
    backbone = tiny("chameleon")
    reference = pictures(backbone, 2)
    losses = []
    for steps in (1, 15):
        for space in (Word(vectors=2), LoRA(rank=2), Weights(paths="mlp")):
            concept = run(Stage((space,), Optimize(steps=steps, lr=0.0 if steps == 1 else 0.05)))
            with torch.no_grad(), backbone.bound(concept) as view:  # type: ignore[arg-type]
                error = view.attempt(reference, rng=Random(0), prompts=["<me>"] * 2).error
            losses.append(float(error.mean()))
    assert all(after < before for before, after in zip(losses[:3], losses[3:], strict=True))
    with backbone.bound() as view, pytest.raises(UserError, match="decoder of Chameleon"):
        view.sample(Target(prompt="a"), rng=Random(0))


def test_chameleon_logits_are_those_that_its_forward_pass_hides() -> None:
    backbone = tiny("chameleon")
    network = backbone.components["model"]
    codes = torch.randint(0, 16, (1, 4, 4))
    with torch.no_grad(), backbone.bound() as view:
        logits = backbone.logits(view, ["a person"], codes)  # type: ignore[attr-defined]
        ids = torch.cat([backbone.prompts(view, ["a person"]).ids, backbone.vocabulary.to_ids(codes.flatten(1))], 1)  # type: ignore[attr-defined]
        hidden = network.model(input_ids=ids).last_hidden_state
        full = network.lm_head(hidden)[:, ids.shape[1] - 17 : -1]
        hidden_logits = network(input_ids=ids).logits[:, -1, backbone.vocabulary.ids]  # type: ignore[attr-defined]
    assert torch.allclose(logits, full[..., backbone.vocabulary.ids], atol=1e-4)  # type: ignore[attr-defined]
    assert bool((hidden_logits == torch.finfo(torch.float32).min).all())


def test_the_matrix_says_what_chameleon_lacks() -> None:
    cls = type(tiny("chameleon"))
    assert "decoder" in (refusal(cls, [Stage((VisualTokens(),), Encode())]) or "")
    assert "normalise queries and keys" in (refusal(cls, [Stage((Prefix(),), Optimize())]) or "")
    assert refusal(cls, recipes.get("two-stage").stages) is None


def test_left_pad_is_what_is_tested_against(model: Janus) -> None:
    """The batch above is really padded: its prompts have different lengths."""
    with model.bound() as view:
        assert not bool(model.prompts(view, TEXTS).mask.all())
    assert bool(left_pad([[1, 2]], 0).mask.all())
