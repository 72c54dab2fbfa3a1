"""SAM: the most editable space for each part of the picture."""

from __future__ import annotations

import pytest
import torch

from inversion.methods.adaptive import SpatiallyAdaptive, at_size, choose, lpips_map, places_of
from inversion.methods.optimize import Optimize
from inversion.segments import superpixels
from inversion.spaces.feature_maps import FeatureMaps
from inversion.spaces.style import WPlus
from tests.tiny.families import pictures, tiny
from tests.tiny.gan import stylegan3
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, refusal
from unified.contract.reference import Reference
from unified.inversion import InvertSettings, invert
from unified.metrics.lpips import embedded_lpips


def own_picture() -> torch.Tensor:
    """A picture of the generator itself."""
    gan = tiny("stylegan")
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(3))
    return gan.synthesis(gan.mapping(z)) / 2 + 0.5


def errors(concept: Concept, reference: Reference) -> torch.Tensor:
    with torch.no_grad(), tiny("stylegan").bound(concept) as view:
        return view.attempt(reference, rng=Random(0)).error.flatten(1).mean(1)


def test_each_segment_takes_the_most_editable_space_that_is_good_enough() -> None:
    """Three segments side by side: the first space will do, only the third will, none will."""
    segments = torch.tensor([[[0, 0, 1, 1, 2, 2]]])
    maps = torch.tensor(
        [[0.1, 0.3, 0.1, 0.9, 0.9, 0.9], [0.0, 0.0, 0.3, 0.3, 0.8, 0.8], [0.0, 0.0, 0.1, 0.2, 0.7, 0.7]]
    )
    levels = choose(maps[:, None, None, :], segments, 0.21)
    assert levels.flatten().tolist() == [0, 0, 2, 2, 2, 2]


def test_masks_at_the_features_size() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, :2], mask[0, 2, 2] = True, True
    assert at_size(mask, (8, 2, 2)).flatten().tolist() == [True, False, False, False]
    # With a margin of half a picture on each side, a feature of 4 x 4 in the middle is one pixel of 2 x 2.
    margins = at_size(mask, (8, 4, 4), extent=2.0)[0, 0]
    assert margins[:2, :2].all() and margins.sum() == 4


def test_the_map_shows_where_pictures_differ_and_adds_up_to_lpips() -> None:
    gan = tiny("stylegan")
    a = pictures(gan, 2).images
    b = a.clone()
    b[..., :8, :8] = 1 - b[..., :8, :8]
    found = lpips_map(a, b)
    assert found[:, :8, :8].mean() > 3 * found[:, 16:, 16:].mean()
    assert torch.allclose(found.mean((1, 2)), embedded_lpips()(a, b), rtol=0.3)


def test_superpixels_follow_the_colours() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[..., 5:] = 1.0  # an edge that is on no grid
    segments = superpixels(images, count=4)
    left, right = segments[..., :5].unique().tolist(), segments[..., 5:].unique().tolist()
    assert not set(left) & set(right) and len(left) + len(right) >= 2


def test_sam_puts_residuals_only_where_w_plus_fails() -> None:
    gan = tiny("stylegan")
    image = own_picture()
    image[..., 4:14, 4:14] = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(0))  # no generator's
    reference = Reference(image)
    method = SpatiallyAdaptive(steps=25, search_steps=25, threshold=0.0115)
    spaces = (WPlus(), FeatureMaps(way="residual"))
    first = Stage((WPlus(),), Optimize(steps=60, lr=0.2, schedule="cosine"))
    concept = invert(gan, reference, Recipe("t", (first, Stage(spaces, method)), "", ""), InvertSettings())
    shares = concept.meta["stages"][1]["share_of_levels"]
    assert 0.1 < shares[0] < 0.9 and sum(shares) == pytest.approx(1, abs=1e-3)
    features = concept.codes[-1]
    assert features.space == "f" and list(features.tensors) == ["b16/shift", "b32.conv1/shift"]
    for value, share in zip(features.tensors.values(), shares[1:], strict=True):
        used = (value != 0).any(1)
        assert float(used.float().mean()) == pytest.approx(share, abs=0.08)
    assert errors(concept, reference) < errors(Concept([concept.codes[0]]), reference)


def test_sam_takes_the_sizes_that_there_are_and_refuses_other_spaces() -> None:
    gan = tiny("stylegan")
    assert places_of(gan.feature_shapes(), (16, 32, 64)) == ["b16", "b32.conv1"]
    margins = {"L0": (8, 36, 36), "L1": (8, 36, 36), "L2": (6, 52, 52), "L3": (6, 32, 32)}
    assert places_of(margins, (16, 32, 40, 64)) == ["L3", "L2"]
    reason = refusal(type(gan), [Stage((WPlus(),), SpatiallyAdaptive())])
    assert reason is not None and "residual" in reason


def test_an_interrupted_search_keeps_the_styles() -> None:
    """Ctrl-C while the spaces are measured: codes of both spaces, and the reason in the provenance."""
    gan = tiny("stylegan")

    class Stop:
        def start(self, label, total) -> None:
            self.measuring = "measuring w+ & f" in label

        def advance(self, done, *, loss=None) -> None:
            if self.measuring:
                raise KeyboardInterrupt

        def finish(self) -> None: ...

    spaces = (WPlus(), FeatureMaps(way="residual"))
    plan = Recipe("t", (Stage((WPlus(),), Optimize(steps=2)), Stage(spaces, SpatiallyAdaptive(steps=3))), "", "")
    reference = pictures(gan, 1)
    concept = invert(gan, reference, plan, InvertSettings(progress=Stop()))
    assert "interrupted" in concept.meta["stages"][1]["stopped"]
    assert [code.space for code in concept.codes] == ["w+", "w+", "f"]
    assert torch.equal(errors(concept, reference), errors(Concept(concept.codes[:1]), reference))


def test_runs_where_features_have_margins() -> None:
    gan = stylegan3()
    method = SpatiallyAdaptive(steps=2, search_steps=2, threshold=0.0)
    plan = Recipe("t", (Stage((WPlus(), FeatureMaps(way="residual")), method),), "", "")
    concept = invert(gan, pictures(gan, 1), plan, InvertSettings())
    assert concept.meta["stages"][0]["share_of_levels"][-1] == 1.0  # nothing is good enough
    finest = concept.codes[1].tensors["L3_32_6/shift"]
    assert bool((finest != 0).any())
