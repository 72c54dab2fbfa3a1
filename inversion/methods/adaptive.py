"""SAM: for each part of the picture the most editable space that can hold it (Parmar et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from inversion.methods.optimize import Optimize
from inversion.objectives.anchor import Anchor
from inversion.objectives.distribution import Distribution, Spread
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.segments import superpixels
from inversion.spaces.feature_maps import FeatureMaps
from inversion.spaces.style import WPlus
from unified.contract.abilities import Featured, Maps, Renders
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Evidence
from unified.contract.method import Job, Method, methods
from unified.contract.objective import Objective
from unified.contract.random import Random
from unified.contract.space import Space
from unified.metrics.lpips import embedded_lpips


@dataclass(frozen=True)
class SpatiallyAdaptive(Method):
    """W+ for what it can hold, residuals of ever finer features for the rest, segment by segment.

    1. Invertibility map of each space, W+ and then F at each of `sizes`: where in the picture LPIPS remains after
       an inversion in it (section 3.1). The paper trains a network to predict these maps; we measure them, by
       `search_steps` steps in each space.
    2. Each segment takes the most editable space whose mean over it is at most `threshold`, else the last one.
       The paper's segments are those of a semantic network, ours `segments` superpixels.
    3. w and all residuals are found together, f_t = g_t(f_{t-1}, w) + m_t F_t with the segments' masks m_t
       (equations 3 to 6): squared pixels + LPIPS + 5 |F|^2 + 1e-3 spread + 1e-8 Mahalanobis distances.

    sizes: pixels of the features, as far as the backbone has them. steps, lr: of part 3.
    """

    name: ClassVar[str] = "spatially-adaptive"
    needs: ClassVar[tuple[type, ...]] = (Renders, Featured, Maps)

    steps: int = 500
    lr: float = 0.05
    search_steps: int = 100
    threshold: float = 0.225
    sizes: tuple[int, ...] = (16, 32, 64, 128)
    segments: int = 16

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        fitting = [s for s in spaces if isinstance(s, WPlus) or (isinstance(s, FeatureMaps) and s.way == "residual")]
        if [s.name for s in spaces] not in (["w+", "f"], ["f", "w+"]) or len(fitting) != 2:
            return "it fills 'w+' and the residuals of 'f' together: FeatureMaps(way='residual') and WPlus()"
        return None

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        assert len(job.members) == 1, "codes per picture are found for all pictures as one concept"
        backbone = job.backbone
        assert isinstance(backbone, Featured)
        styles = next(space for space in spaces if isinstance(space, WPlus))
        features = next(space for space in spaces if isinstance(space, FeatureMaps))
        places = places_of(backbone.feature_shapes(), self.sizes)
        maps: list[Tensor] = []
        for number, place in enumerate([None, *places]):
            tried: tuple[Space, ...] = (styles,)
            if place is not None:
                tried = (styles, replace(features, places=(place,)))
            log = self._search(job, number, tried, maps)
            if log.get("interrupted"):
                job.log.update(log)
                return self._unsearched(job, spaces, places)
        levels = choose(torch.stack(maps), superpixels(job.reference.images, count=self.segments), self.threshold)
        job.log["share_of_levels"] = [round(float((levels == i).float().mean()), 4) for i in range(len(maps))]
        shapes = backbone.feature_shapes()
        extents = backbone.feature_extents()
        masks = {name: at_size(levels == i, shapes[name], extent=extents[name]) for i, name in enumerate(places, 1)}
        chosen = _Masked(places=tuple(places), way="residual").within(masks)
        plan = self._optimiser(job, self.steps, len(places))
        found = plan.invert(job, (styles, chosen))[0]
        by_name = {code.space: code for code in found}
        return [[by_name[space.name] for space in spaces]]

    def _search(self, job: Job, number: int, tried: tuple[Space, ...], maps: list[Tensor]) -> Mapping[str, object]:
        """Invert in these spaces and append the invertibility map [N,H,W]; returns the search's log."""
        steps = min(self.search_steps, self.steps)
        label = f"{job.label}, measuring {' & '.join(space.name for space in tried)} ({number + 1})"
        search = Job(job.backbone, job.members, job.rng.child("search", number), job.progress, None, label)
        codes = self._optimiser(job, steps, len(tried) - 1).invert(search, tried)
        with torch.no_grad(), search.open(codes) as view:
            found = view.attempt(job.reference, rng=Random(0)).render()
            maps.append(lpips_map(found, job.reference.images))
        return search.log

    def _unsearched(self, job: Job, spaces: Sequence[Space], places: Sequence[str]) -> list[list[Code]]:
        """What there is after an interruption: the styles so far, and residuals of zero."""
        filled = [replace(s, places=tuple(places)) if isinstance(s, FeatureMaps) else s for s in spaces]
        with torch.no_grad(), job.open() as view:
            return [[s.initial(view, job.reference, rng=job.rng.child("initial", s.name)) for s in filled]]

    def _optimiser(self, job: Job, steps: int, residuals: int) -> Optimize:
        backbone = job.backbone
        assert isinstance(backbone, Renders)
        number, width = backbone.style_shape()
        terms: list[Objective] = [
            Error(weight=4.0),  # the paper's pictures are in -1..1
            Perceptual(),
            Spread(weight=1e-3),
            Distribution(weight=1e-8 * number * width),  # theirs is the sum over layers and axes, ours the mean
        ]
        if residuals:
            terms.append(Anchor(space="f", weight=5.0 * residuals))  # likewise a sum over the residuals
        return Optimize(
            steps=steps, lr=self.lr, schedule="projector", objectives=tuple(terms), evidence=Evidence.RENDER
        )


@dataclass(frozen=True)
class _Masked(FeatureMaps):
    """Residuals that stay zero outside of masks; bound again, they are plain residuals."""

    def within(self, masks: Mapping[str, Tensor]) -> _Masked:
        """masks: [N,1,h,w] by place, 0 or 1. No setting, so no field."""
        object.__setattr__(self, "_masks", masks)
        return self

    def project(self, code: Code, *, rng: Random, keys: Sequence[int]) -> None:
        for key, value in code.tensors.items():
            value *= self.__dict__["_masks"][key.rpartition("/")[0]].to(value.dtype)


def places_of(shapes: Mapping[str, tuple[int, int, int]], sizes: Sequence[int]) -> list[str]:
    """For each size the last place of the smallest features that have it (of a StyleGAN2 what the block gives to the
    next); sizes beyond the largest features are left out."""
    last = {height: name for name, (_, height, _) in shapes.items()}
    found = [min((height for height in last if height >= size), default=None) for size in sizes]
    return list(dict.fromkeys(last[height] for height in found if height is not None))


def lpips_map(found: Tensor, target: Tensor) -> Tensor:
    """Where LPIPS lies: pictures [N,3,H,W] -> [N,H,W], whose mean is LPIPS up to the edges' interpolation."""
    lpips = embedded_lpips()
    total = found.new_zeros(len(found), 1, *found.shape[-2:])
    for a, b in zip(lpips.parts(found), lpips.parts(target), strict=True):
        distance = (a - b).square().sum(1, keepdim=True) * (a.shape[2] * a.shape[3])
        total = total + functional.interpolate(distance, size=found.shape[-2:], mode="bilinear")
    return total[:, 0]


def choose(maps: Tensor, segments: Tensor, threshold: float) -> Tensor:
    """The level of each pixel, int64 [N,H,W]: the first one whose map's mean over the pixel's segment is at most
    `threshold`, else the last.

    maps: [levels, N, H, W], the most editable space first. segments: [N, H, W].
    """
    count = int(segments.max()) + 1
    members = functional.one_hot(segments.flatten(1), count).to(maps.dtype)  # [N, pixels, segments]
    means = torch.einsum("lnp,nps->lns", maps.flatten(2), members) / members.sum(1).clamp(min=1)
    good = means <= threshold
    good[-1] = True
    level = good.int().argmax(0)  # [N, segments]
    return level.gather(1, segments.flatten(1)).reshape(segments.shape)


def at_size(mask: Tensor, shape: tuple[int, int, int], *, extent: float = 1.0) -> Tensor:
    """Where at least half of what a feature covers is in the mask: bool [N,H,W] -> bool [N,1,h,w].

    extent: how many widths of the picture the features cover; their margins see the picture's edge.
    """
    margin = round((extent - 1) / 2 * mask.shape[-1])
    wide = functional.pad(mask.float().unsqueeze(1), (margin,) * 4, mode="replicate")
    return functional.adaptive_avg_pool2d(wide, shape[1:]) >= 0.5


methods.register("spatially-adaptive", SpatiallyAdaptive)
