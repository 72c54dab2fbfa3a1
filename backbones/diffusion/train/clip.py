"""Contrastive training of avatars/clip: pictures and captions in one space (Radford et al. 2021).

Two losses. InfoNCE between pictures and their captions, in batches whose pictures resemble each other, so
that small attributes decide. And, since every attribute is known, pictures against the short prompts of all
values of an attribute, as in Yang et al. 2022 ("Unified contrastive learning in image-text-label space"):
a caption names ten attributes at once, and the contrast of captions alone learns glasses long before brows.

A linear head on the picture tower names all attributes while training (and is thrown away after): the tower has
few pictures to find the mouth and the eyes by, and the contrastive losses alone leave them out for long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTokenizer
from transformers import CLIPVisionConfig as VisionConfig

from backbones.diffusion.train import common
from backbones.diffusion.train.common import Pictures
from backbones.diffusion.train.tokenizer import build_tokenizer
from unified.zoo.descent import Descent
from unified.zoo.training import BuildSettings, ExponentialAverage, train_loop

STEPS = 5000
BATCH = 64


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of the two towers, and the width of the space they share."""

    text_width: int = 192
    text_layers: int = 3
    text_heads: int = 4
    picture_width: int = 128
    picture_layers: int = 4
    picture_heads: int = 4
    patch: int = 8
    picture: int = 64
    expansion: int = 2
    shared: int = 128


@dataclass(frozen=True)
class Recipe:
    """How the towers are trained.

    alike: share of a batch drawn to resemble the other pictures of the batch.
    attributes_per_step: how many attributes have their value prompts contrasted in a step.
    """

    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    alike: float = 0.5
    attributes_per_step: int = 4
    half_life: float = 60.0


def make_model(tokenizer: CLIPTokenizer, sizes: Sizes = Sizes()) -> CLIPModel:
    """A randomly initialised CLIPModel for `tokenizer`; it pools at the tokenizer's own end token."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width,
        intermediate_size=sizes.text_width * sizes.expansion,
        projection_dim=sizes.shared,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = VisionConfig(
        hidden_size=sizes.picture_width,
        intermediate_size=sizes.picture_width * sizes.expansion,
        projection_dim=sizes.shared,
        num_hidden_layers=sizes.picture_layers,
        num_attention_heads=sizes.picture_heads,
        image_size=sizes.picture,
        patch_size=sizes.patch,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=sizes.shared)
    return CLIPModel(config)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str], *, full: bool = False) -> Tensor:
    """Ids int64 [B, L]; L is the longest text, or the model's length if `full`. Longer texts are cut."""
    return tokenizer(
        list(texts),
        padding="max_length" if full else "longest",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )["input_ids"]


def alike_batch(pictures: Pictures, batch: int, *, alike: float, generator: torch.Generator) -> Tensor:
    """Indices [batch]; about the share `alike` of them are near relatives of others in the batch.

    Relatives come from a random pool: for each of a few anchors the pictures that share most attributes.
    """
    relatives = int(batch * alike) // 4 * 4
    random_part = common.draw(pictures, batch - relatives, generator=generator)
    if not relatives:
        return random_part
    pool = common.draw(pictures, 8 * batch, generator=generator)
    labels = torch.stack([torch.as_tensor(pictures.labels[int(index)]) for index in pool])
    anchors = labels[: relatives // 4]
    shared = (anchors[:, None] == labels[None]).float().sum(2)
    shared[shared == labels.shape[1]] = -1.0  # the same description is no negative
    near = shared.topk(3, dim=1).indices
    return torch.cat([random_part, pool[: relatives // 4], pool[near.flatten()]])


class ContrastiveLoss(nn.Module):
    """Both losses in one forward call, so that distributed training averages the gradients."""

    def __init__(self, model: CLIPModel, values: Sequence[int]) -> None:
        """values: how many values each attribute has."""
        super().__init__()
        self.model = model
        self.values = list(values)
        self.head = nn.Linear(model.config.vision_config.hidden_size, sum(values))

    def forward(
        self, pixels: Tensor, captions: Tensor, prompts: Sequence[Tensor], targets: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Means of (caption loss, attribute loss, head loss) in nats.

        pixels [B,3,H,W] in -1..1; captions ids [B,L]; for each contrasted attribute `prompts` holds the ids
        [V,L'] of the prompts of its values and `targets` the index [B] of the right one; labels [B,A] the
        value of every attribute.
        """
        scale = self.model.logit_scale.exp().clamp(max=100.0)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        picture = functional.normalize(self.model.visual_projection(pooled), dim=1)
        logits = scale * picture @ text_features(self.model, captions).T
        diagonal = torch.arange(len(pixels), device=logits.device)
        contrast = functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)
        attribute = logits.new_zeros(())
        if prompts:
            features = text_features(self.model, torch.cat(list(prompts)))
            parts = features.split([len(ids) for ids in prompts])
            losses = [
                functional.cross_entropy(scale * picture @ part.T, target)
                for part, target in zip(parts, targets, strict=True)
            ]
            attribute = torch.stack(losses).mean()
        named = [
            functional.cross_entropy(part, labels[:, column])
            for column, part in enumerate(self.head(pooled).split(self.values, dim=1))
        ]
        return contrast / 2, attribute, torch.stack(named).mean()


def picture_features(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit vectors [B, D] of pictures [B,3,H,W] in -1..1."""
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    return functional.normalize(model.visual_projection(pooled), dim=1)


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit vectors [B, D] of texts, ids [B, L]."""
    return functional.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output), dim=1)


@torch.no_grad()
def evaluate(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    pictures: Pictures,
    *,
    limit: int = 1024,
    gallery: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Zero-shot accuracy of each attribute, and retrieval of captions in galleries of `gallery` pictures."""
    model = model.eval()
    chosen = torch.arange(min(limit, len(pictures)))
    picture = torch.cat([picture_features(model, pictures.tensor(part)) for part in chosen.split(128)])
    accuracy = {}
    for name in pictures.attributes:
        targets, prompts = pictures.classes(name)
        guess = (picture @ text_features(model, tokenize(tokenizer, prompts)).T).argmax(1)
        accuracy[name] = round((guess == targets[chosen]).float().mean().item(), 4)
    captions = pictures.captions(chosen, generator=common.batch_generator(seed, 0, stream=9))
    text = torch.cat(
        [text_features(model, tokenize(tokenizer, captions[at : at + 128])) for at in range(0, len(captions), 128)]
    )
    ranks = torch.cat([_ranks(p, t) for p, t in zip(picture.split(gallery), text.split(gallery), strict=True)])
    return {
        "zero_shot_accuracy": accuracy,
        "mean_accuracy": round(sum(accuracy.values()) / len(accuracy), 4),
        "picture_to_text_recall_at_1": round((ranks < 1).float().mean().item(), 4),
        "picture_to_text_recall_at_5": round((ranks < 5).float().mean().item(), 4),
        "gallery": gallery,
        "pictures": len(chosen),
    }


def train(
    settings: BuildSettings,
    *,
    pictures: Pictures,
    validation: Pictures,
    vocabulary: Sequence[str],
    sizes: Sizes = Sizes(),
    recipe: Recipe = Recipe(),
) -> None:
    """Train (or go on training) and export to `settings.out`: model, tokenizer, processor, scores, card."""
    steps, batch = settings.pick_steps(STEPS), settings.pick_batch(BATCH)
    tokenizer = build_tokenizer(vocabulary)
    torch.manual_seed(settings.seed)
    model = make_model(tokenizer, sizes)
    accelerator = Accelerator()
    average = ExponentialAverage(model, half_life=recipe.half_life)
    average.module.to(accelerator.device)
    classes = [pictures.classes(name) for name in pictures.attributes]
    loss_module = ContrastiveLoss(model, [len(texts) for _, texts in classes])
    optimizer = torch.optim.AdamW(
        common.decay_groups(loss_module, weight_decay=recipe.weight_decay), lr=1.0, betas=(0.9, 0.98)
    )
    wrapped, optimizer = accelerator.prepare(loss_module, optimizer)
    lengths = [tokenize(tokenizer, texts).shape[1] for _, texts in classes]
    prompts = [tokenize(tokenizer, texts, full=True)[:, : max(lengths)] for _, texts in classes]
    rate = common.Clock(settings, steps).rate(peak=recipe.learning_rate, warmup=recipe.warmup)
    descend = Descent(accelerator, optimizer, loss_module, rate=rate, average=average, averaged=model)

    def step_fn(step: int) -> dict[str, float]:
        generator = common.batch_generator(settings.seed, step, process=accelerator.process_index)
        indices = alike_batch(pictures, batch, alike=recipe.alike, generator=generator)
        captions = tokenize(tokenizer, pictures.captions(indices, generator=generator))
        columns = torch.randperm(len(classes), generator=generator)[: recipe.attributes_per_step].tolist()
        device = accelerator.device
        contrast, attribute, named = wrapped(
            pictures.tensor(indices).to(device),
            captions.to(device),
            [prompts[column].to(device) for column in columns],
            [classes[column][0][indices].to(device) for column in columns],
            torch.stack([targets[indices] for targets, _ in classes], dim=1).to(device),
        )
        descend(step, contrast + attribute + named)
        return {"contrast": contrast.item(), "attribute": attribute.item(), "named": named.item()}

    state = {"model": model, "head": loss_module.head, "average": average, "optimizer": optimizer}
    reached, seconds = train_loop(
        step_fn, state=state, steps=steps, settings=settings, accelerator=accelerator, log_every=20
    )
    if accelerator.is_main_process:
        final: Any = average.module.cpu()
        scores = evaluate(final, tokenizer, validation)
        scores |= {"steps": reached, "batch": batch, "training_seconds": round(seconds)}
        export(final, tokenizer, scores, settings=settings, sizes=sizes)


def export(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    scores: Mapping[str, Any],
    *,
    settings: BuildSettings,
    sizes: Sizes,
) -> None:
    """Write the folder that CLIPModel, CLIPTokenizer and CLIPImageProcessor load with from_pretrained."""
    processor = CLIPImageProcessor(
        do_resize=True,
        size={"height": sizes.picture, "width": sizes.picture},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    with common.replacing(settings.out) as folder:
        common.halved(model).save_pretrained(folder)
        common.declare_float32(folder / "config.json")
        tokenizer.save_pretrained(folder)
        processor.save_pretrained(folder)
        common.write_scores(folder, scores)
        (folder / "card.md").write_text(card(model, scores), encoding="utf-8")


def card(model: CLIPModel, scores: Mapping[str, Any]) -> str:
    """What a user should know about the model, in Markdown."""
    accuracy = scores["zero_shot_accuracy"]
    return f"""# avatars/clip

A CLIPModel of {common.parameters(model) / 1e6:.2f} M parameters for 64x64 avatars and the sentences of the
caption grammar. Text encoder: {model.config.text_config.num_hidden_layers} layers of width
{model.config.text_config.hidden_size}, {model.config.text_config.max_position_embeddings} positions;
picture encoder: {model.config.vision_config.num_hidden_layers} layers of width
{model.config.vision_config.hidden_size}, patches of {model.config.vision_config.patch_size} pixels.
Pictures go in as -1..1.

Data: the avatars training split, captions drawn anew each step. Loss: InfoNCE between pictures and captions,
with pictures that resemble each other in the batch, plus the cross-entropy of each picture over the prompts
of all values of some attributes per step (Yang et al. 2022), plus a linear head on the picture tower that
names all attributes (left out of the model). The zero-shot prompts below are these same
prompts, on pictures of the validation split.

Trained for {scores["steps"]} steps of {scores["batch"]}, {scores["training_seconds"] / 60:.1f} minutes.
Made by `unified zoo build avatars/clip`.

{common.table(("attribute", "zero-shot accuracy"), [(n, f"{100 * a:.1f} %") for n, a in accuracy.items()])}

Mean {100 * scores["mean_accuracy"]:.1f} % on {scores["pictures"]} pictures. Captions retrieved by picture in
galleries of {scores["gallery"]}: {100 * scores["picture_to_text_recall_at_1"]:.1f} % at 1,
{100 * scores["picture_to_text_recall_at_5"]:.1f} % at 5.
"""


def build(settings: BuildSettings) -> None:
    """Builder of avatars/clip."""
    from unified.avatars import captions

    train(
        settings,
        pictures=common.avatars("train"),
        validation=common.avatars("validation"),
        vocabulary=captions.vocabulary(),
    )


def _ranks(picture: Tensor, text: Tensor) -> Tensor:
    scores = picture @ text.T
    return (scores > scores.diagonal()[:, None]).sum(1)
