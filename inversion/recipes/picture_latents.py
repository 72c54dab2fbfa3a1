"""Editing without inversion: the concept is the picture's latents, the scheme does the rest."""

from inversion.methods.encode import Encode
from inversion.spaces.latents import PictureLatents
from unified.contract.recipe import Recipe, Stage, recipes

_STAGES = (Stage((PictureLatents(),), Encode()),)

recipes.register(
    "flow-edit",
    Recipe(
        name="flow-edit",
        stages=_STAGES,
        scheme="flow-edit",
        cite="Kulikov et al. 2024, FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models",
        summary="From the source's picture to the prompt's along the difference of their flows.",
        sampling={"steps": 50, "guidance": 13.5, "skip": 0.34},
    ),
)

recipes.register(
    "delta-denoising",
    Recipe(
        name="delta-denoising",
        stages=_STAGES,
        scheme="delta-denoising",
        cite="Hertz et al. 2023, Delta Denoising Score",
        summary="Latents optimised by the difference of the denoising scores of prompt and source.",
        sampling={"steps": 200, "guidance": 7.5},
    ),
)

recipes.register(
    "sdedit",
    Recipe(
        name="sdedit",
        stages=_STAGES,
        scheme="prompt",
        cite="Meng et al. 2022, SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
        summary="The picture noised to a middle level and denoised under the prompt.",
        sampling={"steps": 50, "skip": 0.4},
    ),
)
