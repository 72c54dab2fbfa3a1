"""Training of avatars/var: next-scale prediction of the multi-scale tokens, with captions.

Cross-entropy over all tokens of a picture, every scale given the true coarser ones (Tian et al. 2024, VAR,
section 3.2), with more weight where the attributes of the avatars show (`unified.zoo.focus`) and on the coarser scales,
which decide most and have fewest tokens; some of what is read is wrong (`self_correction.py`). The tokenizer is trained
before (`var_tokenizer.py`) and frozen; the tokens of the data are computed once. A part of the captions is dropped,
for guidance.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from backbones.autoregressive.layout import AVATARS_LAYOUT
from backbones.autoregressive.next_scale import NextScale, NextScaleSettings
from backbones.autoregressive.sampling import generators
from backbones.autoregressive.scale_sampling import draw_scales
from backbones.autoregressive.scales import MultiScaleTokenizer, ScaleSettings
from backbones.autoregressive.text_tokenizer import build_text_tokenizer
from backbones.autoregressive.train.card import write_card
from backbones.autoregressive.train.schedule import warmup_cosine
from backbones.autoregressive.train.self_correction import wrong_and_right
from backbones.autoregressive.train.var_tokenizer import load_tokenizer
from backbones.autoregressive.var_parts import VarParts
from backbones.autoregressive.var_sampling import VarSampling
from unified.avatars import captions, dataset
from unified.avatars.captions import caption
from unified.avatars.dataset import AvatarSet
from unified.zoo.descent import Descent
from unified.zoo.focus import focus_map
from unified.zoo.sheet import save_sheet
from unified.zoo.training import BuildSettings, ExponentialAverage, step_generator, train_loop

TOKENIZER_FOLDER = "var-tokenizer"


@dataclass(frozen=True)
class VarSettings:
    """Sizes and training settings of the transformer."""

    scales: ScaleSettings = field(default_factory=ScaleSettings)
    width: int = 176
    depth: int = 4
    heads: int = 4
    text_depth: int = 2
    steps: int = 17_000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    half_life: float = 200.0
    no_text: float = 0.1
    focus: float = 0.6  # share of the loss that goes to where the attributes show
    wrong: float = 0.4  # of the tokens of coarser scales, in the pictures that are read worst


def build(settings: BuildSettings) -> None:
    """Train on the avatars, resume if interrupted, and export to `settings.out`.

    The trained tokenizer must lie beside `settings.out`, in TOKENIZER_FOLDER.
    """
    own = VarSettings()
    tokenizer = load_tokenizer(settings.out.parent / TOKENIZER_FOLDER, own.scales)
    data = dataset.load("train")
    train_var(
        settings,
        own,
        tokenizer=tokenizer,
        data=data,
        held_out=dataset.load("validation"),
        focus=scale_focus(data, own.scales.sides, share=own.focus),
    )


def scale_focus(data: AvatarSet, sides: Sequence[int], *, share: float) -> Tensor:
    """Weights [count] of a picture's tokens, 1 on average.

    In a scale they are those of `focus_map`; a scale of half the side has a quarter of the tokens and half the weight.
    """
    maps = [focus_map(data.images, data.attributes, side=(side, side), share=share).flatten() for side in sides]
    weights = torch.cat([part / side for part, side in zip(maps, sides, strict=True)])
    return weights / weights.mean()


def new_parts(settings: VarSettings, tokenizer: MultiScaleTokenizer) -> VarParts:
    """A transformer with random weights around a trained tokenizer."""
    text = build_text_tokenizer([*captions.vocabulary(), ",", "."], codes=0, layout=AVATARS_LAYOUT)
    scales = tokenizer.settings
    model = NextScale(
        NextScaleSettings(
            sides=scales.sides,
            codes=scales.codes,
            dimension=scales.dimension,
            words=len(text),
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            text_depth=settings.text_depth,
        )
    )
    return VarParts(model, tokenizer, text)


@torch.no_grad()
def tokens_of(tokenizer: MultiScaleTokenizer, images: numpy.ndarray, *, batch: int = 64) -> Tensor:
    """Tokens int16 [N,count] of images uint8 [N,H,W,3]."""
    device = tokenizer.codebook.device
    parts = [
        tokenizer.encode(dataset.to_tensor(images[start : start + batch]).to(device)).cpu().to(torch.int16)
        for start in range(0, len(images), batch)
    ]
    return torch.cat(parts)


def kept_tokens(tokenizer: MultiScaleTokenizer, images: numpy.ndarray, work: Path) -> Tensor:
    """The same, computed once and kept in the folder `work` under the weights' sum."""
    digest = sum(float(value.double().sum()) for value in tokenizer.state_dict().values())
    path = work / f"tokens-{len(images)}-{digest:.6f}.npy"
    if path.exists():
        return torch.from_numpy(numpy.load(path))
    tokens = tokens_of(tokenizer, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.npy")
    numpy.save(temporary, tokens.numpy())
    temporary.replace(path)
    return tokens


def draw_captions(data: AvatarSet, picks: Tensor, rng: random.Random, *, no_text: float) -> list[str]:
    """A caption for each picture, some of them empty."""
    return ["" if rng.random() < no_text else caption(data.row(int(i)), rng) for i in picks]


def nats(parts: VarParts, texts: list[str], codes: Tensor, read: Tensor | None = None) -> Tensor:
    """Cross-entropy of every token, [B,count]; read: tokens of the coarser scales that are seen, if not `codes`."""
    device = parts.tokenizer.codebook.device
    ids, mask = parts.lines(texts)
    with torch.no_grad():
        inputs = parts.tokenizer.inputs(codes if read is None else read)
    logits = parts.model(parts.model.read(ids.to(device), mask.to(device)), inputs)
    return functional.cross_entropy(logits.transpose(1, 2), codes, reduction="none")


class _Training(nn.Module):
    """One forward pass, so that several processes see one module."""

    def __init__(self, parts: VarParts) -> None:
        super().__init__()
        self.model, self.parts = parts.model, parts

    def forward(self, texts: list[str], codes: Tensor, read: Tensor) -> Tensor:
        return nats(self.parts, texts, codes, read)


def train_var(
    build_settings: BuildSettings,
    settings: VarSettings,
    *,
    tokenizer: MultiScaleTokenizer,
    data: AvatarSet,
    held_out: AvatarSet,
    focus: Tensor | None = None,
) -> VarParts:
    """Train on `data`; returns the averaged model, which is also exported.

    focus [count]: weight of each of a picture's tokens, 1 if None.
    """
    accelerator = Accelerator()
    steps = build_settings.pick_steps(settings.steps)
    batch = build_settings.pick_batch(settings.batch)
    seed = build_settings.seed
    torch.manual_seed(seed)
    parts = new_parts(settings, tokenizer.to(accelerator.device))
    model = parts.model.to(accelerator.device)
    with accelerator.main_process_first():
        tokens = kept_tokens(tokenizer, data.images, build_settings.work)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embedding" in name]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
    )
    average = ExponentialAverage(model, half_life=settings.half_life)
    wrapped, prepared = accelerator.prepare(_Training(parts), optimizer)
    weights = (torch.ones(()) if focus is None else focus).to(accelerator.device)
    rate = warmup_cosine(steps=steps, peak=settings.learning_rate, warmup=settings.warmup)
    descend = Descent(accelerator, prepared, model, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        process = accelerator.process_index
        picks = torch.randint(len(tokens), (batch,), generator=step_generator(seed, step, stream=process))
        rng = random.Random(f"{seed} {step} {process}")
        texts = draw_captions(data, picks, rng, no_text=settings.no_text)
        codes = tokens[picks].long().to(accelerator.device)
        errors = step_generator(seed, step, stream=1000 + process)
        read, right = wrong_and_right(tokenizer, codes, share=settings.wrong, generator=errors)
        loss = (wrapped(texts, right, read) * weights).mean()
        descend(step, loss)
        return {"loss": loss.item()}

    reached, seconds = train_loop(
        step_fn,
        state={"model": model, "optimizer": prepared, "average": average},
        steps=steps,
        settings=build_settings,
        accelerator=accelerator,
    )
    model.load_state_dict(average.module.state_dict())
    model.requires_grad_(False).eval()
    if accelerator.is_main_process:
        export(parts, build_settings.out, settings, held_out, steps=reached, batch=batch, seconds=seconds)
    return parts


@torch.no_grad()
def export(
    parts: VarParts,
    out: Path,
    settings: VarSettings,
    held_out: AvatarSet,
    *,
    steps: int,
    batch: int,
    seconds: float,
) -> None:
    """Write the model, its card with the score on held-out pictures, and samples."""
    parts.save(out)
    count = min(128, len(held_out.images))
    codes = tokens_of(parts.tokenizer, held_out.images[:count]).long().to(parts.tokenizer.codebook.device)
    rng = random.Random(1)
    texts = draw_captions(held_out, torch.arange(count), rng, no_text=0.0)
    told = torch.cat([nats(parts, texts[i : i + 32], codes[i : i + 32]) for i in range(0, count, 32)]).mean(0)
    blind = torch.cat([nats(parts, [""] * len(c), c) for c in codes.split(32)]).mean(0)
    scores = {"nats a token, text": float(told.mean()), "nats a token, no text": float(blind.mean())}
    sides = settings.scales.sides
    for k, (part, side) in enumerate(zip(told.split([s * s for s in sides]), sides, strict=True)):
        scores[f"nats a token, scale {k + 1} ({side}x{side})"] = float(part.mean())
    shown = texts[: min(16, count)]
    device = parts.tokenizer.codebook.device
    read, empty = (
        parts.model.read(*(t.to(device) for t in _alike(parts, lines, shown))) for lines in (shown, [""] * len(shown))
    )
    drawn = draw_scales(
        parts.model,
        parts.tokenizer,
        read,
        unconditional=empty,
        generators=generators(range(len(shown))),
        settings=VarSampling().drawing(),
    )
    save_sheet(out / "samples.png", parts.tokenizer.decode(drawn), columns=8)
    lines = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(shown))
    write_card(
        out / "card.md",
        title="avatars/var",
        text="A next-scale model (VAR) with text by cross-attention, over token maps of sides "
        f"{', '.join(str(side) for side in settings.scales.sides)}.\n\nTexts of samples.png, row by row:\n\n{lines}",
        facts={
            "parameters": sum(p.numel() for p in parts.model.parameters()),
            "parameters of the tokenizer": sum(p.numel() for p in parts.tokenizer.parameters()),
            "width, depth, heads": f"{settings.width}, {settings.depth}, {settings.heads}",
            "steps": steps,
            "batch": batch,
            "training minutes": round(seconds / 60, 1),
        },
        scores=scores,
        command="unified zoo build avatars/var",
    )


def _alike(parts: VarParts, texts: list[str], others: list[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask of `texts`, padded to the length that `texts` and `others` have together."""
    ids, mask = parts.lines([*texts, *others])
    return ids[: len(texts)], mask[: len(texts)]
