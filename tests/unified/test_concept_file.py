"""Concept files: nothing lost, nothing believed that was altered."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from unified.concept_file import load_concept, save_concept
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.errors import UserError


def concept() -> Concept:
    return Concept(
        codes=[
            Code("w", {"w": torch.randn(2, 16)}, True, {"settings": {"exploration": 0.05}}),
            Code(
                "lora", {"a.b.up": torch.randn(4, 2).half(), "a.b.down": torch.randn(2, 3)}, False, {"component": "g"}
            ),
        ],
        name="<mé>",
        carrier="sks person",
        category="person",
        backbone="tiny",
        fingerprint="f" * 16,
        meta={"recipe": "pti", "stages": [{"losses": [1.0, 0.5]}]},
    )


def test_round_trip_keeps_every_bit(tmp_path) -> None:
    before = concept()
    path = before.save(tmp_path / "c")
    assert path.name == "c.safetensors"
    after = Concept.load(path)
    assert [c.space for c in after.codes] == ["w", "lora"]
    for one, other in zip(before.codes, after.codes, strict=True):
        assert (one.per_picture, one.meta) == (other.per_picture, other.meta)
        assert one.tensors.keys() == other.tensors.keys()
        for name, value in one.tensors.items():
            assert other.tensors[name].dtype == value.dtype and torch.equal(other.tensors[name], value)
    for field in ("name", "carrier", "category", "backbone", "fingerprint", "meta", "weight"):
        assert getattr(before, field) == getattr(after, field)
    assert list(tmp_path.iterdir()) == [path]


def test_loaded_tensors_are_aligned_and_own_their_memory(tmp_path) -> None:
    loaded = load_concept(concept().save(tmp_path / "c"))
    for code in loaded.codes:
        for value in code.tensors.values():
            assert value.data_ptr() % 64 == 0 and value.is_contiguous()


@settings(max_examples=40, deadline=None)
@given(cut=st.floats(0.0, 0.999))
def test_truncated_files_are_refused(tmp_path_factory, cut: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    data = concept().save(folder / "c").read_bytes()
    path = folder / "cut.safetensors"
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        load_concept(path)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0.0, 0.9999), mask=st.integers(1, 255))
def test_one_changed_byte_is_refused(tmp_path_factory, place: float, mask: int) -> None:
    folder = tmp_path_factory.mktemp("edit")
    data = bytearray(concept().save(folder / "c").read_bytes())
    data[int(len(data) * place)] ^= mask
    path = folder / "edited.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(UserError):
        load_concept(path)


def test_a_hand_edited_description_is_refused(tmp_path) -> None:
    path = concept().save(tmp_path / "c")
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    description = json.loads(metadata["unified"])
    description["fingerprint"] = "0" * 16
    metadata["unified"] = json.dumps(description)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(UserError, match="altered"):
        load_concept(path)


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no concept file"):
        load_concept(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="holds no concept"):
        load_concept(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"text\.safetensors"):
        load_concept(tmp_path / "text.safetensors")


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    path = concept().save(tmp_path / "c")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="disk is full"):
        save_concept(concept(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
