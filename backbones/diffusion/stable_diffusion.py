"""Stable Diffusion 1.x and 2.x over a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from backbones.diffusion.adapters import attention_matrices
from backbones.diffusion.attention import UNetProcessor, install, unet_places
from backbones.diffusion.backbone import Condition, DiffusionBackbone
from backbones.diffusion.prompts import padded_ids
from backbones.diffusion.texts import lines, output_of, pending, pending_ids, places_of, prompt_ids
from unified.contract.attention import Place
from unified.contract.backbone import Level, TextComponent, backbones
from unified.contract.view import View
from unified.errors import UserError


class StableDiffusion(DiffusionBackbone):
    """UNet over KL latents with one CLIP text encoder; epsilon and v-prediction (Rombach et al. 2022)."""

    name: ClassVar[str] = "stable-diffusion"

    def __init__(self, id: str, pipeline: Any) -> None:
        super().__init__(id, {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "vae": pipeline.vae})
        self.tokenizer = pipeline.tokenizer
        scheduler = pipeline.scheduler.config
        self.prediction: str = scheduler.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"{id} predicts {self.prediction!r}; epsilon and v_prediction are supported.")
        # In double precision: at the last level 1 - a^2 is about 1e-3.
        self.alphas_cumprod: Tensor = pipeline.scheduler.alphas_cumprod.double()
        self.steps_offset = int(scheduler.get("steps_offset", 0))
        self.alpha_to_one = bool(scheduler.get("set_alpha_to_one", False))
        self.vae_scale = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        self.scaling: float = pipeline.vae.config.scaling_factor

    @property
    def resolution(self) -> int:
        unet: Any = self.components["unet"]
        return int(unet.config.sample_size) * self.vae_scale

    def tunable(self) -> tuple[str, Sequence[str]]:
        return "unet", [name for name, _ in self.components["unet"].named_parameters()]

    def adaptable(self) -> tuple[str, Sequence[str]]:
        return "unet", attention_matrices(self.components["unet"])

    def texts(self) -> Sequence[TextComponent]:
        encoder = self.components["text_encoder"]
        embedding = encoder.get_input_embeddings()  # type: ignore[operator]
        path = next(name for name, module in encoder.named_modules() if module is embedding)
        return [
            TextComponent(
                "text_encoder", path, embedding.embedding_dim, self.tokenizer, self.tokenizer.model_max_length
            )
        ]

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
        return {"text_encoder": self.texts()[0].width}

    def say(self, view: View, component: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = padded_ids(self.tokenizer, prompts, view.rows, length=self.tokenizer.model_max_length)
        return output_of(view.component(component), lines(view, ids, None, 1)), ids

    # --- Denoises -----------------------------------------------------------------------------------------

    def levels(self, steps: int) -> Sequence[Level]:
        """The 'leading' timesteps of DDIM as diffusers spaces them, then the final level."""
        total = len(self.alphas_cumprod)
        if not 1 <= steps <= total:
            raise UserError(f"steps={steps} was given; this model has {total} noise levels: choose 1 to {total}.")
        stride = total // steps
        times = [i * stride + self.steps_offset for i in reversed(range(steps))]
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
        vae: Any = view.component("vae")
        latents: Tensor = vae.encode(images.to(self.dtype) * 2 - 1).latent_dist.mode()
        return latents * self.scaling

    def decode(self, view: View, latents: Tensor) -> Tensor:
        vae: Any = view.component("vae")
        images: Tensor = vae.decode(latents / self.scaling, return_dict=False)[0]
        return images / 2 + 0.5

    def condition(self, view: View, prompts: Sequence[str]) -> Condition:
        ids = prompt_ids(self.texts(), view, prompts)
        return pending(ids) if "time" in view.reading.varies else self._read(view, ids["text_encoder"], None)

    def _read(self, view: View, ids: Tensor, time: Tensor | None) -> dict[str, Tensor]:
        """text [N, tokens, width]; where layers or keys and values differ, keys and values [N, layers, ...]."""
        layers = len(self.text_layers()) if "layer" in view.reading.varies else 1
        wide = lines(view, ids, time, layers)
        keys, values = view.reading.spoken("text_encoder", output_of(view.component("text_encoder"), wide), wide)
        if layers == 1 and values is keys:
            return {"text": keys}
        keys, values = (part.unflatten(0, (len(ids), layers)) for part in (keys, values))
        return {"text": keys[:, 0], "keys": keys, "values": values}

    def predict(self, view: View, latents: Tensor, time: Tensor, condition: Condition) -> Tensor:
        fraction = time / len(self.alphas_cumprod)
        ids = pending_ids(condition)
        if ids:
            condition = self._read(view, ids["text_encoder"], fraction)
        view.attending.begin(fraction, (latents.shape[-2], latents.shape[-1]))
        view.attending.texts = (condition["keys"], condition["values"]) if "keys" in condition else None
        output: Tensor = view.component("unet")(
            latents, time, encoder_hidden_states=condition["text"], return_dict=False
        )[0]
        return output

    def target(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return eps if self.prediction == "epsilon" else a * eps - s * x0

    def split(self, output: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        if self.prediction == "epsilon":
            return (x - s * output) / a, output
        # v = a eps - s x0 with a^2 + s^2 = 1 (Salimans and Ho 2022, appendix D)
        return a * x - s * output, a * output + s * x


backbones.register(StableDiffusion.name, StableDiffusion)
