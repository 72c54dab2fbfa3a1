"""InterFaceGAN (Shen et al. 2020, "Interpreting the Latent Space of GANs for Semantic Face Editing").

An attribute that is shown or not splits the latent space by a hyperplane; its unit normal is the direction
that changes the attribute (section 3.1). Pure functions, no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unified.errors import UserError

_SMALLEST = 1e-4  # length of what conditioning leaves of a unit normal; below, nothing is left but rounding


@dataclass(frozen=True)
class Boundary:
    """A separating hyperplane.

    normal: unit [D], towards higher scores. accuracy: of the hyperplane on the samples held out of its
    fitting, 0..1. held_out: how many those were.
    """

    normal: Tensor
    accuracy: float
    held_out: int


def boundary(
    latents: Tensor,
    scores: Tensor,
    *,
    fraction: float = 0.02,
    training: float = 0.7,
    softness: float = 1.0,
    shown: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Boundary:
    """The hyperplane between the samples with the highest and with the lowest scores (section 4.1).

    latents: [N, D]. scores: [N], any increasing measure of how much the attribute is shown. fraction: share
    of the samples taken from each end, in (0, 0.5]. training: share of these that the linear support vector
    classifier is fitted to; the others give the accuracy. softness: its penalty C; the latents are scaled to
    unit spread before, so that it means the same for every generator. shown: int [N], which of several values
    each sample shows: the low end is then taken from the samples of every value but that of the high end, evenly (the
    paper's attributes have two values; of more, the lowest scores are all of the one that is most unlike, and the
    boundary would be towards that one). generator: of the split.
    Raises UserError if the shapes do not fit, the scores do not differ or the samples are too few.
    """
    from sklearn.svm import LinearSVC

    if latents.ndim != 2 or scores.shape != latents.shape[:1] or not 0 < fraction <= 0.5:
        raise UserError(
            f"Latents {tuple(latents.shape)}, scores {tuple(scores.shape)} and fraction {fraction} were"
            " given; expected [N, D], [N] and a fraction in (0, 0.5]."
        )
    if not bool(torch.isfinite(scores).all()) or float(scores.min()) == float(scores.max()):
        raise UserError("The scores do not tell the samples apart (all equal, or not finite): no boundary there.")
    count = int(len(scores) * fraction)
    fitted = int(count * training)
    if fitted < 2 or fitted == count:
        raise UserError(
            f"{len(scores)} samples leave {count} at each end, too few to fit a boundary and test it: take at"
            f" least {int(4 / (fraction * min(training, 1 - training))) + 1} samples, or a larger fraction."
        )
    order = scores.argsort(stable=True)
    lowest, highest = order[:count], order[-count:]
    if shown is not None:
        lowest = _evenly(order, shown, int(shown[highest].mode().values), count)
    shuffle = torch.randperm(count, generator=generator or torch.Generator().manual_seed(0))
    points = latents.double()
    points = (points - points.mean(0)) / points.var(0).mean().sqrt().clamp(min=1e-12)
    chosen = torch.stack([lowest[shuffle], highest[shuffle]])  # [2, count]
    labels = torch.tensor([0, 1]).unsqueeze(1).expand(2, count)

    def part(rows: slice) -> tuple[Tensor, Tensor]:
        return points[chosen[:, rows].flatten()], labels[:, rows].flatten()

    machine = LinearSVC(C=softness, random_state=0, max_iter=10_000)
    machine.fit(*(value.numpy() for value in part(slice(0, fitted))))
    normal = functional.normalize(torch.from_numpy(machine.coef_[0]), dim=0)
    accuracy = float(machine.score(*(value.numpy() for value in part(slice(fitted, None)))))
    return Boundary(normal.to(latents.dtype), accuracy, 2 * (count - fitted))


def _evenly(order: Tensor, shown: Tensor, value: int, count: int) -> Tensor:
    """`count` rows of `order` (by rising score) that show another value: of each one the lowest, evenly.

    Where a value has too few, the others give more. Raises UserError if all of them together are too few.
    """
    groups = [order[shown[order] == other] for other in shown.unique().tolist() if other != value]
    ranks = torch.cat([torch.arange(len(group)) for group in groups]) if groups else torch.empty(0)
    if len(ranks) < count:
        raise UserError(f"Only {len(ranks)} samples show another value; {count} are needed: take more samples.")
    return torch.cat(groups)[ranks.argsort(stable=True)[:count]]


def conditional(primal: Tensor, *others: Tensor) -> Tensor:
    """The unit direction nearest to `primal` that keeps the scores of `others` (section 3.3).

    primal, others: [D]; the part of `primal` in the span of `others` is taken out. Moving along the result
    leaves every <other, w> as it is. Raises UserError if nothing is left.
    """
    if not others:
        return functional.normalize(primal, dim=0)
    basis, upper = torch.linalg.qr(torch.stack([functional.normalize(o.double(), dim=0) for o in others], dim=1))
    basis = basis[:, upper.diagonal().abs() > _SMALLEST]  # others that repeat one another count once
    unit = functional.normalize(primal.double(), dim=0)
    rest = unit - basis @ (basis.T @ unit)
    if float(rest.norm()) < _SMALLEST:
        raise UserError("The direction lies in the span of those that it shall leave alone: nothing is left of it.")
    return functional.normalize(rest, dim=0).to(primal.dtype)
