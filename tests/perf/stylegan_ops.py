"""Native kernels of the StyleGAN operations against the torch functions: `python -m tests.perf.stylegan_ops`.

All alternate in one run; printed are medians, their ratio, and the ratio to a copy of the memory that has to be
read and written at least (1.0 would be the speed of memory). `--peer` is a checkout of the official repository
(stylegan3), whose operations are imported from there: its plugins on a GPU, its reference path on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from backbones.stylegan.ops import dispatch, make_filter, native
from tests.perf.stylegan_peers import OfficialOps, official_ops

TAPS = torch.tensor([0.01, 0.03, 0.06, 0.1, 0.14, 0.16, 0.16, 0.14, 0.1, 0.06, 0.03, 0.01])


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int, int]
    official: Callable[[OfficialOps, Tensor], Tensor]


def cases(size: int, channels: int, batch: int, device: str) -> list[Case]:
    """The operations at [batch, channels, size, size]."""

    def epilogue(ops: OfficialOps, x: Tensor) -> Tensor:
        """Two passes: there is no operation for both there."""
        y = torch.addcmul((noise * 0.1).to(x.dtype), x, scale.to(x.dtype)[:, :, None, None])
        return ops.bias_act(y, bias.to(x.dtype), act="lrelu", clamp=256.0)

    def filtered(ops: OfficialOps, x: Tensor, down: Tensor) -> Tensor:
        sides = [9, 8, 9, 8]
        b = bias.to(x.dtype)
        return ops.filtered_lrelu(x, fu=taps, fd=down, b=b, up=2, down=2, padding=sides, clamp=256.0)

    filter, taps = make_filter().to(device), TAPS.to(device)
    radial = torch.outer(TAPS, TAPS).to(device)
    radial = radial + 0.02 * (radial > 0.01)  # not a product of lines
    scale, bias = torch.rand(batch, channels, device=device) + 0.5, torch.randn(channels, device=device)
    noise = torch.randn(size, size, device=device)
    shape = (batch, channels, size, size)
    small = (batch, channels, size // 2, size // 2)
    picture = (batch, 3, size // 2, size // 2)
    return [
        Case(
            "upfirdn2d 4x4",
            lambda x: dispatch.upfirdn2d(x, filter, padding=(2, 1, 2, 1), gain=4.0),
            shape,
            lambda ops, x: ops.upfirdn2d(x, filter, padding=[2, 1, 2, 1], gain=4.0),
        ),
        Case(
            "upsample2d of a picture",
            lambda x: dispatch.upsample2d(x, filter),
            picture,
            lambda ops, x: ops.upsample2d(x, filter),
        ),
        Case(
            "downsample2d",
            lambda x: dispatch.downsample2d(x, filter),
            shape,
            lambda ops, x: ops.downsample2d(x, filter),
        ),
        Case(
            "bias_act",
            lambda x: dispatch.bias_act(x, bias, clamp=256.0),
            shape,
            lambda ops, x: ops.bias_act(x, bias.to(x.dtype), act="lrelu", clamp=256.0),
        ),
        Case(
            "modulated_epilogue",
            lambda x: dispatch.modulated_epilogue(x, scale, noise=noise, strength=0.1, bias=bias, clamp=256.0),
            shape,
            epilogue,
        ),
        Case(
            "filtered_lrelu",
            lambda x: dispatch.filtered_lrelu(x, taps, taps, bias, up=2, down=2, padding=(9, 8), clamp=256.0),
            small,
            lambda ops, x: filtered(ops, x, taps),
        ),
        Case(
            "filtered_lrelu, down filter of 12 x 12",
            lambda x: dispatch.filtered_lrelu(x, taps, radial, bias, up=2, down=2, padding=(9, 8), clamp=256.0),
            small,
            lambda ops, x: filtered(ops, x, radial),
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


@dataclass(frozen=True)
class Medians:
    """Seconds; copy: of copying what must be read and written. official: None without a checkout."""

    native: float
    torch: float
    copy: float
    official: float | None


def measure(
    case: Case, x: Tensor, device: str, repeats: int, *, with_gradient: bool, peer: OfficialOps | None
) -> Medians:
    def run(operation: Callable[[Tensor], Tensor]) -> object:
        if not with_gradient:
            with torch.no_grad():
                return operation(x)
        leaf = x.detach().requires_grad_()
        y = operation(leaf)
        return torch.autograd.grad(y, leaf, torch.ones_like(y))

    with torch.no_grad():
        result = case.run(x)
        if peer is not None:
            torch.testing.assert_close(case.official(peer, x), result, rtol=1e-2, atol=1e-2 * float(result.abs().max()))
    moved = (x.numel() + result.numel()) // 2
    source, target = x.new_empty(moved), x.new_empty(moved)
    times: list[list[float]] = [[], [], [], []]
    for repeat in range(repeats + 1):
        now = [timed(lambda: run(case.run), device)]
        with native.disabled():
            now.append(timed(lambda: run(case.run), device))
        now.append(timed(lambda: target.copy_(source), device))
        if peer is not None:
            now.append(timed(lambda: run(lambda x: case.official(peer, x)), device))
        if repeat:  # the first round warms up
            for kept, value in zip(times, now, strict=False):
                kept.append(value)
    ours, plain, copy = (statistics.median(kept) for kept in times[:3])
    return Medians(ours, plain, copy, statistics.median(times[3]) if times[3] else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--peer", type=Path, default=None, help="a checkout of the official StyleGAN3 repository")
    arguments = parser.parse_args()
    device = arguments.device
    native.load(device)
    peer = None if arguments.peer is None else official_ops(arguments.peer)
    print(f"{arguments.dtype}, {arguments.batch} x {arguments.channels} x {arguments.size}^2, {device}")
    print(f"{'':40} {'layout':14} {'pass':8} {'native ms':>10} {'torch ms':>10} {'ratio':>6} {'of copy':>8}"
          f"{'' if peer is None else '  official ms  ratio'}")  # fmt: skip
    for case in cases(arguments.size, arguments.channels, arguments.batch, device):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(case.shape, device=device, dtype=getattr(torch, arguments.dtype))
            x = x.contiguous(memory_format=layout)
            for with_gradient in (False, True):
                found = measure(case, x, device, arguments.repeats, with_gradient=with_gradient, peer=peer)
                share = "" if with_gradient else f"{found.copy / found.native:8.2f}"
                name = "last" if layout == torch.channels_last else "first"
                other = found.official
                print(
                    f"{case.name:40} channels {name:5} {'both' if with_gradient else 'forward':8} "
                    f"{found.native * 1e3:10.2f} {found.torch * 1e3:10.2f} {found.torch / found.native:6.2f} {share:>8}"
                    + ("" if other is None else f" {other * 1e3:12.2f} {other / found.native:6.2f}"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
