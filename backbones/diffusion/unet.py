"""Latent diffusion with a UNet that reads text by cross-attention (Rombach et al. 2022), over a diffusers pipeline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones.diffusion.adapters import attention_matrices, weights
from backbones.diffusion.attention import UNetProcessor, install, unet_places
from backbones.diffusion.autoencoder import check_size, decoded, encoded
from backbones.diffusion.backbone import Condition, DiffusionBackbone
from backbones.diffusion.prompts import padded_ids
from backbones.diffusion.schedules import check_noise_schedule
from backbones.diffusion.texts import lines, pending, pending_ids, places_of, prompt_ids
from unified.contract.abilities import Level, TextComponent
from unified.contract.attention import Place
from unified.contract.view import View
from unified.errors import UserError


class UNetDiffusion(DiffusionBackbone):
    """UNet over KL latents, epsilon and v-prediction; subclasses say what the text encoders give.

    With several text encoders their outputs stand side by side in every token.
    """

    def __init__(self, id: str, pipeline: Any, text_encoders: Mapping[str, nn.Module]) -> None:
        super().__init__(id, {"unet": pipeline.unet, **text_encoders, "vae": pipeline.vae})
        check_noise_schedule(id, pipeline.scheduler)
        scheduler = pipeline.scheduler.config
        self.prediction: str = scheduler.get("prediction_type", "")
        if self.prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"{id} predicts {self.prediction!r}; epsilon and v_prediction are supported.")
        # In double precision: at the last level 1 - a^2 is about 1e-3.
        self.alphas_cumprod: Tensor = pipeline.scheduler.alphas_cumprod.double()
        if self.prediction == "epsilon" and float(self.alphas_cumprod[-1]) == 0:
            raise UserError(
                f"{id} predicts epsilon and its schedule ends in pure noise, where epsilon says nothing of the picture:"
                " load it with the scheduler that it was trained with."
            )
        self.steps_offset = int(scheduler.get("steps_offset", 0))
        self.spacing = str(scheduler.get("timestep_spacing", "leading"))
        self.alpha_to_one = bool(scheduler.get("set_alpha_to_one", False))
        self.vae_scale = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        self.scaling: float = pipeline.vae.config.scaling_factor

    @abstractmethod
    def texts(self) -> Sequence[TextComponent]: ...

    @abstractmethod
    def encoded(self, view: View, component: str, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """(output [N, tokens, width], pooled [N, width] or None) of one text encoder, as the network sees it."""

    def added(self, condition: Condition, latents: Tensor) -> Mapping[str, Any]:
        """Further arguments of the network; none by default."""
        return {}

    @property
    def resolution(self) -> int:
        unet: Any = self.components["unet"]
        return int(unet.config.sample_size) * self.vae_scale

    def tunable(self) -> tuple[str, Sequence[str]]:
        return "unet", weights(self.components["unet"])

    def adaptable(self) -> tuple[str, Sequence[str]]:
        return "unet", attention_matrices(self.components["unet"])

    @property
    def size_step(self) -> int:
        return self.vae_scale

    # --- Attends, ReadsByLayer, Speaks --------------------------------------------------------------------

    def places(self) -> Sequence[Place]:
        return unet_places(self.components["unet"])

    def text_matrices(self) -> tuple[str, Sequence[tuple[str, str]]]:
        cross = [place.name for place in self.places() if place.kind == "cross"]
        return "unet", [(f"{name}.to_k.weight", f"{name}.to_v.weight") for name in cross]

    def open_attention(self, view: View) -> None:
        install(view.writable("unet"), self.places(), UNetProcessor, view.attending)

    def token_places(self, view: View, prompts: Sequence[str], text: str) -> Tensor:
        return places_of(self.texts()[0], view, prompts, text)

    def text_layers(self) -> Sequence[str]:
        return [place.name for place in self.places() if place.kind == "cross"]

    def text_outputs(self) -> Mapping[str, int]:
        return {text.component: text.width for text in self.texts()}

    def say(self, view: View, component: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        text = next(each for each in self.texts() if each.component == component)
        ids = padded_ids(text.tokenizer, prompts, view.rows, length=text.length)
        return self.encoded(view, component, lines(view, ids, None, 1))[0], ids

    # --- Denoises -----------------------------------------------------------------------------------------

    def levels(self, steps: int) -> Sequence[Level]:
        """The timesteps of DDIM as diffusers spaces them ('leading' or 'trailing'), then the final level."""
        total = len(self.alphas_cumprod)
        if not 1 <= steps <= total:
            raise UserError(f"steps={steps} was given; this model has {total} noise levels: choose 1 to {total}.")
        if self.spacing == "trailing":
            times = [round(total - i * total / steps) - 1 for i in range(steps)]
        else:
            times = [i * (total // steps) + self.steps_offset for i in reversed(range(steps))]
        found = [self._level(min(time, total - 1)) for time in times]
        if self.alpha_to_one:
            return [*found, Level(0.0, 1.0, 0.0)]
        return [*found, self._level(0)]

    def _level(self, time: int) -> Level:
        alpha = float(self.alphas_cumprod[time])
        return Level(float(time), alpha**0.5, (1 - alpha) ** 0.5)

    def random_levels(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time = (uniform * len(self.alphas_cumprod)).long()
        alpha = self.alphas_cumprod[time]
        return time.float(), alpha.sqrt(), (1 - alpha).sqrt()

    def latent_shape(self) -> tuple[int, ...]:
        unet: Any = self.components["unet"]
        size = int(unet.config.sample_size)
        return (int(unet.config.in_channels), size, size)

    def encode(self, view: View, images: Tensor) -> Tensor:
        check_size(images, self.size_step)
        latents = encoded(view.component("vae"), images.to(self.dtype) * 2 - 1)
        return latents * self.scaling

    def decode(self, view: View, latents: Tensor) -> Tensor:
        images = decoded(view.component("vae"), latents / self.scaling)
        return images / 2 + 0.5

    def condition(self, view: View, prompts: Sequence[str]) -> Condition:
        ids = prompt_ids(self.texts(), view, prompts)
        return pending(ids) if "time" in view.reading.varies else self.read(view, ids, None)

    def read(self, view: View, ids: Mapping[str, Tensor], time: Tensor | None) -> dict[str, Tensor]:
        """text [N, tokens, width]; where layers or keys and values differ, keys and values [N, layers, ...].

        pooled [N, width] where an encoder gives it.
        """
        layers = len(self.text_layers()) if "layer" in view.reading.varies else 1
        spoken: list[tuple[Tensor, Tensor]] = []
        found: dict[str, Tensor] = {}
        for component, own in ids.items():
            wide = lines(view, own, time, layers)
            output, pooled = self.encoded(view, component, wide)
            spoken.append(view.reading.spoken(component, output, wide))
            if pooled is not None:
                found["pooled"] = pooled if layers == 1 else pooled.unflatten(0, (-1, layers)).mean(1)
        keys = torch.cat([each for each, _ in spoken], -1)
        if layers == 1 and all(values is own for own, values in spoken):
            return {"text": keys, **found}
        values = torch.cat([each for _, each in spoken], -1)
        keys, values = (part.unflatten(0, (-1, layers)) for part in (keys, values))
        return {"text": keys[:, 0], "keys": keys, "values": values, **found}

    def predict(self, view: View, latents: Tensor, time: Tensor, condition: Condition) -> Tensor:
        fraction = time / len(self.alphas_cumprod)
        ids = pending_ids(condition)
        if ids:
            condition = self.read(view, ids, fraction)
        view.attending.begin(fraction, (latents.shape[-2], latents.shape[-1]))
        view.attending.texts = (condition["keys"], condition["values"]) if "keys" in condition else None
        output: Tensor = view.component("unet")(
            latents,
            time,
            encoder_hidden_states=condition["text"],
            return_dict=False,
            **self.added(condition, latents),
        )[0]
        return output

    def target(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return eps if self.prediction == "epsilon" else a * eps - s * x0

    def split(self, output: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        if self.prediction == "epsilon":
            return (x - s * output) / a, output
        # v = a eps - s x0 with a^2 + s^2 = 1 (Salimans and Ho 2022, appendix D)
        return a * x - s * output, a * output + s * x
