"""Stable Diffusion 1.x and 2.x over a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from backbones.diffusion.adapters import attention_matrices
from backbones.diffusion.backbone import Condition, DiffusionBackbone
from backbones.diffusion.prompts import padded_ids
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
        ids = padded_ids(self.tokenizer, prompts, view.rows, length=self.tokenizer.model_max_length)
        return {"text": view.component("text_encoder")(ids)[0]}

    def predict(self, view: View, latents: Tensor, time: Tensor, condition: Condition) -> Tensor:
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
