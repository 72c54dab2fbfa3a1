"""Training of avatars/emu3: an `Emu3ForConditionalGeneration` on captions and visual tokens.

Next-token cross-entropy on the visual tokens (and the ending) alone, with more weight where the attributes of the
avatars show (`unified.zoo.focus`); the text is given, not learnt. Part of the sequences carry pictures of the same
person in context. The image tokenizer is trained before (`tokenizer.py`) and frozen; the codes of the data are
computed once and kept in the work folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3VQVAE

from backbones.autoregressive.checkpoint import Emu3Parts, assemble, save_emu3
from backbones.autoregressive.image_tokenizer import ImageTokenizer
from backbones.autoregressive.layout import AVATARS_LAYOUT, PromptLayout
from backbones.autoregressive.prompt import left_pad
from backbones.autoregressive.sampling import SamplingSettings, generators, sample_codes
from backbones.autoregressive.text_tokenizer import build_text_tokenizer
from backbones.autoregressive.train.card import write_card
from backbones.autoregressive.train.schedule import warmup_cosine
from backbones.autoregressive.train.sequences import (
    Example,
    SequenceSettings,
    by_person,
    collate,
    draw_examples,
    label_weights,
    next_token_loss,
)
from unified.avatars import captions, dataset
from unified.avatars.dataset import AvatarSet
from unified.errors import UserError
from unified.zoo.descent import Descent
from unified.zoo.focus import focus_map
from unified.zoo.sheet import save_sheet
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

TOKENIZER_FOLDERS = ("emu3-tokenizer", "tokenizer")


@dataclass(frozen=True)
class Emu3Settings:
    """Sizes and training settings of the language model."""

    hidden: int = 192
    layers: int = 6
    heads: int = 3
    intermediate: int = 512
    longest: int = 1024
    steps: int = 7500
    batch: int = 16
    learning_rate: float = 1.5e-3
    warmup: int = 200
    weight_decay: float = 0.05
    half_life: float = 200.0
    temperature: float = 0.5  # that the finished model is sampled with unless asked otherwise
    focus: float = 0.6  # share of the loss that goes to where the attributes show
    sequences: SequenceSettings = field(default_factory=SequenceSettings)


def build(settings: BuildSettings) -> None:
    """Train on the avatars, resume if interrupted, and export to `settings.out`.

    The trained image tokenizer must lie beside `settings.out`, in one of TOKENIZER_FOLDERS.
    """
    folders = [settings.out.parent / name for name in TOKENIZER_FOLDERS]
    folder = next((f for f in folders if (f / "model.safetensors").is_file()), None)
    if folder is None:
        raise UserError(
            f"avatars/emu3 needs its trained image tokenizer in {folders[0]}, which has none; "
            "build avatars/tokenizer there first"
        )
    vq = Emu3VQVAE.from_pretrained(folder, local_files_only=True, dtype=torch.float32, use_safetensors=True)
    data, choice = dataset.load("train"), Emu3Settings()
    side = (AVATARS_LAYOUT.height, AVATARS_LAYOUT.width)
    train_emu3(
        settings,
        choice,
        vq=vq,
        data=data,
        held_out=dataset.load("validation"),
        focus=focus_map(data.images, data.attributes, side=side, share=choice.focus),
    )


def new_model(settings: Emu3Settings, vq: Emu3VQVAE, layout: PromptLayout) -> Emu3Parts:
    """A model with random language weights around a trained image tokenizer."""
    words = captions.vocabulary() + captions.words(layout.reference_name) + [",", "."]
    codes = vq.config.codebook_size
    tokenizer = build_text_tokenizer(words, codes=codes, layout=layout)
    config = Emu3Config(
        vocabulary_map=tokenizer.get_vocab(),
        tie_word_embeddings=True,
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden,
            intermediate_size=settings.intermediate,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=settings.longest,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            attention_dropout=0.0,
            tie_word_embeddings=True,
            # Sequences of a few hundred tokens; the released 1e6 is for thousands.
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        # Without the folder that it was read from, which would be written into the model's files.
        vq_config={key: value for key, value in vq.config.to_dict().items() if key != "_name_or_path"},
    )
    model = Emu3ForConditionalGeneration(config)
    model.model.vqmodel.load_state_dict(vq.state_dict())
    model.model.vqmodel.requires_grad_(False)
    return assemble(model.eval(), tokenizer, layout)


@torch.no_grad()
def codes_of(tokenizer: ImageTokenizer, images: numpy.ndarray, cache: Path | None, *, batch: int = 64) -> Tensor:
    """Codes int64 [N,h,w] of images uint8 [N,H,W,3]; kept in the folder `cache` by the tokenizer's hash."""
    digest = hashlib.sha256()
    for value in tokenizer.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    digest.update(images[:64].tobytes())
    path = None if cache is None else cache / f"codes-{len(images)}-{digest.hexdigest()[:16]}.npy"
    if path is not None and path.exists():
        return torch.from_numpy(numpy.load(path).astype(numpy.int64))
    device = tokenizer.codebook.device
    parts = []
    for start in range(0, len(images), batch):
        pictures = dataset.to_tensor(images[start : start + batch]).to(device)
        parts.append(tokenizer.encode(pictures).cpu())
        if start // batch % 50 == 0:
            print(f"image tokens: {start}/{len(images)} pictures", flush=True)
    codes = torch.cat(parts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.npy")
        numpy.save(temporary, codes.numpy().astype(numpy.int32))
        temporary.replace(path)
    return codes


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on matrices alone, not on norms and embeddings."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in module.named_parameters():
        if value.requires_grad:
            (matrices if value.ndim == 2 and "embed" not in name else others).append(value)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def train_emu3(
    build_settings: BuildSettings,
    settings: Emu3Settings,
    *,
    vq: Emu3VQVAE,
    data: AvatarSet,
    held_out: AvatarSet,
    layout: PromptLayout = AVATARS_LAYOUT,
    focus: Tensor | None = None,
) -> Emu3Parts:
    """Train on `data`; returns the averaged model, which is also exported.

    focus [h,w]: weight of the visual tokens of a picture, 1 if None.
    """
    accelerator = Accelerator()
    steps = build_settings.pick_steps(settings.steps)
    batch = build_settings.pick_batch(settings.batch)
    seed = build_settings.seed
    torch.manual_seed(seed)
    parts = new_model(settings, vq, layout)
    model = parts.model.to(accelerator.device)
    parts.images.to(accelerator.device)
    with accelerator.main_process_first():
        codes = codes_of(parts.images, data.images, build_settings.work)
    people = by_person(numpy.asarray(data.person))
    weights = torch.ones(layout.height, layout.width) if focus is None else focus
    text_model = model.model.text_model
    optimizer = torch.optim.AdamW(
        parameter_groups(text_model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95)
    )
    average = ExponentialAverage(text_model, half_life=settings.half_life)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    rate = warmup_cosine(steps=steps, peak=settings.learning_rate, warmup=settings.warmup)
    descend = Descent(accelerator, prepared, text_model, rate=rate, average=average)

    def step_fn(step: int) -> dict[str, float]:
        examples = draw_examples(
            data,
            people,
            count=batch,
            seed=seed,
            step=step,
            process=accelerator.process_index,
            reference_name=layout.reference_name,
            settings=settings.sequences,
        )
        ids, labels = collate(examples, codes.__getitem__, parts.prompts)
        device = accelerator.device
        logits = wrapped(input_ids=ids.to(device), use_cache=False).logits
        loss = next_token_loss(logits, labels.to(device), label_weights(labels, parts.vocabulary, weights).to(device))
        descend(step, loss)
        return {"loss": loss.item(), "references": float(len(examples[0].references))}

    reached, seconds = train_loop(
        step_fn,
        state={"text_model": text_model, "optimizer": prepared, "average": average},
        steps=steps,
        settings=build_settings,
        accelerator=accelerator,
    )
    text_model.load_state_dict(average.module.state_dict())
    model.requires_grad_(False).eval()
    if accelerator.is_main_process:
        export(parts, build_settings, settings, held_out, steps=reached, batch=batch, seconds=seconds)
    return parts


@torch.no_grad()
def held_out_loss(
    parts: Emu3Parts,
    data: AvatarSet,
    codes: Tensor,
    *,
    references: int,
    strangers: bool = False,
    count: int = 128,
) -> float:
    """Nats a token on held-out pictures; `strangers` puts pictures of someone else in context."""
    share = {0: (0.0, 0.0), 1: (1.0, 0.0), 2: (0.0, 1.0)}[references]
    settings = SequenceSettings(one_reference=share[0], two_references=share[1], no_text=0.0)
    people = by_person(numpy.asarray(data.person))
    name = parts.layout.reference_name
    total, done = 0.0, 0
    for step in range(max(count // 32, 1)):
        examples = draw_examples(
            data, people, count=32, seed=1, step=step, process=0, reference_name=name, settings=settings
        )
        if strangers:
            shifted = examples[1:] + examples[:1]
            examples = [replace(e, references=o.references) for e, o in zip(examples, shifted, strict=True)]
        ids, labels = collate(examples, codes.__getitem__, parts.prompts)
        device = parts.model.device
        total += float(parts.model(input_ids=ids.to(device), labels=labels.to(device), use_cache=False).loss)
        done += 1
    return total / done


def sample_pictures(
    parts: Emu3Parts,
    examples: list[Example],
    codes: Callable[[int], Tensor],
    *,
    settings: SamplingSettings,
    seed: int = 0,
) -> Tensor:
    """Pictures [B,3,H,W] in 0..1 of the texts and references of `examples`; the targets are not looked at."""
    prompts, layout = parts.prompts, parts.layout
    conditional = left_pad(
        [prompts.prompt_ids(e.text, [codes(i) for i in e.references]) for e in examples], prompts.pad
    )
    unconditional = left_pad([prompts.prompt_ids("") for _ in examples], prompts.pad)
    found = sample_codes(
        parts.model,
        conditional,
        slots=prompts.slots(layout.height, layout.width),
        vocabulary=prompts.vocabulary,
        generators=generators([seed + i for i in range(len(examples))]),
        settings=settings,
        unconditional=unconditional,
        pad=prompts.pad,
    )
    return parts.images.decode(found.unflatten(1, (layout.height, layout.width)))


CARD_TEXT = """An Emu3ForConditionalGeneration over 64 visual tokens (8x8) of its own image tokenizer, with a
word-level text tokenizer; the prompt layout is in layout.json.

samples.png: text to image. references.png: in threes, the reference picture, a held-out picture of the same
person, and a sample from the reference and a text that says what differs."""


def export(
    parts: Emu3Parts,
    build_settings: BuildSettings,
    settings: Emu3Settings,
    held_out: AvatarSet,
    *,
    steps: int,
    batch: int,
    seconds: float,
) -> None:
    """Write the model, its card with scores on held-out pictures, and samples."""
    out = build_settings.out
    parts.model.generation_config.update(temperature=settings.temperature, do_sample=True)
    save_emu3(parts, out)
    sampling = SamplingSettings(temperature=settings.temperature)
    few = AvatarSet(
        images=held_out.images[:400],
        masks=held_out.masks[:400],
        attributes=held_out.attributes[:400],
        person=held_out.person[:400],
        shades=held_out.shades[:400],
    )
    codes = codes_of(parts.images, few.images, build_settings.work)
    scores = {
        "nats a token, text": held_out_loss(parts, few, codes, references=0),
        "nats a token, one reference": held_out_loss(parts, few, codes, references=1),
        "nats a token, reference of someone else": held_out_loss(parts, few, codes, references=1, strangers=True),
    }
    people = by_person(numpy.asarray(few.person))
    name = parts.layout.reference_name
    plain, single = (
        draw_examples(
            few,
            people,
            count=16,
            seed=2,
            step=0,
            process=0,
            reference_name=name,
            settings=SequenceSettings(one_reference=share, two_references=0.0, no_text=0.0),
        )
        for share in (0.0, 1.0)
    )
    drawn = sample_pictures(parts, plain, codes.__getitem__, settings=sampling)
    save_sheet(out / "samples.png", drawn, columns=8)
    sampled = sample_pictures(parts, single, codes.__getitem__, settings=sampling)
    shown = dataset.to_tensor(few.images).to(sampled.device)
    threes = [torch.stack([shown[e.references[0]], shown[e.target], s]) for e, s in zip(single, sampled, strict=True)]
    save_sheet(out / "references.png", torch.cat(threes), columns=12)
    texts = "\n".join(f"{i + 1}. {example.text}" for i, example in enumerate(plain))
    prompts = "\n".join(f"{i + 1}. {example.text}" for i, example in enumerate(single))
    write_card(
        out / "card.md",
        title="avatars/emu3",
        text=f"{CARD_TEXT}\n\nTexts of samples.png, row by row:\n\n{texts}\n\nTexts of references.png:\n\n{prompts}",
        facts={
            "parameters": sum(p.numel() for p in parts.model.parameters()),
            "hidden, layers, heads": f"{settings.hidden}, {settings.layers}, {settings.heads}",
            "steps": steps,
            "batch": batch,
            "training minutes": round(seconds / 60, 1),
        },
        scores=scores,
        command="unified zoo build avatars/emu3",
    )
