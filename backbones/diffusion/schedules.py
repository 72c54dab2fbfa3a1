"""Which of diffusers' schedulers say what noise levels a model was trained on."""

from __future__ import annotations

from typing import Any

import torch

from unified.errors import UserError

_NOISE = "DDIMScheduler, DDPMScheduler, PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler"


def check_noise_schedule(id: str, scheduler: Any) -> None:
    """Raise UserError for a scheduler without the cumulative alphas that inversion climbs along."""
    if not isinstance(getattr(scheduler, "alphas_cumprod", None), torch.Tensor):
        raise UserError(
            f"{id} comes with a {type(scheduler).__name__}, which has no noise levels of a diffusion model to invert"
            f" along: give the pipeline one that has, such as {_NOISE}."
        )


def check_flow_schedule(id: str, scheduler: Any) -> None:
    """Raise UserError for a scheduler whose sigmas are not the plain grid that a flow is inverted along."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise UserError(
            f"{id} comes with a {type(scheduler).__name__}, whose steps are no plain grid of sigmas to invert along:"
            " give the pipeline a FlowMatchEulerDiscreteScheduler (from_config of the present one)."
        )
