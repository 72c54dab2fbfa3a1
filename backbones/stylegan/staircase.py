"""A mapping network written down: z to the codes of random descriptions.

A choice is a step function of one entry of z, with the steps at the quantiles of the data; the codes of
descriptions follow by the describer's own layers. Both are what dense layers with leaky ReLU can hold exactly,
but for the ramps of the steps, while least squares on a network of this size leaves most of the codes' variance:
the pictures of neighbouring descriptions would run into each other. Adversarial training goes on from here.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.special import ndtri

from backbones.stylegan.descriptions import Describer, Descriptions
from backbones.stylegan.layers import Dense
from backbones.stylegan.mapping import Mapping
from unified.errors import UserError

LAYERS = 4
RAMPS = 0.02  # share of z, for each choice, that lies on the ramp between two of its values
SLOPE = 0.2  # of the leaky ReLU below zero
GAIN = math.sqrt(2.0)  # of the leaky ReLU's output


@torch.no_grad()
def write_mapping(mapping: Mapping, describer: Describer, data: Descriptions) -> None:
    """Set the weights of `mapping` so that a standard normal z becomes the codes of random descriptions.

    Choice a is read from entry a of z, number s from the s-th entry after the choices. Sets w_avg to the mean of
    the codes. Raises UserError where the mapping has not 4 layers or is too narrow.
    """
    layers = [module for module in mapping.children() if isinstance(module, Dense)]
    first, last = describer.layers[0], describer.layers[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    kinks = 2 * sum(int((share > 0).sum()) - 1 for share in _shares(data)) + 2 * len(data.number_levels)
    width = layers[0].weight.shape[0]
    needed = max(kinks, last.in_features, mapping.w_dim)
    if len(layers) != LAYERS or width < needed or mapping.z_dim < _entries(data):
        raise UserError(
            f"A mapping of {len(layers)} layers of width {width} from {mapping.z_dim} entries cannot hold the "
            f"descriptions; it needs {LAYERS} layers, width {needed} and z of {_entries(data)}."
        )
    into, start, read, offset = _steps(data, mapping.z_dim)
    # One: the kinks. Two: the describer's hidden layer on the steps. Three and four: its output y, through two
    # leaky ReLUs: lrelu(-5 lrelu(-y)) = y.
    _set(layers[0], into, start)
    _set(layers[1], first.weight @ read, first.weight @ offset + first.bias)
    scale = _scale(describer, data)
    _set(layers[2], -scale * last.weight, -scale * last.bias)
    _set(layers[3], -torch.eye(mapping.w_dim) / SLOPE, torch.zeros(mapping.w_dim))
    z = torch.randn(8192, mapping.z_dim, generator=torch.Generator().manual_seed(0))
    mapping.w_avg.copy_(mapping.map_one(z.to(mapping.w_avg.device)).mean(0))


def _steps(data: Descriptions, z_dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, b, C, d) with description = C lrelu(A z + b) + d, lrelu without gain, but for the ramps."""
    rows: list[Tensor] = []
    biases: list[float] = []
    columns: list[Tensor] = []
    offset = torch.zeros(data.width)
    place = 0
    for entry, (share, size) in enumerate(zip(_shares(data), data.sizes, strict=True)):
        values = [value for value in range(size) if share[value] > 0]
        offset[place + values[0]] = 1.0
        below = share[values].cumsum(0)
        for (before, after), mass in zip(pairwise(values), below.tolist(), strict=False):
            half = RAMPS / max(1, len(values) - 1) / 2
            left, right = ndtri(torch.tensor([mass - half, mass + half], dtype=torch.float64)).tolist()
            slope = 1 / (right - left)
            # (lrelu(u) - lrelu(u - 1) - 0.2) / 0.8 climbs from 0 to 1 while u does.
            for kink, sign in ((0.0, 1.0), (1.0, -1.0)):
                row, column = torch.zeros(z_dim), torch.zeros(data.width)
                row[entry] = slope
                column[place + before], column[place + after] = -sign / (1 - SLOPE), sign / (1 - SLOPE)
                rows.append(row)
                biases.append(-slope * left - kink)
                columns.append(column)
            offset[place + before] += SLOPE / (1 - SLOPE)
            offset[place + after] -= SLOPE / (1 - SLOPE)
        place += size
    for number in range(len(data.number_levels)):
        for sign in (1.0, -1.0):  # z = (lrelu(z) - lrelu(-z)) / 1.2
            row, column = torch.zeros(z_dim), torch.zeros(data.width)
            row[len(data.sizes) + number] = sign
            column[place + number] = sign / (1 + SLOPE)
            rows.append(row)
            biases.append(0.0)
            columns.append(column)
    return torch.stack(rows), torch.tensor(biases), torch.stack(columns, 1), offset


def _set(layer: Dense, weight: Tensor, bias: Tensor) -> None:
    """Make the layer, its gain included, compute lrelu(weight x + bias); unused units give nothing."""
    rows, columns = weight.shape
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[:rows, :columns] = weight * (math.sqrt(layer.weight.shape[1]) / layer.multiplier / GAIN)
    layer.bias[:rows] = bias / layer.multiplier / GAIN


def _scale(describer: Describer, data: Descriptions) -> Tensor:
    """The factor that stands for the describer's normalisation, which dense layers cannot hold."""
    told = data.entries(torch.arange(min(2000, len(data.images))))
    return (describer.layers(told) * describer(told)).sum() / describer.layers(told).square().sum()


def _shares(data: Descriptions) -> list[Tensor]:
    """How often each value of each choice occurs, float64."""
    counts = [torch.bincount(data.choices[:, a], minlength=size) for a, size in enumerate(data.sizes)]
    return [count.double() / count.sum() for count in counts]


def _entries(data: Descriptions) -> int:
    return len(data.sizes) + len(data.number_levels)
