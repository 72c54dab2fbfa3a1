"""Drawing pictures with an Emu3 of avatars/emu3's sizes: `python tests/perf/autoregressive.py`.

Ours (guidance in one batch, fused decoder with places for all keys and values) against transformers' own
`generate` with guidance (a second forward pass with its own cache), and against decoding without any cache.
All alternate in one run and take the most probable token; the tokens are compared. Random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import unified  # noqa: F401  torchvision loads beside any torch from here on
from backbones.autoregressive.checkpoint import Emu3Parts
from backbones.autoregressive.emu3 import Emu3
from backbones.autoregressive.layout import AVATARS_LAYOUT
from backbones.autoregressive.prompt import left_pad
from backbones.autoregressive.sampling import SamplingSettings, generators, sample_codes
from backbones.autoregressive.scales import MultiScaleTokenizer
from backbones.autoregressive.train.emu3 import Emu3Settings, new_model
from backbones.autoregressive.train.tokenizer import TokenizerSettings, vq_config
from backbones.autoregressive.train.var import VarSettings, new_parts
from backbones.autoregressive.var import Var
from unified.contract.backbone import Backbone
from unified.contract.random import Random
from unified.contract.target import Target

TEXTS = ("a person with short brown hair, smiling", "a person", "a person wearing a hat", "a smiling person")
GUIDANCE = 3.0


def transformers_codes(parts: Emu3Parts, texts: Sequence[str], *, guidance: float = GUIDANCE) -> Tensor:
    """Codes [B,n] of the most probable tokens, by `generate` with guidance. Texts are padded on the left."""
    prompts, layout = parts.prompts, parts.layout
    batch = left_pad([prompts.prompt_ids(text) for text in texts], prompts.pad)
    empty = left_pad([prompts.prompt_ids("")] * len(texts), prompts.pad)
    slots = prompts.slots(layout.height, layout.width)
    start = batch.ids.shape[1]
    visual = parts.vocabulary.ids.tolist()

    def allowed(_row: int, sequence: Tensor) -> list[int]:
        slot = int(slots[len(sequence) - start])
        return visual if slot == -1 else [slot]

    found = parts.model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        negative_prompt_ids=empty.ids,
        negative_prompt_attention_mask=empty.mask.long(),
        guidance_scale=guidance,
        prefix_allowed_tokens_fn=allowed,
        max_new_tokens=len(slots),
        min_new_tokens=len(slots),
        do_sample=False,
    )[:, start:]
    return parts.vocabulary.to_codes(found[:, slots == -1])


def our_codes(
    parts: Emu3Parts, texts: Sequence[str], *, guidance: float = GUIDANCE, settings: SamplingSettings | None = None
) -> Tensor:
    """The same by our sampler."""
    prompts, layout = parts.prompts, parts.layout
    return sample_codes(
        parts.model,
        left_pad([prompts.prompt_ids(text) for text in texts], prompts.pad),
        slots=prompts.slots(layout.height, layout.width),
        vocabulary=parts.vocabulary,
        generators=generators(range(len(texts))),
        settings=settings or SamplingSettings(temperature=0, guidance=guidance),
        unconditional=left_pad([prompts.prompt_ids("")] * len(texts), prompts.pad),
        pad=prompts.pad,
    )


def seconds(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    # With one thread the processor's time is what other programs on the machine do not change.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    found = run()
    return clock() - start, found


def measure(parts: Emu3Parts, texts: Sequence[str], repeats: int) -> None:
    """Print the medians of all ways for one batch of texts."""
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: our_codes(parts, texts),
        "ours, guidance in the first half": lambda: our_codes(
            parts, texts, settings=SamplingSettings(temperature=0, guidance=GUIDANCE, guidance_until=0.5)
        ),
        "ours, modules with a growing cache": lambda: our_codes(
            parts, texts, settings=SamplingSettings(temperature=0, guidance=GUIDANCE, cache="dynamic")
        ),
        "transformers generate": lambda: transformers_codes(parts, texts),
        "without a cache": lambda: our_codes(
            parts, texts, settings=SamplingSettings(temperature=0, guidance=GUIDANCE, cache="none")
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    same: dict[str, float] = {}
    for repeat in range(repeats + 1):
        first: Tensor | None = None
        for name, run in ways.items():
            taken, found = seconds(run)
            first = found if first is None else first
            same[name] = float((found == first).float().mean())
            if repeat:  # the first round warms up
                times[name].append(taken)
    base = statistics.median(times["transformers generate"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"{len(texts):5} {name:36} {len(texts) / median:10.2f} {median:10.3f} {base / median:10.2f}"
            f" {same[name]:10.1%}",
            flush=True,
        )


def measure_scales(parts: Emu3Parts, texts: Sequence[str], repeats: int) -> None:
    """Print the medians of the Emu3 and of a next-scale model for one batch of texts."""
    backbones: dict[str, Backbone] = {"Emu3": Emu3("random", parts), "next scale": random_var()}
    times: dict[str, list[float]] = {name: [] for name in backbones}
    for repeat in range(repeats + 1):
        for name, backbone in backbones.items():
            with backbone.bound() as view:
                target = Target(prompt=texts[0], n=len(texts))
                taken, _ = seconds(lambda view=view, target=target: view.sample(target, rng=Random(0)))  # type: ignore[misc]
            if repeat:
                times[name].append(taken)
    base = statistics.median(times["Emu3"])
    for name, taken_all in times.items():
        median = statistics.median(taken_all)
        print(f"{len(texts):5} {name:36} {len(texts) / median:10.2f} {median:10.3f} {base / median:10.2f}", flush=True)


def random_var() -> Var:
    """Random weights in the sizes of avatars/var."""
    settings = VarSettings()
    made = new_parts(settings, MultiScaleTokenizer(settings.scales).eval().requires_grad_(False))
    made.model.eval().requires_grad_(False)
    return Var("random", made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    settings = Emu3Settings()
    from transformers import Emu3VQVAE

    parts = new_model(settings, Emu3VQVAE(vq_config(TokenizerSettings())).eval(), AVATARS_LAYOUT)
    for name, value in parts.model.model.text_model.named_parameters():
        if value.ndim == 2:
            torch.nn.init.normal_(value, std=0.2 if "embed" in name else value.shape[1] ** -0.5)
    parts.model.requires_grad_(False)
    print(f"{settings.layers} layers of {settings.hidden}, 64 visual tokens, {arguments.threads} threads")
    print(f"{'batch':5} {'':36} {'pictures/s':>10} {'seconds':>10} {'x generate':>10} {'same codes':>10}")
    for count in arguments.batches:
        measure(parts, TEXTS[:count], arguments.repeats)
    print("\nPictures with their decoding, a model that draws scale by scale (avatars/var's sizes) beside the Emu3")
    print(f"{'batch':5} {'':36} {'pictures/s':>10} {'seconds':>10} {'x Emu3':>10}")
    for count in arguments.batches:
        measure_scales(parts, TEXTS[:count], arguments.repeats)


if __name__ == "__main__":
    main()
