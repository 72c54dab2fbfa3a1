"""How the embedded encoders are built and trained: sizes for pictures of 64 px, losses of the papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from backbones.stylegan.config import GeneratorConfig
from backbones.stylegan.encoders.config import StyleEncoderConfig
from backbones.stylegan.encoders.consultation import ConsultationConfig, ConsultingInverter
from backbones.stylegan.encoders.hypernetwork import HypernetworkConfig, WeightInverter
from backbones.stylegan.encoders.inverter import Inverter, StyleInverter
from backbones.stylegan.encoders.losses import LossWeights
from backbones.stylegan.encoders.transformer import QueryInverter
from backbones.stylegan.stylegan3.config import AliasFreeConfig

ROUNDS = 3  # of ReStyle and HyperStyle; 5 in the papers
STEM, STAGES = 16, ((32, 1), (64, 2), (96, 2), (96, 2))
STYLE_WIDTH = 48
FIRST_STAGES = ((24, 1), (48, 2), (64, 2), (96, 2))  # of HyperStyle's encoder into W
HYPER_STAGES = ((24, 1), (48, 1), (64, 1), (96, 1))
ALIGN, CONSULT = (6, 12, 18, 24), (12, 18, 24)  # of HFGI


@dataclass(frozen=True)
class Plan:
    """How one encoder is trained.

    make: the generator's configuration -> the untrained encoder. batch: pictures a step.
    base: the embedded encoder whose networks it begins with, and keeps; "": none.
    judge_rate: learning rate of e4e's judge; in the paper's code 2e-5 to the encoder's 1e-4.
    """

    name: str
    make: Callable[[GeneratorConfig | AliasFreeConfig], Inverter]
    steps: int
    base: str = ""
    batch: int = 16
    learning_rate: float = 1e-3
    judge_rate: float = 2e-4
    weights: LossWeights = field(default_factory=LossWeights)


def small(config: GeneratorConfig | AliasFreeConfig, *, restyle: bool, progressive: bool) -> StyleEncoderConfig:
    """A network for a small generator, which takes pictures of the generator's own size."""
    return StyleEncoderConfig(
        inputs=6 if restyle else 3,
        resolution=config.resolution,
        stem=STEM,
        stages=STAGES,
        num_ws=config.num_ws,
        w_dim=config.w_dim,
        style_width=STYLE_WIDTH,
        pyramid=not restyle,
        progressive=progressive,
    )


def _style(*, restyle: bool, progressive: bool) -> Callable[[GeneratorConfig | AliasFreeConfig], Inverter]:
    return lambda config: StyleInverter(
        small(config, restyle=restyle, progressive=progressive), iterations=ROUNDS if restyle else 1
    )


def _consulting(config: GeneratorConfig | AliasFreeConfig) -> Inverter:
    """Features of half the pictures' size: finer than the paper's, for a finer generator there is none."""
    assert isinstance(config, GeneratorConfig)
    size = config.resolution // 2
    return ConsultingInverter(
        small(config, restyle=False, progressive=True),
        ConsultationConfig(f"b{size}.conv0", config.channels_at(size), size, ALIGN, CONSULT),
    )


def _weights(config: GeneratorConfig | AliasFreeConfig) -> Inverter:
    """Offsets for all convolutions of a StyleGAN2, one for each kernel."""
    assert isinstance(config, GeneratorConfig)
    encoder = small(config, restyle=False, progressive=False)
    encoder = replace(encoder, stages=FIRST_STAGES, pyramid=False, single=True)
    hypernet = HypernetworkConfig(
        layers=changed_layers(config),
        shared=config.channels_at(4),
        stem=STEM,
        stages=HYPER_STAGES,
        resolution=config.resolution,
        wide=24,
        inner=24,
        shared_inner=32,
        kernel=1,
    )
    return WeightInverter(encoder, hypernet, iterations=ROUNDS)


def changed_layers(config: GeneratorConfig) -> tuple[tuple[int, str, int, int], ...]:
    """(number, path, outputs, inputs) of the convolutions; numbers count RGB layers, which stay as they are."""
    layers: list[tuple[int, str, int, int]] = []
    number, before = 0, config.channels_at(4)
    for size in config.sizes:
        channels = config.channels_at(size)
        for name in ("conv1",) if size == 4 else ("conv0", "conv1"):
            layers.append((number, f"synthesis.b{size}.{name}.weight", channels, before))
            number, before = number + 1, channels
        number += 1
    return tuple(layers)


def _queries(config: GeneratorConfig | AliasFreeConfig) -> Inverter:
    stages = (*STAGES[:-1], (config.w_dim, STAGES[-1][1]))
    encoder = small(config, restyle=False, progressive=False)
    return QueryInverter(replace(encoder, stages=stages, style_width=2 * config.w_dim))


#: e4e: offsets kept short, style vectors judged (Tov et al. 2021, section 4).
EDITABLE = LossWeights(offset=2e-4, judged=0.1)

PLANS: Mapping[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("psp", _style(restyle=False, progressive=False), steps=2000),
        Plan("e4e", _style(restyle=False, progressive=True), steps=2000, weights=EDITABLE),
        Plan("restyle-psp", _style(restyle=True, progressive=False), steps=1300, batch=8),
        Plan("restyle-e4e", _style(restyle=True, progressive=True), steps=1300, batch=8, weights=EDITABLE),
        Plan("styletransformer", _queries, steps=2000),
        Plan("hyperstyle", _weights, steps=1000, batch=6),
        Plan("hfgi", _consulting, steps=1500, base="e4e"),
    )
}
