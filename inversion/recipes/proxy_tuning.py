"""Proxy-Tuning (Wu et al. 2025): a diffusion model's concept as the teacher of an autoregressive model."""

from inversion.methods.proxy import ProxyTuning
from inversion.spaces.parameter import LoRA
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "proxy-tuning",
    Recipe(
        name="proxy-tuning",
        stages=(Stage((LoRA(rank=16),), ProxyTuning(pictures=200)),),
        scheme="prompt",
        cite="Wu et al. 2025, Proxy-Tuning: Tailoring Multimodal Autoregressive Models for Subject-Driven Generation",
        summary="A diffusion DreamBooth draws pictures with prompts; LoRA of rank 16 learns from them.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
