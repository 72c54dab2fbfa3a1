"""Optimisation-based inversion: one loop over the leaves of bound codes, for every family and space.

Survey sections 3.3.1 and 4.3.2: argmin over the code of the error of the backbone that it is bound to.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from inversion.augment import Augmentation
from inversion.methods.schedules import SCHEDULES
from inversion.objectives.error import Error
from unified.contract.abilities import lacked
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Evidence
from unified.contract.method import Job, Method, methods
from unified.contract.objective import Objective, Step
from unified.contract.random import Random
from unified.contract.recipe import verb
from unified.contract.reference import Reference
from unified.contract.space import Space
from unified.contract.view import View
from unified.errors import UserError
from unified.files import write_file

_KEPT_LOSSES = 200  # points of the loss curve that go into the concept's provenance


@dataclass(frozen=True)
class Stop:
    """Stop early once the named objective is at or below `below` on every picture."""

    objective: str
    below: float


@dataclass(frozen=True)
class Optimize(Method):
    """Adam on the tensors of one or more codes.

    steps, lr: number of steps and peak learning rate. lrs: rates of single spaces by name.
    schedule: name in `schedules.SCHEDULES`; a factor of the rate over progress 0..1.
    objectives: terms of the loss; the backbone's own error if not given.
    evidence: how pictures are explained; None is the backbone's default.
    templates: prompts of the pictures, `{}` is the concept's name; one is drawn per picture and step.
    batch: pictures per step; None: all of them.
    keep: which codes to return: those of the lowest loss (per picture), or the last ones. None: "best" when
        the loss is a function of the code alone (rendered evidence), else "last".
    clip: largest norm of the gradient of all codes together; None: no limit.
    augment: changes the pictures and their prompts at each step; None: they stay as they are.
    turns: names of the spaces that learn, step by step and round again; (): all of them at every step.
    """

    name: ClassVar[str] = "optimize"

    steps: int = 200
    lr: float = 1e-2
    lrs: Mapping[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "constant"
    objectives: tuple[Objective, ...] = (Error(),)
    evidence: Evidence | None = None
    templates: tuple[str, ...] = ("{}",)
    batch: int | None = None
    keep: Literal["best", "last"] | None = None
    stop: Stop | None = None
    clip: float | None = None
    checkpoint_every: int = 100
    augment: Augmentation | None = None
    turns: tuple[tuple[str, ...], ...] = ()

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if self.evidence is not None and self.evidence not in backbone.evidences:
            able = ", ".join(e.value for e in backbone.evidences)
            return f"it explains pictures by {self.evidence.value}, this backbone can only by {able}"
        evidence = self.evidence or backbone.evidences[0]
        for space in spaces:
            if evidence not in space.learns_from:
                return f"no gradient of the {evidence.value} error reaches the space {space.name!r}"
        absent = {name for turn in self.turns for name in turn} - {space.name for space in spaces}
        if absent:
            return f"its turns name {min(absent)!r}, which is not one of the spaces of this stage"
        for objective in self.objectives:
            missing = lacked(backbone, objective.needs)
            if missing:
                return f"the objective {objective.name!r} needs a backbone that {verb(missing)}"
        return None

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        if torch.is_inference_mode_enabled():
            raise UserError("Optimisation needs gradients: call invert outside of torch.inference_mode().")
        with torch.enable_grad():
            with job.open() as view:
                items = [
                    _Item.begin(space, view, member.reference, rows, job.rng.child("initial", space.name))
                    for member, rows in zip(job.members, job.rows, strict=True)
                    for space in spaces
                ]
            codes = [[i.code for i in items[k : k + len(spaces)]] for k in range(0, len(items), len(spaces))]
            with job.open(codes) as view:
                _Run(self, job, items, view).loop()
        return codes


@dataclass
class _Item:
    """One code being optimised: the code the view reads, the leaves that Adam moves, the best so far."""

    space: Space
    code: Code
    leaf: Code
    rows: range  # its pictures in the job's reference
    keys: tuple[int, ...]
    best: Code | None = None

    @staticmethod
    def begin(space: Space, view: View, reference: Reference, rows: range, rng: Random) -> _Item:
        code = space.initial(view, reference, rng=rng)
        leaf = code.map(lambda t: t.detach().clone().requires_grad_())
        return _Item(space, code, leaf, rows, reference.keys)

    def copied(self) -> Code:
        return self.leaf.map(lambda t: t.detach().clone())

    @torch.no_grad()
    def set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.leaf.tensors[name].copy_(value)


class _Run:
    """One run of the loop: the state that a checkpoint holds, and the steps."""

    def __init__(self, method: Optimize, job: Job, items: list[_Item], view: View) -> None:
        self.method, self.job, self.items, self.view = method, job, items, view
        # Objectives with state learn or remember while they run; those of the recipe stay as they are.
        self.objectives = tuple(copy.deepcopy(o) if _has_state(o) else o for o in method.objectives)
        groups = [
            {"params": list(item.leaf.tensors.values()), "lr": method.lrs.get(item.space.name, method.lr)}
            for item in items
        ]
        self.rates = [method.lrs.get(item.space.name, method.lr) for item in items]
        self.adam = torch.optim.AdamW(groups, betas=method.betas, weight_decay=method.weight_decay)
        for objective in self.objectives:
            objective.prepare(view)
        self.per_picture = all(item.leaf.per_picture for item in items)
        self.losses: list[float] = []
        self.last_good: list[Code] = []
        evidence = method.evidence or job.backbone.evidences[0]
        keep = method.keep or ("best" if evidence is Evidence.RENDER else "last")
        # A mini-batch's loss says nothing of the pictures it left out.
        self.keeps_best = keep == "best" and (method.batch is None or method.batch >= len(job.reference))
        self.best_loss = torch.full((len(job.reference),), math.inf)

    def loop(self) -> None:
        method, job = self.method, self.job
        start = self._resume()
        job.progress.start(job.label, method.steps)
        step = start
        finished = False
        try:
            while step < method.steps:
                reason = self._step(Step(step, method.steps))
                step += 1
                job.progress.advance(step, loss=self.losses[-1] if self.losses else None)
                if reason is not None:
                    job.log["stopped"] = f"{reason} at step {step} of {method.steps}"
                    break
                if job.checkpoint is not None and step % method.checkpoint_every == 0:
                    self._save(step)
            finished = True
        except KeyboardInterrupt:
            job.log["stopped"] = f"interrupted at step {step} of {method.steps}"
            job.log["interrupted"] = True
        finally:
            job.progress.finish()
            if not finished and job.checkpoint is not None:
                self._save(step)
        if self.keeps_best and "stopped" not in job.log:
            # The codes after the last step have not been measured yet, and may be the best ones.
            with torch.no_grad():
                self._offer(self._loss(Step(step, method.steps), job.rng.child("step", step))[1])
        for item in self.items:
            final = item.best if item.best is not None else item.leaf
            item.code.tensors = {name: value.detach().clone() for name, value in final.tensors.items()}
        job.log["steps"] = step
        stride = max(1, len(self.losses) // _KEPT_LOSSES)
        job.log["losses"] = self.losses[::stride]

    def _step(self, step: Step) -> str | None:
        """One step; returns why to stop, or None."""
        method, job = self.method, self.job
        rng = job.rng.child("step", step.number)
        reference = self._batch(rng)
        factor = SCHEDULES[method.schedule](step.progress)
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        fit, rows, terms = self._loss(step, rng, reference)
        if not bool(torch.isfinite(rows).all()):
            return self._not_finite(step)
        if self.keeps_best:
            self._offer(rows.detach())
        self.losses.append(float(fit.detach().mean()))
        if method.stop is not None and float(terms[method.stop.objective].detach().max()) <= method.stop.below:
            return f"{method.stop.objective} reached {method.stop.below}"
        self.adam.zero_grad(set_to_none=True)
        self._total(rows, reference).backward()
        values = [t for item in self.items for t in item.leaf.tensors.values() if t.grad is not None]
        if any(not bool(torch.isfinite(t.grad).all()) for t in values if t.grad is not None):
            return self._not_finite(step)
        if method.clip is not None:
            torch.nn.utils.clip_grad_norm_(values, method.clip)
        self.last_good = [item.copied() for item in self.items]
        self.adam.step()
        with torch.no_grad():
            for item in self.items:
                item.space.project(item.leaf, rng=rng.child("project"), keys=item.keys)
        return None

    def _loss(
        self, step: Step, rng: Random, reference: Reference | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(objectives, objectives and priors, each objective unweighted) of every picture, [B]."""
        method = self.method
        reference = reference or self.job.reference
        for item in self.items:
            tried = item.space.explore(
                self.view, item.leaf, progress=step.progress, rng=rng.child("explore"), keys=item.keys
            )
            waits = bool(method.turns) and item.space.name not in method.turns[step.number % len(method.turns)]
            item.code.tensors = {key: value.detach() if waits else value for key, value in tried.items()}
        prompts = self._prompts(reference, rng)
        if method.augment is not None:
            reference, prompts = method.augment(reference, prompts, rng=rng.child("augment"))
        attempt = self.view.attempt(reference, rng=rng.child("attempt"), prompts=prompts, evidence=method.evidence)
        codes = [item.code for item in self.items]
        terms = {o.name: o(self.view, attempt, codes, step) for o in self.objectives}
        fit = torch.stack([o.weight * terms[o.name] for o in self.objectives]).sum(0)
        rows = fit + self._priors(reference, fit)
        return fit, rows, terms

    def _priors(self, reference: Reference, like: Tensor) -> Tensor:
        """The spaces' own penalties for each picture of the mini-batch."""
        total = torch.zeros_like(like)
        for item in self.items:
            prior = item.space.prior(self.view, item.leaf)
            own = [i for i, row in enumerate(reference.index) if row in item.rows]
            if item.leaf.per_picture:
                prior = prior[[reference.index[i] - item.rows.start for i in own]]
            total = total.index_add(0, torch.tensor(own), prior.to(total.dtype).expand(len(own)))
        return total

    def _total(self, rows: Tensor, reference: Reference) -> Tensor:
        """The number to descend. Per-picture codes: a sum, so that a picture's gradient does not depend on its
        company; shared ones: each concept's mean, so that a concept's gradient does not either."""
        if self.per_picture:
            return rows.sum()
        means = []
        for member in self.job.rows:
            own = [i for i, row in enumerate(reference.index) if row in member]
            means.append(rows[own].mean())
        return torch.stack(means).sum()

    @torch.no_grad()
    def _offer(self, loss: Tensor) -> None:
        """Keep what is better than before: per picture where a code is per picture, else per concept."""
        better = loss < self.best_loss
        for item in self.items:
            own = slice(item.rows.start, item.rows.stop)
            if item.best is None:
                item.best = item.copied()
            elif item.leaf.per_picture:
                for name, value in item.leaf.tensors.items():
                    item.best.tensors[name][better[own]] = value[better[own]]
            elif bool(loss[own].mean() < self.best_loss[own].mean()):
                item.best = item.copied()
        if self.per_picture:
            self.best_loss = torch.where(better, loss, self.best_loss)
            return
        for rows in self.job.rows:
            own = slice(rows.start, rows.stop)
            if bool(loss[own].mean() < self.best_loss[own].mean()):
                self.best_loss[own] = loss[own]

    def _not_finite(self, step: Step) -> str:
        if not self.last_good:
            raise UserError(
                f"The loss of {self.job.label or 'the inversion'} is not a number at its first step: check the"
                " pictures and the weights for NaN, and the precision (use float32)."
            )
        for item, good in zip(self.items, self.last_good, strict=True):
            item.set(good.tensors)
        return "the loss became NaN or infinite (the last good code is kept; try a smaller lr)"

    def _batch(self, rng: Random) -> Reference:
        """`batch` pictures of every concept, the same ones that the concept would get alone."""
        size = self.method.batch
        if size is None:
            return self.job.reference
        chosen: list[int] = []
        for rows in self.job.rows:
            chosen += sorted(rows[i] for i in rng.permutation(len(rows))[:size])
        return self.job.reference.pick(chosen)

    def _prompts(self, reference: Reference, rng: Random) -> list[str]:
        templates = self.method.templates
        if len(templates) == 1:
            chosen = [0] * len(reference)
        else:
            chosen = rng.child("template").integers(reference.keys, 0, len(templates)).tolist()
        captions = reference.captions or ("",) * len(reference)
        return [
            templates[i].replace("{caption}", caption).replace("{}", name)
            for i, caption, name in zip(chosen, captions, reference.names, strict=True)
        ]

    # --- checkpoints --------------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        assert self.job.checkpoint is not None
        state: dict[str, Any] = {
            "step": step,
            "losses": self.losses,
            "leaves": [item.copied().tensors for item in self.items],
            "best": [None if item.best is None else item.best.tensors for item in self.items],
            "best_loss": self.best_loss,
            "adam": self.adam.state_dict(),
            "objectives": [dict(o.state_dict()) for o in self.objectives],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_file(self.job.checkpoint, buffer.getvalue())

    def _resume(self) -> int:
        path: Path | None = self.job.checkpoint
        if path is None or not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        for item, leaf, best in zip(self.items, state["leaves"], state["best"], strict=True):
            item.set(leaf)
            item.best = None if best is None else item.leaf.with_tensors(best)
        self.adam.load_state_dict(state["adam"])
        for objective, saved in zip(self.objectives, state["objectives"], strict=True):
            objective.load_state_dict(saved)
        self.losses = list(state["losses"])
        self.best_loss = state["best_loss"]
        return int(state["step"])


def _has_state(objective: Objective) -> bool:
    return type(objective).state_dict is not Objective.state_dict


methods.register("optimize", Optimize)
