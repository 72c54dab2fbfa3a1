"""Inversions that change what guidance starts from: null-text and negative-prompt inversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.methods.noise import PROMPT, denoiser, pivots, prompts_of, unfit
from inversion.spaces.noise import replaced
from unified.contract.abilities import Denoises, Level, Reads
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space
from unified.contract.view import View
from unified.denoising.guided import split_at
from unified.denoising.space import inverted
from unified.denoising.steps import deterministic
from unified.errors import UserError

_FILLED = ("start-noise", "unconditional")


@dataclass(frozen=True)
class NullText(Method):
    """Null-text inversion (Mokady et al. 2023, section 3.2, algorithm 1).

    DDIM inversion without guidance gives pivots; then, step by step from the noise on, the embedding of the
    empty prompt is optimised so that the guided step lands on the next pivot. Each step starts from the
    embedding of the one before and from the latents reached, by Adam at rate lr (1 - i/2 steps), until the mean
    squared error is below `tolerance` + 2 `tolerance` i or `inner` updates are done (the published code's
    values, i counting steps). Every picture has its own embeddings and stops by itself.

    prompt: description of pictures without captions, `{}` is the concept's carrier.
    """

    name: ClassVar[str] = "null-text"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Reads)

    steps: int = 50
    guidance: float = 7.5
    inner: int = 10
    lr: float = 1e-2
    tolerance: float = 1e-5
    prompt: str = PROMPT

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        return unfit(self, spaces, _FILLED)

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        if torch.is_inference_mode_enabled():
            raise UserError("Null-text inversion needs gradients: call invert outside of torch.inference_mode().")
        with job.open() as view:
            prompts = prompts_of(job, view, self.prompt)
            job.progress.start(f"{job.label}: pivots", self.steps)
            path, levels = pivots(job, view, prompts, steps=self.steps)
            job.progress.finish()
            job.progress.start(job.label, self.steps)
            parts = {"text": self._follow(job, view, prompts, path, levels)}
            job.progress.finish()
        return _codes(job, spaces, path[0], parts, prompts, steps=self.steps, guidance=self.guidance, fixed=True)

    def _follow(
        self, job: Job, view: View, prompts: Sequence[str], path: Sequence[Tensor], levels: Sequence[Level]
    ) -> Tensor:
        """The embeddings [pictures, steps, tokens, width]; an interruption keeps the last one for what is left."""
        backbone = denoiser(job)
        with torch.no_grad():
            positive = backbone.condition(view, prompts)
            empty = backbone.condition(view, [""] * len(prompts))
        if "text" not in empty:
            raise UserError(
                "Null-text inversion needs prompts that read alike at all times: leave 'neti' and its like out."
            )
        x, text = path[0], empty["text"]
        found: list[Tensor] = []
        try:
            for number in range(self.steps):
                step = _Step(backbone, view, x, levels[number], levels[number + 1], empty, positive, self.guidance)
                rate = self.lr * (1 - number / (2 * self.steps))
                text, loss = self._optimise(step, text, path[number + 1], rate, self.tolerance * (1 + 2 * number))
                found.append(text)
                with torch.no_grad():
                    x = step(text)
                job.progress.advance(number + 1, loss=loss)
        except KeyboardInterrupt:
            job.log |= {"interrupted": True, "stopped": f"interrupted at step {len(found)} of {self.steps}"}
        found += [text] * (self.steps - len(found))
        return torch.stack(found, 1)

    def _optimise(
        self, step: _Step, text: Tensor, pivot: Tensor, rate: float, enough: float
    ) -> tuple[Tensor, float | None]:
        with torch.enable_grad():
            leaf = text.detach().clone().requires_grad_()
            adam = torch.optim.Adam([leaf], lr=rate)
            done = torch.zeros(len(text), dtype=torch.bool)
            loss = None
            for _ in range(self.inner):
                error = (step(leaf) - pivot).square().flatten(1).mean(1)
                loss = float(error.detach().mean())
                done |= error.detach() < enough
                if bool(done.all()):
                    break
                before = leaf.detach().clone()
                adam.zero_grad()
                error.sum().backward()
                adam.step()
                with torch.no_grad():
                    leaf[done] = before[done]
        return leaf.detach(), loss


class _Step:
    """One guided DDIM step as a function of the unconditional embedding; the conditional half is computed once."""

    def __init__(
        self,
        backbone: Denoises,
        view: View,
        x: Tensor,
        at: Level,
        to: Level,
        empty: Mapping[str, Tensor],
        positive: Mapping[str, Tensor],
        guidance: float,
    ) -> None:
        self.backbone, self.view, self.x, self.at, self.to = backbone, view, x, at, to
        self.empty, self.guidance = empty, guidance
        self.time = torch.full((len(x),), at.time, dtype=torch.float32)
        with torch.no_grad():
            self.conditional = backbone.predict(view, x, self.time, positive)

    def __call__(self, text: Tensor) -> Tensor:
        negative = self.backbone.predict(self.view, self.x, self.time, replaced(self.empty, {"text": text}))
        output = negative + self.guidance * (self.conditional - negative)
        return deterministic(*split_at(self.backbone, output, self.x, self.at), self.to)


@dataclass(frozen=True)
class NegativePrompt(Method):
    """Negative-prompt inversion (Miyake et al. 2023, section 3.2): the source prompt in place of the empty one.

    With equal conditions guidance has no effect, so that the reconstruction is that of DDIM inversion at any
    guidance; with a target prompt guidance points from the source prompt to the target.
    prompt: description of pictures without captions, `{}` is the concept's carrier.
    """

    name: ClassVar[str] = "negative-prompt"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Reads)

    steps: int = 50
    guidance: float = 7.5
    prompt: str = PROMPT

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        return unfit(self, spaces, _FILLED)

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        job.progress.start(job.label, self.steps)
        with torch.no_grad(), job.open() as view:
            prompts = prompts_of(job, view, self.prompt)
            path, _ = pivots(job, view, prompts, steps=self.steps)
            condition = denoiser(job).condition(view, prompts)
            parts = {key: part.unsqueeze(1) for key, part in condition.items()}
        job.progress.finish()
        return _codes(job, spaces, path[0], parts, prompts, steps=self.steps, guidance=self.guidance, fixed=False)


def _codes(
    job: Job,
    spaces: Sequence[Space],
    latents: Tensor,
    parts: Mapping[str, Tensor],
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    fixed: bool,
) -> list[list[Code]]:
    """Codes in start noise and unconditional; fixed: whether only this guidance leads back."""
    sampling = {"steps": steps, "solver": "ddim"}
    tensors = ({"latents": latents}, parts)
    held = (sampling, {**sampling, "guidance": guidance} if fixed else sampling)
    return [
        [
            inverted(
                space,
                {name: value[rows.start : rows.stop] for name, value in own.items()},
                prompts=prompts[rows.start : rows.stop],
                sampling=settings,
                reconstruction={"guidance": guidance},
            )
            for space, own, settings in zip(spaces, tensors, held, strict=True)
        ]
        for rows in job.rows
    ]


for _method in (NullText, NegativePrompt):
    methods.register(_method.name, _method)
