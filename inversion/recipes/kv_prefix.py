"""Prefix tuning (Li and Liang 2021) of an autoregressive model, and its training-free relative."""

from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.spaces.remembered import Prefix, ReferenceMemory
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "kv-prefix",
    Recipe(
        name="kv-prefix",
        stages=(Stage((Prefix(length=8),), Optimize(steps=300, lr=1e-2, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Li and Liang 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation",
        summary="Keys and values of eight tokens in every layer, learnt by cross-entropy; the model stays frozen.",
        requires=frozenset({"category"}),
        # The paper samples from the model with its prefix, without guidance. What guidance goes away from has no
        # prefix, and is so far from what was learnt that the difference tears pictures apart; with the prefix in
        # both, what is learnt of the concept cancels and is lost (avatarbench identity 0.58, 0.12 and 0.10).
        sampling={"guidance": 1.0},
    ),
)
recipes.register(
    "kv-cache",
    Recipe(
        name="kv-cache",
        stages=(Stage((ReferenceMemory(),), Encode()),),
        scheme="prompt",
        carrier="the same {category}",
        cite="survey section 5; the model's own keys and values of a reference picture",
        summary="One reference picture read once; every prompt goes on from there, as if it stood in the context.",
    ),
)
