"""Native kernels of the StyleGAN operations against the torch functions: `python tests/perf/stylegan_ops.py`.

Both alternate in one run; printed are medians, their ratio, and the ratio to a copy of the memory that has to be
read and written at least (1.0 would be the speed of memory).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.stylegan.ops import dispatch, make_filter, native

TAPS = torch.tensor([0.01, 0.03, 0.06, 0.1, 0.14, 0.16, 0.16, 0.14, 0.1, 0.06, 0.03, 0.01])


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int, int]


def cases(size: int, channels: int, batch: int, device: str) -> list[Case]:
    """The operations at [batch, channels, size, size]."""
    filter, taps = make_filter().to(device), TAPS.to(device)
    radial = torch.outer(TAPS, TAPS).to(device)
    radial = radial + 0.02 * (radial > 0.01)  # not a product of lines
    scale, bias = torch.rand(batch, channels, device=device) + 0.5, torch.randn(channels, device=device)
    noise = torch.randn(size, size, device=device)
    shape = (batch, channels, size, size)
    small = (batch, channels, size // 2, size // 2)
    picture = (batch, 3, size // 2, size // 2)
    return [
        Case("upfirdn2d 4x4", lambda x: dispatch.upfirdn2d(x, filter, padding=(2, 1, 2, 1), gain=4.0), shape),
        Case("upsample2d of a picture", lambda x: dispatch.upsample2d(x, filter), picture),
        Case("downsample2d", lambda x: dispatch.downsample2d(x, filter), shape),
        Case("bias_act", lambda x: dispatch.bias_act(x, bias, clamp=256.0), shape),
        Case(
            "modulated_epilogue",
            lambda x: dispatch.modulated_epilogue(x, scale, noise=noise, strength=0.1, bias=bias, clamp=256.0),
            shape,
        ),
        Case(
            "filtered_lrelu",
            lambda x: dispatch.filtered_lrelu(x, taps, taps, bias, up=2, down=2, padding=(9, 8), clamp=256.0),
            small,
        ),
        Case(
            "filtered_lrelu, down filter of 12 x 12",
            lambda x: dispatch.filtered_lrelu(x, taps, radial, bias, up=2, down=2, padding=(9, 8), clamp=256.0),
            small,
        ),
    ]


def timed(run: Callable[[], object], device: str) -> float:
    if device == "cpu":
        # With one thread the processor's time is what other programs on the machine do not change.
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        run()
        return clock() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def measure(case: Case, x: Tensor, device: str, repeats: int, with_gradient: bool) -> tuple[float, float, float]:
    """Medians in seconds: native, torch, and copying what must be read and written."""

    def run() -> object:
        if not with_gradient:
            with torch.no_grad():
                return case.run(x)
        leaf = x.detach().requires_grad_()
        y = case.run(leaf)
        return torch.autograd.grad(y, leaf, torch.ones_like(y))

    with torch.no_grad():
        moved = (x.numel() + case.run(x).numel()) // 2
    source, target = x.new_empty(moved), x.new_empty(moved)
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    for repeat in range(repeats + 1):
        now = [timed(run, device)]
        with native.disabled():
            now.append(timed(run, device))
        now.append(timed(lambda: target.copy_(source), device))
        if repeat:  # the first round warms up
            for kept, value in zip(times, now, strict=True):
                kept.append(value)
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(times[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    arguments = parser.parse_args()
    device = arguments.device
    native.load(device)
    print(f"{arguments.dtype}, {arguments.batch} x {arguments.channels} x {arguments.size}^2, {device}")
    print(f"{'':40} {'layout':14} {'pass':8} {'native ms':>10} {'torch ms':>10} {'ratio':>6} {'of copy':>8}")
    for case in cases(arguments.size, arguments.channels, arguments.batch, device):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(case.shape, device=device, dtype=getattr(torch, arguments.dtype))
            x = x.contiguous(memory_format=layout)
            for with_gradient in (False, True):
                ours, theirs, copy = measure(case, x, device, arguments.repeats, with_gradient)
                share = "" if with_gradient else f"{copy / ours:8.2f}"
                name = "last" if layout == torch.channels_last else "first"
                print(
                    f"{case.name:40} channels {name:5} {'both' if with_gradient else 'forward':8} "
                    f"{ours * 1e3:10.2f} {theirs * 1e3:10.2f} {theirs / ours:6.2f} {share:>8}"
                )


if __name__ == "__main__":
    main()
