"""Optimisation-based inversion: one loop over the leaves of bound codes, for every family and space.

Survey sections 3.3.1 and 4.3.2: argmin over the code of the error of the backbone that it is bound to.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from inversion.methods.schedules import SCHEDULES
from inversion.objectives.error import Error
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Evidence
from unified.contract.method import Job, Method, methods
from unified.contract.objective import Objective, Step
from unified.contract.random import Random
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

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if self.evidence is not None and self.evidence not in backbone.evidences:
            able = ", ".join(e.value for e in backbone.evidences)
            return f"it explains pictures by {self.evidence.value}, this backbone can only by {able}"
        evidence = self.evidence or backbone.evidences[0]
        for space in spaces:
            if evidence not in space.learns_from:
                return f"no gradient of the {evidence.value} error reaches the space {space.name!r}"
        return None

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[Code]:
        if torch.is_inference_mode_enabled():
            raise UserError("Optimisation needs gradients: call invert outside of torch.inference_mode().")
        with torch.enable_grad():
            with job.open() as view:
                codes = [s.initial(view, job.reference, rng=job.rng.child("initial", s.name)) for s in spaces]
            leaves = [code.map(lambda t: t.detach().clone().requires_grad_()) for code in codes]
            with job.open(codes) as view:
                _Run(self, job, tuple(spaces), codes, leaves, view).loop()
        return codes


@dataclass
class _Best:
    """The codes of the lowest loss so far; per picture where a code is per picture."""

    loss: Tensor
    codes: list[Code]

    @torch.no_grad()
    def offer(self, loss: Tensor, leaves: Sequence[Code]) -> None:
        better = loss < self.loss
        shared_better = bool(loss.mean() < self.loss.mean())
        for kept, leaf in zip(self.codes, leaves, strict=True):
            for name, value in leaf.tensors.items():
                if leaf.per_picture:
                    kept.tensors[name][better] = value[better]
                elif shared_better:
                    kept.tensors[name].copy_(value)
        if all(leaf.per_picture for leaf in leaves):
            self.loss = torch.where(better, loss, self.loss)
        elif shared_better:
            self.loss = loss.clone()


class _Run:
    """One run of the loop: the state that a checkpoint holds, and the steps."""

    def __init__(
        self,
        method: Optimize,
        job: Job,
        spaces: tuple[Space, ...],
        codes: list[Code],
        leaves: list[Code],
        view: View,
    ) -> None:
        self.method, self.job, self.spaces = method, job, spaces
        self.codes, self.leaves, self.view = codes, leaves, view
        groups = [
            {"params": list(leaf.tensors.values()), "lr": method.lrs.get(space.name, method.lr)}
            for space, leaf in zip(spaces, leaves, strict=True)
        ]
        self.rates = [float(group["lr"]) for group in groups]  # type: ignore[arg-type]
        self.adam = torch.optim.AdamW(groups, betas=method.betas, weight_decay=method.weight_decay)
        self.losses: list[float] = []
        self.best: _Best | None = None
        evidence = method.evidence or job.backbone.evidences[0]
        keep = method.keep or ("best" if evidence is Evidence.RENDER else "last")
        # A mini-batch's loss says nothing of the pictures it left out.
        if keep == "best" and (method.batch is None or method.batch >= len(job.reference)):
            infinite = torch.full((len(job.reference),), math.inf)
            self.best = _Best(infinite, [leaf.map(lambda t: t.detach().clone()) for leaf in leaves])

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
        self._return_codes()
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
        for space, code, leaf in zip(self.spaces, self.codes, self.leaves, strict=True):
            tensors = space.explore(self.view, leaf, progress=step.progress, rng=rng.child("explore"))
            code.tensors = dict(tensors)

        attempt = self.view.attempt(
            reference, rng=rng.child("attempt"), prompts=self._prompts(reference, rng), evidence=method.evidence
        )
        terms = {o.name: o.weight * o(self.view, attempt, self.codes, step) for o in method.objectives}
        rows = fit = torch.stack(list(terms.values())).sum(0)
        for space, leaf in zip(self.spaces, self.leaves, strict=True):
            prior = space.prior(self.view, leaf)
            rows = rows + (prior[list(reference.index)] if leaf.per_picture else prior)
        if not bool(torch.isfinite(rows).all()):
            return self._not_finite(step)
        detached = rows.detach()
        if self.best is not None:
            self.best.offer(detached, self.leaves)
        self.losses.append(float(fit.detach().mean()))
        if method.stop is not None:
            weights = {o.name: o.weight for o in method.objectives}
            value = terms[method.stop.objective].detach().max() / weights[method.stop.objective]
            if float(value) <= method.stop.below:
                return f"{method.stop.objective} reached {method.stop.below}"
        self.adam.zero_grad(set_to_none=True)
        # Per-picture codes: a sum, so that a picture's gradient does not depend on its company.
        (rows.sum() if all(leaf.per_picture for leaf in self.leaves) else rows.mean()).backward()
        values = [t for leaf in self.leaves for t in leaf.tensors.values() if t.grad is not None]
        if method.clip is not None:
            torch.nn.utils.clip_grad_norm_(values, method.clip)
        if any(not bool(torch.isfinite(t.grad).all()) for t in values if t.grad is not None):
            return self._not_finite(step)
        self._last_good = [leaf.map(lambda t: t.detach().clone()) for leaf in self.leaves]
        self.adam.step()
        with torch.no_grad():
            for space, leaf in zip(self.spaces, self.leaves, strict=True):
                space.project(leaf)
        return None

    _last_good: list[Code]

    def _not_finite(self, step: Step) -> str:
        if step.number == 0 or not hasattr(self, "_last_good"):
            raise UserError(
                f"The loss of {self.job.label or 'the inversion'} is not a number at its first step: check the"
                " pictures and the weights for NaN, and the precision (use float32)."
            )
        for leaf, good in zip(self.leaves, self._last_good, strict=True):
            for name, value in good.tensors.items():
                leaf.tensors[name].data.copy_(value)
        return "the loss became NaN or infinite (the last good code is kept; try a smaller lr)"

    def _batch(self, rng: Random) -> Reference:
        whole = self.job.reference
        size = self.method.batch
        if size is None or size >= len(whole):
            return whole
        return whole.pick(sorted(rng.permutation(len(whole))[:size]))

    def _prompts(self, reference: Reference, rng: Random) -> list[str]:
        templates = self.method.templates
        if len(templates) == 1:
            chosen = [0] * len(reference)
        else:
            chosen = rng.child("template").integers(reference.index, 0, len(templates)).tolist()
        captions = reference.captions or ("",) * len(reference)
        return [
            templates[i].replace("{caption}", caption).replace("{}", reference.name)
            for i, caption in zip(chosen, captions, strict=True)
        ]

    def _return_codes(self) -> None:
        source = self.leaves if self.best is None or not self.losses else self.best.codes
        for code, final in zip(self.codes, source, strict=True):
            code.tensors = {name: value.detach().clone() for name, value in final.tensors.items()}

    # --- checkpoints --------------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        assert self.job.checkpoint is not None
        state: dict[str, Any] = {
            "step": step,
            "losses": self.losses,
            "leaves": [{k: v.detach() for k, v in leaf.tensors.items()} for leaf in self.leaves],
            "adam": self.adam.state_dict(),
            "objectives": [dict(o.state_dict()) for o in self.method.objectives],
        }
        if self.best is not None:
            state["best"] = {"loss": self.best.loss, "codes": [c.tensors for c in self.best.codes]}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_file(self.job.checkpoint, buffer.getvalue())

    def _resume(self) -> int:
        path: Path | None = self.job.checkpoint
        if path is None or not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        for leaf, saved in zip(self.leaves, state["leaves"], strict=True):
            for name, value in saved.items():
                leaf.tensors[name].data.copy_(value)
        self.adam.load_state_dict(state["adam"])
        for objective, saved in zip(self.method.objectives, state["objectives"], strict=True):
            objective.load_state_dict(saved)
        self.losses = list(state["losses"])
        if self.best is not None and "best" in state:
            self.best.loss = state["best"]["loss"]
            for kept, saved in zip(self.best.codes, state["best"]["codes"], strict=True):
                kept.tensors.update(saved)
        return int(state["step"])


methods.register("optimize", Optimize)
