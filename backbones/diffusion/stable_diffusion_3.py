"""Stable Diffusion 3 and 3.5 over a diffusers pipeline (Esser et al. 2024)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from backbones.diffusion.adapters import attention_matrices, weights
from backbones.diffusion.attention import install
from backbones.diffusion.backbone import Condition
from backbones.diffusion.clip_texts import clip_component, penultimate
from backbones.diffusion.flow import FlowDiffusion
from backbones.diffusion.joint_attention import JointProcessor, joint_places
from backbones.diffusion.prompts import padded_ids
from backbones.diffusion.schedules import check_flow_schedule
from backbones.diffusion.texts import lines, output_of, pending, pending_ids, places_of, prompt_ids
from unified.contract.abilities import Level, TextComponent
from unified.contract.attention import Place
from unified.contract.backbone import backbones
from unified.contract.view import View
from unified.errors import UserError

_CLIPS = ("text_encoder", "text_encoder_2")
_T5 = "text_encoder_3"


class StableDiffusion3(FlowDiffusion):
    """A transformer whose blocks let picture and text attend to each other, over latents in patches.

    Text (section 4): the outputs of two CLIP encoders side by side, filled with zeros to T5's width, then T5's
    tokens; of CLIP also the two pooled vectors. A pipeline without T5 reads zeros in its place.
    """

    name: ClassVar[str] = "stable-diffusion-3"
    time_scale: ClassVar[float] = 1000.0

    def __init__(self, id: str, pipeline: Any) -> None:
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise UserError(f"{id} has no CLIP text encoders: load the whole pipeline (only T5 may be left out).")
        encoders = {name: getattr(pipeline, name) for name in (*_CLIPS, _T5) if getattr(pipeline, name) is not None}
        super().__init__(
            id,
            {"transformer": pipeline.transformer, **encoders},
            pipeline.vae,
            training_shift=float(pipeline.scheduler.config.get("shift", 1.0)),
        )
        self.tokenizers = {name: getattr(pipeline, name.replace("text_encoder", "tokenizer")) for name in encoders}
        check_flow_schedule(id, pipeline.scheduler)
        self.scheduler = pipeline.scheduler
        longest = getattr(pipeline.tokenizer_3, "model_max_length", 256) if _T5 in encoders else 256
        self.t5_length = min(int(longest), 256)
        self.patch = int(pipeline.transformer.config.patch_size)

    @property
    def resolution(self) -> int:
        return self.latent_shape()[-1] * self.vae_scale

    @property
    def size_step(self) -> int:
        return self.patch * self.vae_scale

    def tunable(self) -> tuple[str, Sequence[str]]:
        return "transformer", weights(self.components["transformer"])

    def adaptable(self) -> tuple[str, Sequence[str]]:
        return "transformer", attention_matrices(self.components["transformer"])

    def texts(self) -> Sequence[TextComponent]:
        found = [clip_component(name, self.components[name], self.tokenizers[name]) for name in _CLIPS]
        if _T5 in self.components:
            t5: Any = self.components[_T5]
            # Not get_input_embeddings(): that is `shared`, which T5's forward never calls.
            embedding = "encoder.embed_tokens"
            found.append(TextComponent(_T5, embedding, t5.config.d_model, self.tokenizers[_T5], self.t5_length))
        return found

    # --- Attends, Speaks ----------------------------------------------------------------------------------

    def places(self) -> Sequence[Place]:
        return joint_places(self.components["transformer"])

    def text_matrices(self) -> tuple[str, Sequence[tuple[str, str]]]:
        joint = [place.name for place in self.places() if place.kind == "joint"]
        return "transformer", [(f"{name}.add_k_proj.weight", f"{name}.add_v_proj.weight") for name in joint]

    def open_attention(self, view: View) -> None:
        install(view.writable("transformer"), self.places(), JointProcessor, view.attending)

    def token_places(self, view: View, prompts: Sequence[str], text: str) -> Tensor:
        """CLIP's tokens, then T5's."""
        texts = self.texts()
        found = [places_of(each, view, prompts, text) for each in (texts[0], *texts[2:])]
        if len(texts) == 2:
            found.append(torch.zeros(len(prompts), self.t5_length, dtype=torch.bool))
        return torch.cat(found, 1)

    def text_outputs(self) -> Mapping[str, int]:
        return {text.component: text.width for text in self.texts()}

    def say(self, view: View, component: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        text = next(each for each in self.texts() if each.component == component)
        ids = padded_ids(text.tokenizer, prompts, view.rows, length=text.length)
        return self._encoded(view, component, lines(view, ids, None, 1))[0], ids

    def _encoded(self, view: View, component: str, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        encoder = view.component(component)
        return (output_of(encoder, ids), None) if component == _T5 else penultimate(encoder, ids)

    # --- Denoises -----------------------------------------------------------------------------------------

    def levels(self, steps: int) -> Sequence[Level]:
        """The pipeline's own sigma grid, with its shift."""
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

        scheduler = copy.deepcopy(self.scheduler)
        config = scheduler.config
        settings: dict[str, float] = {}
        if config.get("use_dynamic_shifting", False):
            settings["mu"] = calculate_shift(
                (self.latent_shape()[-1] // self.patch) ** 2,
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", 1.16),
            )
        scheduler.set_timesteps(steps, **settings)
        return [self.level_at(sigma) for sigma in scheduler.sigmas.double().tolist()]

    def latent_shape(self) -> tuple[int, ...]:
        transformer: Any = self.components["transformer"]
        size = int(transformer.config.sample_size)
        return (int(transformer.config.in_channels), size, size)

    def condition(self, view: View, prompts: Sequence[str]) -> Condition:
        ids = prompt_ids(self.texts(), view, prompts)
        return pending(ids) if "time" in view.reading.varies else self._read(view, ids, None)

    def _read(self, view: View, ids: Mapping[str, Tensor], time: Tensor | None) -> dict[str, Tensor]:
        spoken: dict[str, Tensor] = {}
        pooled: list[Tensor] = []
        for component, own in ids.items():
            own = lines(view, own, time, 1)
            output, vector = self._encoded(view, component, own)
            spoken[component] = view.reading.spoken(component, output, own)[0]
            if vector is not None:
                pooled.append(vector)
        clip = torch.cat([spoken[component] for component in _CLIPS], -1)
        transformer: Any = self.components["transformer"]
        width = int(transformer.config.joint_attention_dim)
        t5 = spoken[_T5] if _T5 in spoken else clip.new_zeros(len(clip), self.t5_length, width)
        text = torch.cat([functional.pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5], 1)
        return {"pooled": torch.cat(pooled, -1), "text": text}

    def predict(self, view: View, latents: Tensor, time: Tensor, condition: Condition) -> Tensor:
        fraction = time / self.time_scale
        ids = pending_ids(condition)
        if ids:
            condition = self._read(view, ids, fraction)
        grid = (latents.shape[-2] // self.patch, latents.shape[-1] // self.patch)
        view.attending.begin(fraction, grid, text_tokens=condition["text"].shape[1])
        output: Tensor = view.component("transformer")(
            hidden_states=latents,
            timestep=time,
            encoder_hidden_states=condition["text"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )[0]
        return output


backbones.register(StableDiffusion3.name, StableDiffusion3)
