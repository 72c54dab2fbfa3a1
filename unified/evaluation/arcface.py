"""The recognition network of face identity: IResNet as ArcFace is trained with (Deng et al. 2019, section 3.1; the
residual units of Han et al. 2017). No weights ship; a file of `arcface_torch`'s backbone (backbone.pth) is read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unified.errors import UserError
from unified.evaluation.networks import read_state

#: Number of units in each of the four parts, by depth.
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
WIDTHS = (64, 128, 256, 512)
FEATURES = 512


class Unit(nn.Module):
    """x + bn(conv(prelu(bn(conv(bn(x)))))), the second convolution with the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        result: Tensor = out + self.downsample(x)
        return result


class IResNet(nn.Module):
    """Faces [N,3,112,112] in 0..1 (RGB, aligned) to embeddings [N,512]."""

    def __init__(self, depth: int = 50) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        inputs = WIDTHS[0]
        for number, (units, width) in enumerate(zip(UNITS[depth], WIDTHS, strict=True), 1):
            part = [Unit(inputs if i == 0 else width, width, 2 if i == 0 else 1) for i in range(units)]
            self.add_module(f"layer{number}", nn.Sequential(*part))
            inputs = width
        self.bn2 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * 7 * 7, FEATURES)
        self.features = nn.BatchNorm1d(FEATURES)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(2 * faces - 1)))
        for number in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"layer{number}")(x)
        out: Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return out


def load(source: str | Path) -> IResNet:
    """The network of a file of weights (.pth or .safetensors), its depth taken from the names in it.

    Raises UserError if the file cannot be read or holds another network.
    """
    state = read_state(source, url="", what="of the face recognition network")
    for depth, units in UNITS.items():
        if f"layer3.{units[2] - 1}.conv1.weight" in state and f"layer3.{units[2]}.conv1.weight" not in state:
            network = IResNet(depth)
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise UserError(f"{source} does not fit IResNet-{depth}: {error}") from error
            return network.eval().requires_grad_(False)
    raise UserError(f"{source} holds no IResNet (of {', '.join(map(str, UNITS))} layers) as ArcFace is trained with.")


@torch.no_grad()
def embed(network: IResNet, faces: Tensor, *, batch: int = 32) -> Tensor:
    """[N,512] of faces [N,3,112,112] in 0..1."""
    return torch.cat([network(part) for part in faces.split(batch)])
