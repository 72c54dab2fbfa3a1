"""Files whose stored settings or shapes no network has: refused at once, by the documented exception."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from backbones.stylegan import Generator, GeneratorConfig
from backbones.stylegan.encoders.consultation import ConsultationConfig, ConsultingInverter
from backbones.stylegan.formats import load_networks, save_networks
from backbones.stylegan.formats.encoder_networks import load_inverter_file
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from tests.tiny.encoders import config_of, published, style_inverter
from unified.errors import UserError

STYLEGAN2 = GeneratorConfig(8, (2, 2), w_dim=3, z_dim=3, mapping_layers=1)
STYLEGAN3 = AliasFreeConfig(16, (2, 2, 2), w_dim=3, z_dim=3, mapping_layers=1)


@pytest.mark.parametrize("config", [STYLEGAN2, STYLEGAN3], ids=["stylegan2", "stylegan3"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mapping_layers", 10**9),  # as many modules would be made before any shape is compared
        ("mapping_layers", 0),
        ("mapping_layers", "8"),
        ("resolution", 2**4000),
        ("resolution", "16"),
        ("channels", [10**12] * 3),
        ("channels", "ab"),
        ("channels", [float("inf"), 2, 2]),
        ("z_dim", 10**15),
        ("w_dim", -1),
        ("conv_clamp", "1"),
        ("learning_rate_multiplier", None),
    ],
)
def test_settings_that_no_network_has(tmp_path: Path, config: Any, field: str, value: Any) -> None:
    path, changed = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_networks(path, Generator(config))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    settings = json.loads(metadata["generator"]) | {field: value}
    save_file(tensors, changed, metadata=metadata | {"generator": json.dumps(settings)})
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        load_networks(changed)
    assert time.process_time() - start < 5 and len(str(caught.value)) < 700
    load_networks(path)


def consulting() -> ConsultingInverter:
    inverter = ConsultingInverter(config_of("e4e"), ConsultationConfig("b64.conv0", 8, 64, (3, 4, 5, 6), (4, 5, 6)))
    inverter.begin_with(style_inverter("e4e"))
    return inverter


@pytest.mark.parametrize("name", ["e4e", "restyle-psp", "hfgi"])
def test_encoders_of_other_shapes(tmp_path: Path, name: str) -> None:
    """Whatever shapes the tensors of an encoder have: it is read, or refused by the one exception."""
    whole = published(
        tmp_path / "whole.pt", "e4e" if name == "hfgi" else name, style_inverter(name.replace("hfgi", "e4e"))
    )
    content = torch.load(whole, weights_only=True)
    if name == "hfgi":
        state = consulting().state_dict()
        content["state_dict"] |= {key: value for key, value in state.items() if key.startswith(("residue.", "grid_"))}
        torch.save(content, whole)
    assert load_inverter_file(whole)[0] == name
    chance, outcomes = random.Random(0), set()
    parts = ("residue.", "grid_align.") if name == "hfgi" else ("encoder.",)
    names = [key for key in content["state_dict"] if key.startswith(parts)]
    for _ in range(15):
        state = dict(content["state_dict"])
        for key in chance.sample(names, chance.choice((1, 1, 2, 5))):
            shape = [chance.choice((0, 1, 2, 5)) for _ in range(chance.randrange(6))]
            kind = chance.choice(("shape", "shape", "missing", "type"))
            if kind == "missing":
                del state[key]
            else:
                state[key] = torch.ones(shape, dtype=torch.float32 if kind == "shape" else torch.int64)
        options = dict(content["opts"])
        if chance.random() < 0.3:
            options[chance.choice(list(options))] = chance.choice((None, "x", -1, [1], {"a": 1}))
        torch.save({**content, "state_dict": state, "opts": options}, tmp_path / "a.pt")
        try:
            load_inverter_file(tmp_path / "a.pt")
            outcomes.add("read")
        except UserError as error:
            assert len(str(error)) < 700
            outcomes.add("refused")
    assert "refused" in outcomes
