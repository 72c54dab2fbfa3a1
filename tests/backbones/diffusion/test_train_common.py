from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbones.diffusion.train import common
from tests.backbones.diffusion.stand_in import squares
from unified.zoo.training import BuildSettings


def test_row_and_tensor_of_a_picture() -> None:
    pictures = squares(1)
    assert pictures.row(5) == {"square": "green", "ground": "blue"}
    pixels = pictures.tensor(torch.tensor([5]))
    assert pixels.shape == (1, 3, 16, 16)
    assert pixels.min() >= -1 and pixels.max() <= 1
    ground = torch.tensor([30, 30, 220]) / 127.5 - 1
    torch.testing.assert_close(pixels[0, :, 0, 0], ground)


def test_classes_hold_only_values_that_occur() -> None:
    pictures = squares(1)
    chosen = pictures.labels[:, 0] != 1
    some = common.Pictures(
        pictures.images[chosen],
        pictures.labels[chosen],
        pictures.attributes,
        pictures.caption,
        pictures.prompt,
    )
    targets, prompts = some.classes("square")
    assert prompts == ["a red square", "a blue square"]
    assert targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_captions_are_a_function_of_the_step() -> None:
    pictures, indices = squares(2), torch.arange(18)
    first, again, other = (pictures.captions(indices, generator=common.batch_generator(0, step)) for step in (3, 3, 4))
    assert first == again != other


def test_processes_draw_different_batches() -> None:
    drawn = [torch.rand(4, generator=common.batch_generator(0, 0, process=process)) for process in (0, 1)]
    assert not torch.equal(*drawn)


def test_learning_rate_warms_up_and_falls() -> None:
    clock = common.Clock(BuildSettings(out=Path("out"), work=Path("work")), 100)
    rates = [clock.learning_rate(step, peak=1.0, warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(common.cosine(0.09))
    assert rates[50] == pytest.approx(0.01 + 0.99 / 2)
    assert rates[100] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_learning_rate_falls_with_the_minutes_if_they_run_out_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(common.time, "monotonic", lambda: now)
    clock = common.Clock(BuildSettings(out=Path("out"), work=Path("work"), minutes=2), 1000)
    assert clock.share(0) == 0
    now += 60
    assert clock.share(10) == pytest.approx(0.5)
    assert clock.share(900) == pytest.approx(0.9)


def test_groups_hold_every_parameter_once() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, plain = common.decay_groups(module, weight_decay=0.1, factor=0.5)
    assert [value.shape for value in decayed["params"]] == [(4, 3)]
    assert len(plain["params"]) == 3 and plain["weight_decay"] == 0
    assert decayed["factor"] == plain["factor"] == 0.5


def test_folder_is_replaced_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(ZeroDivisionError), common.replacing(target) as folder:
        (folder / "new").touch()
        raise ZeroDivisionError
    assert [path.name for path in target.iterdir()] == ["old"]
    with common.replacing(target) as folder:
        (folder / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
