"""Spaces and methods of models that draw with tokens."""

from __future__ import annotations

import pytest
import torch

from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.methods.token_search import TokenSearch
from inversion.spaces.parameter import LoRA
from inversion.spaces.remembered import LayerTokens, Prefix, ReferenceMemory
from inversion.spaces.token import Context, TokenLatents, VisualTokens
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.kinds import Evidence
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.reference import Reference
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.inversion import InvertSettings, invert

MODELS = ["emu3", "janus"]
DECODING = pytest.mark.parametrize("model", [*MODELS, "var"])
EACH = pytest.mark.parametrize("model", MODELS)


def run(model: str, *stages: tuple[Space, object], count: int = 2, carrier: str = "a") -> Concept:
    backbone = tiny(model)
    recipe = Recipe("test", tuple(Stage((s,), m) for s, m in stages), scheme="", cite="", carrier=carrier)  # type: ignore[arg-type]
    return invert(backbone, pictures(backbone, count), recipe, InvertSettings())


def nats(model: str, concept: Concept | None, reference: Reference, prompt: str = "a") -> torch.Tensor:
    backbone = tiny(model)
    with torch.no_grad(), backbone.bound(*([] if concept is None else [concept])) as view:
        return view.attempt(reference, rng=Random(0), prompts=[prompt] * len(reference)).error


def draw(model: str, *concepts: Concept, prompt: str = "", n: int = 2, **sampling) -> torch.Tensor:  # type: ignore[no-untyped-def]
    with tiny(model).bound(*concepts) as view:
        return view.sample(Target(prompt=prompt, n=n, sampling=sampling), rng=Random(0))


@DECODING
def test_token_latents_start_as_the_nearest_codes(model: str) -> None:
    backbone = tiny(model)
    plain, soft = run(model, (VisualTokens(), Encode())), run(model, (TokenLatents(), Encode()))
    with backbone.bound(soft) as view:
        assert torch.equal(view.slots["tokens"].read(), plain.codes[0].tensors["tokens"])
    assert torch.equal(draw(model, plain), draw(model, soft))


@DECODING
def test_token_optimisation_finds_codes_that_the_nearest_ones_are_not(model: str) -> None:
    """The target is what known codes decode to: started from other latents, the loss must fall."""
    backbone = tiny(model)
    reference = pictures(backbone, 2)
    before = run(model, (TokenLatents(), Encode()))
    after = run(model, (TokenLatents(), Optimize(steps=40, lr=0.05, evidence=Evidence.RENDER)))
    with backbone.bound(before) as view:
        start = view.attempt(reference, rng=Random(0), evidence=Evidence.RENDER).error.flatten(1).mean(1)
    with backbone.bound(after) as view:
        end = view.attempt(reference, rng=Random(0), evidence=Evidence.RENDER).error.flatten(1).mean(1)
    assert bool((end <= start).all()) and bool((end < start).any())


@DECODING
def test_straight_through_gradient_is_the_decoders_at_the_code(model: str) -> None:
    backbone = tiny(model)
    latents = backbone.token_latents(None, pictures(backbone, 1).images)  # type: ignore[attr-defined]
    leaf = latents.clone().requires_grad_()
    vectors, _ = backbone.quantise(leaf)  # type: ignore[attr-defined]
    backbone.decode_vectors(None, vectors).square().sum().backward()  # type: ignore[attr-defined]
    codes = vectors.detach().clone().requires_grad_()
    backbone.decode_vectors(None, codes).square().sum().backward()  # type: ignore[attr-defined]
    assert leaf.grad is not None and codes.grad is not None
    assert torch.allclose(leaf.grad, codes.grad)


@DECODING
def test_token_search_ends_where_no_single_change_helps(model: str) -> None:
    backbone = tiny(model)
    reference = pictures(backbone, 1)
    concept = run(model, (VisualTokens(), Encode()), (VisualTokens(), TokenSearch(rounds=6, neighbours=2)), count=1)
    nearest = concept.codes[0].tensors["tokens"]
    found = concept.codes[-1].tensors["tokens"]

    def loss(tokens: torch.Tensor) -> float:
        return float((backbone.decode_vectors(None, backbone.vectors_of(tokens))  # type: ignore[attr-defined]
                      - reference.images).square().mean())  # fmt: skip

    assert loss(found) <= loss(nearest)
    candidates = backbone.candidates(None, reference.images, 2)  # type: ignore[attr-defined]
    assert torch.equal(candidates[:, 0], nearest)
    for place in range(found[0].numel()):
        for choice in candidates[0].flatten(1)[:, place]:
            tried = found.clone().flatten(1)
            tried[0, place] = choice
            assert loss(tried.view_as(found)) >= loss(found) - 1e-7


@EACH
def test_context_explains_a_picture_beside_the_others_and_never_itself(model: str) -> None:
    backbone = tiny(model)
    two = pictures(backbone, 2)
    concept = run(model, (Context(references=2), Encode()))
    with_context = nats(model, concept, two)
    codes = backbone.codes(None, two.images)  # type: ignore[attr-defined]
    with backbone.bound() as view:
        network = backbone.network(view)  # type: ignore[attr-defined]
        batch = backbone.prompts(view, ["a", "a"], references=[[codes[1]], [codes[0]]])  # type: ignore[attr-defined]
        from backbones.autoregressive.sampling import teacher_forced

        height, width = codes.shape[1:]
        logits = teacher_forced(network, batch, codes.flatten(1), slots=backbone.slots(height, width))  # type: ignore[attr-defined]
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), codes.flatten(1), reduction="none")
    assert torch.allclose(with_context, expected, atol=1e-4)
    # One picture alone has nothing to stand beside it.
    alone = run(model, (Context(), Encode()), count=1)
    one = pictures(backbone, 1)
    assert torch.allclose(nats(model, alone, one), nats(model, None, one), atol=1e-5)


@EACH
def test_reference_memory_is_the_picture_in_the_context(model: str) -> None:
    """The same picture as tokens in the prompt, or as keys and values: the same samples."""
    context = run(model, (Context(references=1), Encode()), count=1)
    memory = run(model, (ReferenceMemory(references=1), Encode()), count=1)
    assert torch.equal(draw(model, context, prompt="a <me>"), draw(model, memory, prompt="a <me>"))
    assert not torch.equal(draw(model, context, prompt="a <me>"), draw(model, prompt="a a"))
    assert torch.equal(draw(model, memory, prompt="a <me>", gate=[[1]]), draw(model, memory, prompt="a <me>"))
    assert not torch.equal(draw(model, memory, prompt="a <me>", gate=[[0]]), draw(model, memory, prompt="a <me>"))


@EACH
def test_prefix_bound_with_weight_zero_is_the_model_itself(model: str) -> None:
    backbone = tiny(model)
    reference = pictures(backbone, 2)
    concept = run(model, (Prefix(length=3), Optimize(steps=2)))
    plain = nats(model, None, reference)
    assert torch.allclose(nats(model, concept.scaled(0.0), reference), plain, atol=1e-3)
    assert not torch.allclose(nats(model, concept, reference), plain, atol=1e-1)
    with pytest.raises(UserError, match="0 or more"):
        nats(model, concept.scaled(-1.0), reference)


@EACH
@pytest.mark.parametrize("space", [Prefix(length=3), LayerTokens(), LayerTokens(text=2, image=0, depth=1)])
def test_learning_keys_and_values_explains_the_pictures_better(model: str, space: Space) -> None:
    backbone = tiny(model)
    reference = pictures(backbone, 2)
    start = nats(model, run(model, (space, Optimize(steps=1, lr=0.0))), reference, "<me>").mean()
    end = nats(model, run(model, (space, Optimize(steps=25, lr=0.1))), reference, "<me>").mean()
    assert end < start - 0.2


@EACH
@pytest.mark.parametrize("name", ["soft-prompt", "two-stage", "dreambooth-lora"])
def test_words_and_weights_explain_the_pictures_better(model: str, name: str) -> None:
    backbone = tiny(model)
    reference = pictures(backbone, 2)
    recipe = recipes.get(name)
    start = invert(backbone, reference, recipe.with_overrides(steps=1, lr=0.0), InvertSettings())
    end = invert(backbone, reference, recipe.with_overrides(steps=15, lr=0.05), InvertSettings())
    prompt = "a photo of <me>"
    assert nats(model, end, reference, prompt).mean() < nats(model, start, reference, prompt).mean() - 0.1


def test_layer_tokens_equal_replacing_the_hidden_states() -> None:
    """Their keys and values do what a token does whose hidden state is replaced at the input of each layer."""
    backbone = tiny("emu3")
    reference = pictures(backbone, 1)
    concept = run("emu3", (LayerTokens(text=1, image=1, depth=9), Optimize(steps=1)), count=1)
    tokens = concept.codes[0].tensors["tokens"]
    assert tokens.shape[:2] == (2, 2)  # the tiny model has two layers
    found = nats("emu3", concept, reference, "a")
    model = backbone.components["model"]
    layers = model.model.text_model.layers
    handles = []
    for index, layer in enumerate(layers):

        def replace(_module, args, kwargs, index=index):  # type: ignore[no-untyped-def]
            hidden = args[0].clone()
            hidden[:, :2] = tokens[index]
            return (hidden, *args[1:]), kwargs

        handles.append(layer.register_forward_pre_hook(replace, with_kwargs=True))
    try:
        with torch.no_grad(), backbone.bound() as view:
            codes = backbone.codes(view, reference.images)
            ids = backbone.prompts(view, ["a"]).ids
            table = model.get_input_embeddings()
            pieces = [torch.zeros(1, 2, ids.max() * 0 + table.embedding_dim), table(ids)]
            pieces.append(table(backbone.vocabulary.to_ids(codes.flatten(1)[:, :-1])))
            hidden = model.model.text_model(inputs_embeds=torch.cat(pieces, 1)).last_hidden_state
            logits = backbone.network(view).head(hidden[:, 2 + ids.shape[1] - 1 :])
    finally:
        for handle in handles:
            handle.remove()
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), codes.flatten(1), reduction="none")
    assert torch.allclose(found, expected, atol=1e-3)


@EACH
def test_memories_of_two_concepts_stand_side_by_side(model: str) -> None:
    first = run(model, (Prefix(length=2), Optimize(steps=1))).renamed("<one>")
    second = run(model, (Prefix(length=3), Optimize(steps=1))).renamed("<two>")
    both = draw(model, first, second, prompt="a <one> <two>")
    hidden = draw(model, first, second.scaled(0.0), prompt="a <one> <two>")
    assert not torch.equal(both, hidden)
    assert both.shape == hidden.shape


@EACH
def test_memory_under_a_lora(model: str) -> None:
    concept = run(model, (Prefix(length=2), Optimize(steps=1)), (LoRA(rank=2), Optimize(steps=2, lr=1e-2)))
    reference = pictures(tiny(model), 2)
    assert not torch.allclose(
        nats(model, concept, reference), nats(model, concept.with_codes(concept.codes[:1]), reference)
    )


@EACH
def test_redraw_keeps_the_other_tokens(model: str) -> None:
    backbone = tiny(model)
    concept = run(model, (VisualTokens(), Encode()))
    side = backbone.size[0]  # type: ignore[attr-defined]
    grid = [[1.0] * side for _ in range(side // 2)] + [[0.0] * side for _ in range(side - side // 2)]
    found = draw(model, concept, redraw=grid)
    codes = concept.codes[0].tensors["tokens"]
    assert torch.equal(draw(model, concept, redraw=[[0]]), draw(model, concept))
    everything = draw(model, concept, redraw=[[1]])
    assert not torch.equal(found, everything)
    with backbone.bound(concept) as view:
        kept = backbone._kept(view, grid, 2)  # type: ignore[attr-defined]
    assert torch.equal(kept.view_as(codes)[:, side // 2 :], codes[:, side // 2 :])
    assert bool((kept.view_as(codes)[:, : side // 2] == -1).all())


def test_bad_input_is_refused() -> None:
    backbone = tiny("emu3")
    with pytest.raises(UserError, match="room for 1 to"):
        run("emu3", (Context(references=60), Encode()), count=2)
    tokens = run("emu3", (VisualTokens(), Encode()), count=60)
    with pytest.raises(UserError, match="Show fewer pictures"):
        draw("emu3", tokens, prompt="a <me>", references=60)
    with pytest.raises(UserError, match="no visual tokens to keep"):
        draw("emu3", redraw=[[1]])
    with pytest.raises(UserError, match="rows of numbers"):
        draw("emu3", run("emu3", (VisualTokens(), Encode())), redraw=[[1], [1, 0]])
    with pytest.raises(UserError, match="layers 0 to 1"):
        run("emu3", (ReferenceMemory(layers=(5,)), Encode()))
    with pytest.raises(UserError, match="space='token-latents'"):
        with backbone.bound() as view:
            view.attempt(pictures(backbone), rng=Random(0), evidence=Evidence.RENDER)


@pytest.mark.parametrize("name", ["token-optimize", "token-search", "kv-prefix", "kv-cache", "in-context", "coar"])
def test_recipes_run_on_tokens_alone(name: str) -> None:
    backbone = tiny("emu3")
    recipe = recipes.get(name)
    assert refusal(type(backbone), recipe.stages) is None
    for other in ("stylegan", "stable-diffusion", "flux"):
        assert "needs a backbone that" in (refusal(type(tiny(other)), recipe.stages) or "")
    if name in ("token-optimize", "token-search"):
        return  # LPIPS on pictures of this size says nothing; the methods are tested above
    quick = recipe.with_overrides(steps=2) if name in ("kv-prefix", "coar") else recipe
    concept = invert(backbone, pictures(backbone, 2), quick, InvertSettings())
    assert generate(backbone, [concept], Target(prompt="a photo of <me>", n=1), seed=0).shape == (1, 3, 16, 16)


def test_a_learnt_prefix_is_drawn_without_guidance_unless_it_is_asked_for() -> None:
    """What guidance goes away from lacks the prefix: the recipe's own default samples from the model with it alone."""
    backbone = tiny("emu3")
    recipe = recipes.get("kv-prefix").with_overrides(steps=2)
    concept = invert(backbone, pictures(backbone, 2), recipe, InvertSettings())

    def drawn(**sampling: float) -> torch.Tensor:
        return generate(backbone, [concept], Target(prompt="a photo of <me>", n=2, sampling=sampling), seed=0)

    assert torch.equal(drawn(), drawn(guidance=1.0))
    assert not torch.equal(drawn(), drawn(guidance=3.0))
