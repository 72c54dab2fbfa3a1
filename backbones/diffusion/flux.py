"""FLUX.1 over a diffusers pipeline: a rectified flow with a transformer (Esser et al. 2024)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from backbones.diffusion.adapters import attention_matrices, weights
from backbones.diffusion.attention import FluxProcessor, flux_places, install
from backbones.diffusion.backbone import Condition
from backbones.diffusion.clip_texts import clip_component
from backbones.diffusion.flow import FlowDiffusion
from backbones.diffusion.prompts import padded_ids
from backbones.diffusion.schedules import check_flow_schedule
from backbones.diffusion.texts import lines, output_of, pending, pending_ids, places_of, prompt_ids
from unified.contract.abilities import Level, TextComponent
from unified.contract.attention import Place
from unified.contract.backbone import backbones
from unified.contract.view import View
from unified.denoising.sampling import DenoisingSampling


class Flux(FlowDiffusion):
    """A transformer over latents that are packed 2 x 2 into tokens; T5 tokens and CLIP's pooled vector."""

    name: ClassVar[str] = "flux"

    def __init__(self, id: str, pipeline: Any) -> None:
        super().__init__(
            id,
            {
                "transformer": pipeline.transformer,
                "text_encoder": pipeline.text_encoder,
                "text_encoder_2": pipeline.text_encoder_2,
            },
            pipeline.vae,
        )
        self.tokenizer, self.tokenizer_2 = pipeline.tokenizer, pipeline.tokenizer_2
        check_flow_schedule(id, pipeline.scheduler)
        self.scheduler = pipeline.scheduler
        self.text_length = min(int(pipeline.tokenizer_2.model_max_length), 512)
        # The pipeline's own size is a constant of its class; a smaller model says so in its autoencoder's settings.
        self.latent_size = min(
            int(pipeline.default_sample_size), int(pipeline.vae.config.sample_size) // self.vae_scale
        )
        self._resolution = self.latent_size * self.vae_scale
        if pipeline.transformer.config.guidance_embeds:  # guided already: once more would be twice
            self.sampling = DenoisingSampling(guidance=1.0)

    @property
    def resolution(self) -> int:
        return self._resolution

    @property
    def size_step(self) -> int:
        return 2 * self.vae_scale

    def tunable(self) -> tuple[str, Sequence[str]]:
        return "transformer", weights(self.components["transformer"])

    def adaptable(self) -> tuple[str, Sequence[str]]:
        return "transformer", attention_matrices(self.components["transformer"])

    def texts(self) -> Sequence[TextComponent]:
        t5: Any = self.components["text_encoder_2"]
        return [
            clip_component("text_encoder", self.components["text_encoder"], self.tokenizer),
            # Not get_input_embeddings(): that is `shared`, which T5's forward never calls.
            TextComponent(
                "text_encoder_2",
                "encoder.embed_tokens",
                t5.config.d_model,
                self.tokenizer_2,
                self.text_length,
            ),
        ]

    # --- Attends, Speaks ----------------------------------------------------------------------------------

    def places(self) -> Sequence[Place]:
        return flux_places(self.components["transformer"])

    def text_matrices(self) -> tuple[str, Sequence[tuple[str, str]]]:
        """Of the double blocks; the single blocks project text and picture by the same weights."""
        own = [place.name for place in self.places() if place.name.startswith("transformer_blocks.")]
        return "transformer", [(f"{name}.add_k_proj.weight", f"{name}.add_v_proj.weight") for name in own]

    def open_attention(self, view: View) -> None:
        install(view.writable("transformer"), self.places(), FluxProcessor, view.attending)

    def token_places(self, view: View, prompts: Sequence[str], text: str) -> Tensor:
        return places_of(self.texts()[1], view, prompts, text)

    def text_outputs(self) -> Mapping[str, int]:
        """T5 only: of CLIP the transformer sees one pooled vector."""
        return {"text_encoder_2": self.texts()[1].width}

    def say(self, view: View, component: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = padded_ids(self.tokenizer_2, prompts, view.rows, length=self.text_length)
        return output_of(view.component(component), lines(view, ids, None, 1)), ids

    # --- Denoises -----------------------------------------------------------------------------------------

    def levels(self, steps: int) -> Sequence[Level]:
        """The pipeline's own sigma grid, with its resolution-dependent shift."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler = copy.deepcopy(self.scheduler)
        config = scheduler.config
        tokens = (self.latent_size // 2) ** 2
        mu = calculate_shift(
            tokens,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        grid = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).tolist()
        scheduler.set_timesteps(sigmas=grid, mu=mu if config.get("use_dynamic_shifting", False) else None)
        return [self.level_at(sigma) for sigma in scheduler.sigmas.double().tolist()]

    def latent_shape(self) -> tuple[int, ...]:
        vae: Any = self.components["vae"]
        return (int(vae.config.latent_channels), self.latent_size, self.latent_size)

    def condition(self, view: View, prompts: Sequence[str]) -> Condition:
        ids = prompt_ids(self.texts(), view, prompts)
        return pending(ids) if "time" in view.reading.varies else self._read(view, ids, None)

    def _read(self, view: View, ids: Mapping[str, Tensor], time: Tensor | None) -> dict[str, Tensor]:
        clip_ids, t5_ids = ids["text_encoder"], lines(view, ids["text_encoder_2"], time, 1)
        text, _ = view.reading.spoken("text_encoder_2", output_of(view.component("text_encoder_2"), t5_ids), t5_ids)
        return {"pooled": view.component("text_encoder")(clip_ids).pooler_output, "text": text}

    def predict(self, view: View, latents: Tensor, time: Tensor, condition: Condition) -> Tensor:
        ids = pending_ids(condition)
        if ids:
            condition = self._read(view, ids, time)
        view.attending.begin(
            time, (latents.shape[-2] // 2, latents.shape[-1] // 2), text_tokens=condition["text"].shape[1]
        )
        transformer: Any = view.component("transformer")
        count, _, height, width = latents.shape
        text = condition["text"]
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full((count,), 3.5, dtype=latents.dtype)
        output: Tensor = transformer(
            hidden_states=pack(latents),
            timestep=time.to(latents.dtype),
            guidance=guidance,
            pooled_projections=condition["pooled"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, dtype=latents.dtype),
            img_ids=positions(height // 2, width // 2).to(latents.dtype),
            return_dict=False,
        )[0]
        return unpack(output, height, width)


def pack(latents: Tensor) -> Tensor:
    """[N,C,h,w] -> [N, h/2 * w/2, 4C]: each token is a 2 x 2 square, channels outermost."""
    count, channels, height, width = latents.shape
    squares = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(count, height // 2 * (width // 2), channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of height x width."""
    count, _, depth = tokens.shape
    squares = tokens.reshape(count, height // 2, width // 2, depth // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(count, depth // 4, height, width)


def positions(height: int, width: int) -> Tensor:
    """Position ids [height * width, 3] of image tokens: (0, row, column)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()


backbones.register(Flux.name, Flux)
