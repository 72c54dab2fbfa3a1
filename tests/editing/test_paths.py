"""StyleFlow and HijackGAN: their mathematics in closed form, and edits that depend on the code."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from editing.affine import nearest_styles
from editing.direction_file import directions_for, load_directions, save_directions, user_file
from editing.directions import Direction, Directions
from editing.edits import edit
from editing.find.attribute_data import AttributeData, ProxySettings, train_proxy
from editing.find.build import effects, supervised_table
from editing.find.hijackgan import GradientSettings, gradient_paths
from editing.find.judging import Judge, judge, with_changes
from editing.find.styleflow import FlowSettings, flow_paths, train_flow
from editing.gradient_paths import GradientPaths
from editing.latent.flow import ConditionalFlow, exact_trace, hutchinson
from editing.latent.proxy import Proxy, Whitened, raised, step_direction, walk, white_root
from editing.listing import AttributeDirections
from editing.paths import Path, Shift
from tests.editing.conftest import WIDTH, LinearClassifier, Telling, styled, units
from tests.tiny import gan
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.edits import Edit
from unified.errors import UserError

PROXY = ProxySettings(hidden=(32,), steps=400, lr=1e-2)


def random_flow(width: int, attributes: int, *, steps: int = 8) -> ConditionalFlow:
    torch.manual_seed(4)
    flow = ConditionalFlow(width, attributes, hidden=(7, 6), steps=steps).double().requires_grad_(False)
    flow.mean, flow.deviation = torch.randn(width).double(), torch.rand(width).double() + 0.5
    return flow


# --- the flow ---


def test_likelihood_is_the_change_of_variables() -> None:
    """Independent: log N(noise) + log |det| of the whole map's Jacobian, by autograd through the solver."""
    flow = random_flow(4, 2, steps=16)
    w, a = torch.randn(3, 4).double(), torch.randn(3, 2).double()
    for row in range(3):
        one, given = w[row : row + 1], a[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x, g=given: flow.noise(x, g)[0], one)[:, 0]
        noise = flow.noise(one, given)
        expected = -0.5 * noise.square().sum() - 2 * math.log(2 * math.pi) + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(flow.log_likelihood(one, given)[0], expected, rtol=0, atol=1e-5)


def test_there_and_back_and_what_attributes_do() -> None:
    w, a = torch.randn(5, 4).double(), torch.randn(5, 2).double()
    errors = []
    for steps in (4, 8):
        flow = random_flow(4, 2, steps=steps)
        errors.append(float((flow.latents(flow.noise(w, a), a) - w).abs().max()))
    assert errors[1] < 1e-5 and errors[0] / errors[1] > 8  # fourth order or better
    assert not torch.allclose(flow.latents(flow.noise(w, a), a + 1), w, atol=1e-2)


def test_the_trace_and_its_estimate() -> None:
    at = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(5, 5, dtype=torch.float64)
    found = torch.tanh(at @ matrix.T)
    expected = ((1 - found.square()) * matrix.diagonal()).sum(1)
    torch.testing.assert_close(exact_trace(found, at), expected)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 5)  # all of them
    mean = torch.stack([hutchinson(s.expand(6, 5))(found, at) for s in signs]).mean(0)
    torch.testing.assert_close(mean, expected)


def test_training_reaches_the_likelihood_of_a_planted_law() -> None:
    """w | a ~ N(M a, 0.25): the best log-likelihood is known, and raising a moves w by M on average."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(4000, 2, generator=generator)
    matrix = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.5]])
    w = scores @ matrix + 0.5 * torch.randn(4000, 3, generator=generator)
    data = AttributeData(w, scores, ("a=x", "b=y"), torch.zeros(2), torch.ones(2), (0.5, 0.5), {})
    settings = FlowSettings(hidden=(24,), solver=2, steps=120, batch=128, lr=2e-2)
    flow = train_flow(data, settings, rng=Random(0), progress=Silent())
    best = -3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5))
    reached = float(flow.log_likelihood(w[:1000], scores[:1000]).detach().mean())
    assert best - 0.15 < reached < best + 0.1
    few, given = w[:500], scores[:500]
    other = given + torch.tensor([0.7, 0.0])
    moved = (flow.latents(flow.noise(few, given), other) - few).mean(0)
    torch.testing.assert_close(moved, 0.7 * matrix[0], rtol=0, atol=0.1)


def test_values_of_one_attribute_make_room() -> None:
    """Probabilities: the raised one by its log-odds, the others in proportion; they still sum to one."""
    p = torch.tensor([[0.2, 0.5, 0.3, 0.9]])
    mean, deviation = torch.tensor([0.1, -0.4, 0.0, 0.3]), torch.tensor([1.0, 2.0, 0.5, 1.5])
    scores = (torch.logit(p) - mean) / deviation
    new = torch.sigmoid(mean + deviation * raised(scores, 0, 1.5, [1, 2], mean, deviation))
    up = torch.sigmoid(torch.logit(p[0, 0]) + 1.5)
    rest = (1 - up) / 0.8
    torch.testing.assert_close(new[0], torch.stack([up, 0.5 * rest, 0.3 * rest, p[0, 3]]))
    torch.testing.assert_close(raised(scores, 0, 0.0, [1, 2], mean, deviation), scores)


# --- the walk ---


class Circles(nn.Module):
    """Scores |w|^2 and w_0: the gradient of the first points outwards."""

    def forward(self, w: Tensor) -> Tensor:
        return torch.stack([w.square().sum(1), w[:, 0]], 1)


def test_a_walk_follows_the_gradient() -> None:
    w = torch.tensor([[3.0, 4.0], [0.0, -1.0]])
    torch.testing.assert_close(step_direction(Circles(), w, 0), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    torch.testing.assert_close(walk(Circles(), w, 0, 2.0, longest=0.1), torch.tensor([[4.2, 5.6], [0.0, -3.0]]))
    torch.testing.assert_close(walk(Circles(), w, 0, -0.5, longest=0.1), torch.tensor([[2.7, 3.6], [0.0, -0.5]]))
    kept = walk(Circles(), w, 0, 1.0, keep=[1], longest=0.1)
    torch.testing.assert_close(kept, torch.tensor([[3.0, 5.0], [0.0, -2.0]]))  # the first coordinate is held
    none = walk(Circles(), torch.tensor([[2.0, 0.0]]), 0, 1.0, keep=[1], longest=0.1)
    torch.testing.assert_close(none, torch.tensor([[2.0, 0.0]]))  # nothing is left to follow


def test_steps_are_white_where_samples_are() -> None:
    """Samples on a plane of W, one side ten times the other: steps stay on it, one deviation long."""
    torch.manual_seed(0)
    latents = torch.randn(4000, 2) @ torch.tensor([[10.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) + 3.0
    root = white_root(latents)
    assert root.shape == (3, 2)
    torch.testing.assert_close(root @ root.T, latents.T.cov(), rtol=1e-4, atol=1e-4)
    reads = nn.Linear(3, 1)  # its gradient points out of the plane for the most part
    with torch.no_grad():
        reads.weight.copy_(torch.tensor([[0.1, 1.0, 50.0]]))
    white = Whitened(reads, latents.mean(0), root)
    start = white.coordinates(latents[:5])
    step = (walk(white, start, 0, 1.0, longest=0.1) - start) @ root.T
    wanted = latents.T.cov() @ reads.weight[0].detach()  # the covariance times the gradient
    torch.testing.assert_close(
        step, (wanted / (reads.weight[0] @ wanted).sqrt()).expand(5, 3).detach(), rtol=1e-3, atol=1e-3
    )


# --- edits ---


@pytest.fixture(scope="module")
def telling() -> Telling:
    return Telling("tiny/telling", gan.stylegan(seed=1).generator)


@pytest.fixture(scope="module")
def linear(telling: Telling) -> Judge:
    a, b, _ = units(3)
    return Judge("linear", LinearClassifier(0.05 * a, 0.05 * b, telling.style_statistics()[0]))


@pytest.fixture(scope="module")
def flowing(telling: Telling, linear: Judge) -> Directions:
    settings = FlowSettings(samples=2000, hidden=(32,), solver=3, steps=200, batch=128, lr=1e-2, proxy=PROXY)
    return flow_paths(telling, linear, settings=settings, rng=Random(0), progress=Silent())


@pytest.fixture(scope="module")
def walking(telling: Telling, linear: Judge) -> Directions:
    settings = GradientSettings(samples=2000, proxy=PROXY)
    return gradient_paths(telling, linear, settings=settings, rng=Random(0), progress=Silent())


def score_changes(telling: Telling, linear: Judge, path: Path, strength: float, **given: object) -> dict[str, float]:
    """Mean change of the log-odds of glow=on and tint=on, in deviations over samples."""
    rows = range(300)
    _, before = judge(telling, linear.classifier, rows, rng=Random(7))
    _, after = judge(
        telling, linear.classifier, rows, shift=lambda here: path.shift(here, strength, **given), rng=Random(7)
    )
    return {
        name: float((after[name][:, 1] - before[name][:, 1]).mean() / before[name][:, 1].std())
        for name in ("glow", "tint")
    }


def test_a_flow_raises_its_attribute_and_holds_others(telling, linear, flowing) -> None:
    """w is far from normal given the scores, and still: two deviations more of one, little of the other."""
    assert set(flowing.paths) == {"glow=off", "glow=on", "tint=off", "tint=on"} and flowing.extractor == "linear"
    path = flowing.paths["glow=on"]
    assert path.accuracy > 0.95 and 0.2 < path.share < 0.8
    change = score_changes(telling, linear, path, 2.0)
    assert change["glow"] == pytest.approx(2.0, abs=0.5) and abs(change["tint"]) < 0.4
    assert score_changes(telling, linear, path, -2.0)["glow"] < -1.2


def test_a_walk_raises_its_score_and_keeps_others_when_asked(telling, linear, walking) -> None:
    path, other = walking.paths["glow=on"], walking.paths["tint=on"]
    alone = score_changes(telling, linear, path, 2.0)
    kept = score_changes(telling, linear, path, 2.0, keep=[other])
    assert alone["glow"] > 1.2 and abs(alone["tint"]) > 0.1
    assert kept["glow"] > 0.8 and abs(kept["tint"]) < 0.5 * abs(alone["tint"])


@pytest.mark.parametrize("space", ["w", "w+"])
def test_paths_edit_concepts(telling, walking, space: str) -> None:
    concept = styled(telling, 3, space=space, extra=True)
    before = concept.codes[0].tensors["w"]
    for weight in (1.0, 0.5):
        edited = edit(telling, concept.scaled(weight), {"glow=on": 1.0}, directions=walking)
        assert edited.codes[0].space == space and edited.codes[1:] == concept.codes[1:]
        white = torch.linalg.pinv(walking.paths["glow=on"].model.root)
        moved = (edited.codes[0].tensors["w"] - before) * weight
        length = ((moved if space == "w" else moved.mean(1)) @ white.T).norm(dim=1)
        assert bool((length <= 1.001).all()) and bool((length > 0.9).all())
    same = edit(telling, concept, {"glow=on": 0.0}, directions=walking)
    assert torch.equal(same.codes[0].tensors["w"], before)
    part = edit(telling, concept, {"glow=on@2-3": 1.0}, directions=walking).codes[0].tensors["w"]
    whole = before if space == "w+" else before.unsqueeze(1).expand(-1, 8, -1)
    changed = (part - whole).abs().amax((0, 2)) > 0
    assert changed.tolist() == [False, False, True, True, False, False, False, False]
    with pytest.raises(UserError, match="0-7"):
        edit(telling, concept, {"glow=on@4-9": 1.0}, directions=walking)


def test_the_step_depends_on_the_code(telling, flowing) -> None:
    concept = styled(telling, 2)
    step = edit(telling, concept, {"tint=on": 2.0}, directions=flowing).codes[0].tensors["w"]
    step = step - concept.codes[0].tensors["w"]
    assert not torch.allclose(step[0], step[1], rtol=0, atol=0.05 * float(step.norm(dim=1).mean()))
    alone = edit(telling, replace(concept, codes=[concept.codes[0].pick([1])]), {"tint=on": 2.0}, directions=flowing)
    torch.testing.assert_close(alone.codes[0].tensors["w"][0], step[1] + concept.codes[0].tensors["w"][1])


def test_paths_and_directions_compose(telling, flowing) -> None:
    """Both are followed from the code as it was: the sum, in any order, to the last bit."""
    concept = styled(telling, 2, space="w+")
    line = Direction(units(1)[0], 0.5)
    both = replace(flowing, items={"straight": line})
    w = concept.codes[0].tensors["w"]
    steps = {
        name: edit(telling, concept, {name: s}, directions=both).codes[0].tensors["w"] - w
        for name, s in (("glow=on", 1.5), ("straight", -1.0), ("tint=off", 0.5))
    }
    one = edit(telling, concept, {"glow=on": 1.5, "straight": -1.0, "tint=off": 0.5}, directions=both)
    two = edit(telling, concept, {"tint=off": 0.5, "straight": -1.0, "glow=on": 1.5}, directions=both)
    assert torch.equal(one.codes[0].tensors["w"], two.codes[0].tensors["w"])
    torch.testing.assert_close(one.codes[0].tensors["w"], w + sum(steps.values()), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="found together"):
        edit(telling, concept, {"glow=on|straight": 1.0}, directions=both)
    with pytest.raises(UserError, match="cannot leave the path"):
        edit(telling, concept, {"straight|glow=on": 1.0}, directions=both)


def test_concepts_of_style_channels(telling, walking) -> None:
    """From W+ to its channels and on: nearly the same picture's step, through the affine layers."""
    vectors = styled(telling, 2, space="w+")
    still = edit(telling, vectors, {"glow=on": 1.0}, directions=walking)
    with torch.no_grad(), telling.bound(vectors) as view:
        channels = telling.channels_of(view, vectors.codes[0].tensors["w"])
        expected = telling.channels_of(view, still.codes[0].tensors["w"])
    from unified.contract.space import spaces

    concept = replace(vectors, codes=[spaces.get("s")().code(dict(channels))])
    moved = edit(telling, concept, {"glow=on": 1.0}, directions=walking).codes[0].tensors
    for layer, value in expected.items():
        step, wanted = moved[layer] - channels[layer], value - channels[layer]
        assert float((step - wanted).norm()) < 0.05 * float(wanted.norm()), layer  # narrow layers leave w open


def test_styles_nearest_to_channels(backbone) -> None:
    """Wide layers tell their w; of narrow ones the channels come back, and the rest is the mean."""
    number, width = backbone.style_shape()
    mean, _ = backbone.style_statistics()
    w = mean + torch.randn(3, number, width)
    with backbone.bound() as view:
        channels = backbone.channels_of(view, w)
        found = nearest_styles(backbone, channels)
        again = backbone.channels_of(view, found)
    torch.testing.assert_close(found[:, 1], w[:, 1], rtol=1e-2, atol=1e-2)
    for layer, value in channels.items():
        torch.testing.assert_close(again[layer], value, rtol=1e-3, atol=1e-3)
    assert bool(((found - mean).norm(dim=2) <= (w - mean).norm(dim=2) * 1.01).all())


# --- files and listing ---


@pytest.mark.parametrize("which", ["flowing", "walking"])
def test_stored_paths_do_the_same(which: str, telling, cache, request: pytest.FixtureRequest) -> None:
    found: Directions = request.getfixturevalue(which)
    file = save_directions(found, user_file(telling.fingerprint, found.method))
    again = load_directions(file, telling)
    concept, asked = styled(telling, 2, space="w+"), Edit.read(f"{found.method}:glow=on +1.5 & tint=on@0-3 -0.5")
    one = edit(telling, concept, asked.strengths, directions=directions_for(telling))
    two = edit(telling, concept, {"glow=on": 1.5, "tint=on@0-3": -0.5}, directions=found)
    assert torch.equal(one.codes[0].tensors["w"], two.codes[0].tensors["w"])
    assert (again.method, again.extractor, again.data) == (found.method, "linear", "2,000 random samples")
    lines = AttributeDirections().directions(telling)
    assert "depends on the picture" in lines["glow=on"]
    assert f"by {found.method}, judged by linear on 2,000 random samples" in lines["glow=on"]
    with pytest.raises(UserError, match="weights"):
        load_directions(file, gan.stylegan(seed=5))


@pytest.mark.parametrize("which", ["flowing", "walking"])
def test_a_byte_a_number_leads_to_the_same_place(which: str, telling, tmp_path, request) -> None:
    found: Directions = request.getfixturevalue(which)
    full, small = (save_directions(found, tmp_path / str(c), compact=c) for c in (False, True))
    assert small.stat().st_size < 0.8 * full.stat().st_size
    concept, strengths = styled(telling, 2, space="w+"), {"glow=on": 1.5}
    start, one, two = (
        edited.codes[0].tensors["w"]
        for edited in (
            concept,
            edit(telling, concept, strengths, directions=found),
            edit(telling, concept, strengths, directions=load_directions(small, telling)),
        )
    )
    assert float((two - one).norm()) < 0.02 * float((one - start).norm())


def test_damaged_paths_are_refused(walking, telling, tmp_path) -> None:
    model = walking.paths["glow=on"].model
    assert isinstance(model, GradientPaths)
    for broken, match in (
        (replace(model, root=torch.full_like(model.root, math.nan)), "not finite"),
        (replace(model, proxy=Proxy(WIDTH + 1, 4, hidden=(32,))), "damaged"),
    ):
        settings = model.settings()
        bad = replace(broken)
        object.__setattr__(bad, "settings", lambda s=settings: s)
        paths = {name: replace(path, model=bad) for name, path in walking.paths.items()}
        file = save_directions(replace(walking, paths=paths), tmp_path / "bad.safetensors")
        with pytest.raises(UserError, match=match):
            load_directions(file, telling)


def test_paths_are_named_by_what_they_change(telling, linear, walking) -> None:
    named = with_changes(telling, linear.classifier, walking.paths, count=64)
    assert named["glow=on"].changes["glow=on"] > 0.8 and named["glow=off"].changes["glow=on"] < -0.8


def test_the_card_says_how_well_paths_work(telling, linear, walking) -> None:
    found = effects(telling, linear, walking.every)
    assert found["glow=on"][1] > found["glow=on"][0] + 0.2
    table = supervised_table(walking, found)
    assert "## hijackgan" in table and "| glow=on |" in table and "- ghost=never" in table


def test_a_path_is_followed_by_generate(telling, walking, cache) -> None:
    """The whole way: named in a file, asked for by `generate`, tuned weights and noise bound with it."""
    save_directions(walking, user_file(telling.fingerprint, walking.method))
    concept = styled(telling, 2, extra=True)
    edited = telling.edit(concept, edits=Edit.read("hijackgan:glow=on +1"))
    one = telling.generate(concept, edits={"hijackgan:glow=on": 1.0}, output="pt")
    assert torch.equal(one, telling.generate(edited, output="pt"))
    assert not torch.equal(one, telling.generate(concept, output="pt"))


def test_layers_of_a_path(telling) -> None:
    shift = Shift(torch.ones(2, 4, 3), torch.ones(2, 5)).within((1, 3, 9), {"a": 2, "b": 2, "c": 1})
    assert shift.styles is not None and shift.channels is not None
    assert shift.styles[0, :, 0].tolist() == [0, 1, 0, 1] and shift.channels[1].tolist() == [0, 0, 1, 1, 0]


def test_the_proxy_reads_what_it_was_taught() -> None:
    w = torch.randn(1500, 4)
    scores = torch.stack([w[:, 0], -w[:, 1]], 1)
    data = AttributeData(w, scores, ("a=x", "b=y"), torch.zeros(2), torch.ones(2), (0.5, 0.5), {})
    proxy, accuracies = train_proxy(data, PROXY, rng=Random(0), progress=Silent())
    assert min(accuracies) > 0.95
    torch.testing.assert_close(proxy(w[:50]), scores[:50], rtol=0, atol=0.3)
