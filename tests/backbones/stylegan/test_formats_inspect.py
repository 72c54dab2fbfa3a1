"""Looking into files without loading them."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from pathlib import Path

import pytest
import torch

from backbones.stylegan import Generator, GeneratorConfig
from backbones.stylegan.formats import inspect, load_file, load_official, save_networks, save_rosinality
from backbones.stylegan.formats.source import LARGE, Gap, Source, operations
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from tests.backbones.stylegan.hostile import Calls, nested, program, stack_name, text
from unified.errors import UserError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stylegan"


def names(data: bytes, tmp_path: Path) -> dict[str, bool]:
    (tmp_path / "file").write_bytes(data)
    return {name.name: name.allowed for name in inspect(tmp_path / "file").names}


@pytest.mark.parametrize("name", ["sg2_64", "sg2_32_cond", "sg2_32_resnet"])
def test_architecture_without_loading(name):
    found = inspect(FIXTURES / f"{name}.pkl")
    generator, discriminator = load_official(FIXTURES / f"{name}.pkl")
    networks = {network.name: network for network in found.networks}
    assert set(networks) == {"G", "G_ema"} | ({"D"} if discriminator is not None else set())
    for key, network in (("G_ema", generator), ("D", discriminator)):
        if network is None:
            continue
        assert networks[key].parameters == sum(value.numel() for value in network.state_dict().values())
        config = network.config.to_dict()
        assert all(config[field] == value for field, value in networks[key].configuration.items())
        assert networks[key].configuration["resolution"] == network.config.resolution
    assert found.safe and not found.notes
    assert "torch_utils.persistence._reconstruct_persistent_obj" in str(found)


def test_no_tensor_of_a_file_is_read(tmp_path):
    """The same is told of a file whose stored numbers are gone."""
    generator = Generator(GeneratorConfig(16, (64, 64, 64), w_dim=64, z_dim=64))
    save_rosinality(tmp_path / "a.pt", generator)
    whole = inspect(tmp_path / "a.pt")
    assert whole.networks[1].parameters > 200_000
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        stored = max((e for e in archive.infolist() if "/data/" in e.filename), key=lambda entry: entry.file_size)
    data = bytearray((tmp_path / "a.pt").read_bytes())
    end = stored.header_offset + stored.file_size
    data[end - 1000 : end] = b"\xff" * 1000
    (tmp_path / "b.pt").write_bytes(data)
    with pytest.raises(UserError, match="CRC"):
        load_file(tmp_path / "b.pt")
    assert inspect(tmp_path / "b.pt").networks == whole.networks
    reads: list[int] = []

    class Watched(Source):
        def large(self, size: int) -> bytes | bytearray:
            reads.append(size)
            return super().large(size)

    with (FIXTURES / "sg2_64.pkl").open("rb") as file:
        gaps = [a for _, a, _ in operations(Watched(file), skip=True) if isinstance(a, Gap)]
    assert gaps and max(reads) < LARGE
    assert whole.networks[0].configuration["channels"] == [64, 64, 64]


def test_every_name_is_found(tmp_path):
    assert names(pickle.dumps(Calls(os.system, "x")), tmp_path) == {"posix.system": False}
    assert names(pickle.dumps(Calls(os.system, "x"), 0), tmp_path) == {"posix.system": False}
    assert names(b"(S'x'\nios\nsystem\n.", tmp_path) == {"os.system": False}
    found = names(nested(pickle.dumps(Calls(eval, "1"))), tmp_path)
    assert found == {"torch.storage._load_from_bytes": True, "builtins.eval": False}
    # Names hidden by moving values about before they are taken from the stack, or through the memo.
    shuffled = program(text("os"), text("system"), text("a"), b"\x85", b"0", b"\x93")
    assert names(shuffled, tmp_path) == {"os.system": False}
    remembered = program(text("os"), b"\x94", b"0", text("system"), b"\x94", b"0", b"h\x00h\x01\x93")
    assert names(remembered, tmp_path) == {"os.system": False}
    computed = program(b")", text("system"), b"\x93")
    assert names(computed, tmp_path) == {"(a name computed while reading)": False}
    after_damage = program(stack_name("os", "system"), b"\xff")
    assert names(after_damage, tmp_path) == {"os.system": False}
    assert any("followed to its end" in note for note in inspect(tmp_path / "file").notes)


def test_terminal_codes_are_not_printed(tmp_path):
    data = program(stack_name("os\x1b[2J", "system\n"))
    (tmp_path / "a.pkl").write_bytes(data)
    shown = str(inspect(tmp_path / "a.pkl"))
    assert "\x1b" not in shown and "os\\x1b[2J.system\\x0a" in shown


def test_safetensors_and_other_files(tmp_path):
    generator = Generator(GeneratorConfig(16, (8, 8, 8), w_dim=8, z_dim=8))
    save_networks(tmp_path / "a.safetensors", generator)
    found = inspect(tmp_path / "a.safetensors")
    assert found.networks[0].parameters == sum(v.numel() for v in generator.state_dict().values())
    assert found.networks[0].configuration["resolution"] == 16
    assert found.networks[0].kind == "StyleGAN2 generator"
    alias_free = Generator(AliasFreeConfig(16, (2, 2, 2), w_dim=4, z_dim=4))
    save_networks(tmp_path / "b.safetensors", alias_free)
    assert inspect(tmp_path / "b.safetensors").networks[0].kind == "StyleGAN3 generator"
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match="neither a pickle"):
        inspect(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot be read"):
        inspect(tmp_path / "none")
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 and then nothing")
    assert any("zip directory" in note for note in inspect(tmp_path / "a.pt").notes)


def test_operations_are_those_of_pickletools():
    data = pickle.dumps({"a": [1, 2.5, "x", b"y", (None, True), {3}], "t": torch.ones(3)})
    ours = [(op.name, position) for op, _, position in operations(Source(io.BytesIO(data)))]
    assert ours == [(op.name, position) for op, _, position in pickletools.genops(data)]
