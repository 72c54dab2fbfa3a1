"""Sampling rates, sizes and filters of every StyleGAN3 layer (Karras et al. 2021, section 3.2, table 5).

Frequencies are in cycles per picture width: a picture of `resolution` pixels has the sampling rate
`resolution` and holds frequencies below resolution / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from backbones.stylegan.stylegan3.config import AliasFreeConfig
from unified.errors import UserError


@dataclass(frozen=True)
class Band:
    """The signal after a layer: frequencies up to `cutoff`, fading out over +-`half_width` around it,
    sampled `rate` times per picture, on `size` pixels with the margins."""

    cutoff: float
    half_width: float
    rate: int
    size: int


@dataclass(frozen=True)
class Layer:
    """One layer. up, down: factors into and out of the sampling rate of the nonlinearity.

    up_taps, down_taps: lengths of the filters, 1 for none. padding: samples (before, after) added on both
    axes of the upsampled signal.
    """

    name: str
    in_channels: int
    out_channels: int
    before: Band
    after: Band
    kernel_size: int
    is_rgb: bool
    radial: bool
    rate: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    padding: tuple[int, int]


def bands(
    resolution: int,
    layers: int = 14,
    *,
    critical_layers: int = 2,
    first_cutoff: float = 2.0,
    first_stopband: float = 2.0**2.1,
    last_stopband_ratio: float = 2.0**0.3,
    margin: int = 10,
) -> tuple[Band, ...]:
    """The bands after layers L0 ... L`layers`.

    Cutoff and stopband grow geometrically from layer 0 to layer `layers` - `critical_layers`; the sampling
    rate is the next power of two that holds the stopband, and what is left of it widens the transition.
    """
    last_cutoff = resolution / 2
    last_stopband = last_cutoff * last_stopband_ratio
    result = []
    for i in range(layers + 1):
        progress = min(i / (layers - critical_layers), 1.0)
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** progress
        stopband = first_stopband * (last_stopband / first_stopband) ** progress
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, resolution)))
        half_width = max(stopband, rate / 2) - cutoff
        # The margin is needed by the layers that follow; the last ones give the picture itself.
        size = resolution if i > layers - 2 else rate + 2 * margin
        result.append(Band(cutoff, half_width, rate, size))
    return tuple(result)


def channel_plan(resolution: int, *, base: int = 32768, maximum: int = 512, layers: int = 14) -> tuple[int, ...]:
    """Feature channels of L0 ... L`layers - 1`: min(base / (2 cutoff), maximum), as in the official networks.

    Configuration R doubles base and maximum.
    """
    return tuple(round(min(base / 2 / band.cutoff, maximum)) for band in bands(resolution, layers)[:layers])


def plan(config: AliasFreeConfig) -> tuple[Layer, ...]:
    """All layers of the synthesis network, the RGB layer last. Raises UserError for absurdly long filters."""
    count = len(config.channels)
    signals = bands(
        config.resolution,
        count,
        critical_layers=config.critical_layers,
        first_cutoff=config.first_cutoff,
        first_stopband=config.first_stopband,
        last_stopband_ratio=config.last_stopband_ratio,
        margin=config.margin,
    )
    channels = (*config.channels, config.image_channels)
    layers = tuple(
        _layer(config, i, channels[max(i - 1, 0)], channels[i], signals[max(i - 1, 0)], signals[i])
        for i in range(count + 1)
    )
    if max(max(layer.up_taps, layer.down_taps) for layer in layers) > 1024:
        raise UserError(
            f"{count} layers from {config.first_cutoff} cycles per picture to resolution {config.resolution} "
            "change the sampling rate too fast: use more layers."
        )
    return layers


def _layer(config: AliasFreeConfig, i: int, in_channels: int, out_channels: int, before: Band, after: Band) -> Layer:
    count = len(config.channels)
    is_rgb = i == count
    kernel_size = 1 if is_rgb else config.kernel_size
    rate = max(before.rate, after.rate) * (1 if is_rgb else config.upsampling)
    up, down = rate // before.rate, rate // after.rate
    up_taps = config.filter_size * up if up > 1 and not is_rgb else 1
    down_taps = config.filter_size * down if down > 1 and not is_rgb else 1
    # The downsampling reads (size - 1) down + 1 samples and its taps; the convolution, padded by
    # kernel_size - 1 on each side, and the upsampling give the rest.
    needed = (after.size - 1) * down + 1 + (up_taps - 1) + (down_taps - 1)
    missing = needed - (before.size + kernel_size - 1) * up
    first = (missing + up) // 2  # centres output pixels over input pixels
    return Layer(
        name=f"L{i}_{after.size}_{out_channels}",
        in_channels=in_channels,
        out_channels=out_channels,
        before=before,
        after=after,
        kernel_size=kernel_size,
        is_rgb=is_rgb,
        radial=config.radial_filters and i < count - config.critical_layers,
        rate=rate,
        up=up,
        down=down,
        up_taps=up_taps,
        down_taps=down_taps,
        padding=(first, missing - first),
    )
