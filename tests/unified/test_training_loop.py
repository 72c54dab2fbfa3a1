"""The resumable training loop."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from unified.zoo.training import BuildSettings, step_generator, train_loop


def _setup(tmp_path, **changes):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters(), lr=0.1)

    def step_fn(step: int) -> dict[str, float]:
        x = torch.randn(4, 3, generator=step_generator(7, step))
        loss = model(x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return {"loss": float(loss)}

    settings = BuildSettings(out=tmp_path, work=tmp_path, **changes)
    return model, step_fn, {"model": model, "adam": adam}, settings


def test_three_and_three_steps_are_six(tmp_path) -> None:
    model, step_fn, state, settings = _setup(tmp_path / "whole")
    train_loop(step_fn, state=state, steps=6, settings=settings)
    half, step_fn, state, settings = _setup(tmp_path / "halves")
    train_loop(step_fn, state=state, steps=3, settings=settings)
    resumed, step_fn, state, settings = _setup(tmp_path / "halves")
    steps, seconds = train_loop(step_fn, state=state, steps=6, settings=settings)
    assert steps == 6 and seconds > 0
    assert torch.equal(model.weight, resumed.weight) and not torch.equal(half.weight, resumed.weight)


def test_a_signal_in_mid_step_ends_after_the_step_with_a_checkpoint(tmp_path) -> None:
    whole, step_fn, state, settings = _setup(tmp_path / "whole")
    train_loop(step_fn, state=state, steps=6, settings=settings)
    _, step_fn, state, settings = _setup(tmp_path / "halves")

    def interrupted(step: int) -> dict[str, float]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_fn(step)

    with pytest.raises(KeyboardInterrupt, match="after step 3"):
        train_loop(interrupted, state=state, steps=6, settings=settings)
    resumed, step_fn, state, settings = _setup(tmp_path / "halves")
    train_loop(step_fn, state=state, steps=6, settings=settings)
    assert torch.equal(whole.weight, resumed.weight)


def test_an_exception_in_a_step_leaves_the_last_checkpoint(tmp_path) -> None:
    _, step_fn, state, settings = _setup(tmp_path)
    train_loop(step_fn, state=state, steps=2, settings=settings)

    def broken(step: int) -> dict[str, float]:
        step_fn(step)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_loop(broken, state=state, steps=6, settings=settings)
    _, _, state, settings = _setup(tmp_path)
    assert train_loop(lambda step: {}, state=state, steps=2, settings=settings)[0] == 2
