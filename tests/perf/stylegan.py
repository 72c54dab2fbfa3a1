"""StyleGAN synthesis against its plain formula and the official code: `python -m tests.perf.stylegan --help`.

Networks with the same random weights take turns in one run. Printed are medians of wall and process time, their
ratios to ours, and the peak of memory above what the weights take. The plain formula is the paper's: weights per
picture, a grouped convolution, zeros inserted and filtered. `--peer` is a checkout of the official repository
(stylegan3, or stylegan2-ada-pytorch), which is imported from there; on a CPU it takes its reference path.

The tasks are: forward; forward and backward to w; a projector's step (w and noise maps, Adam, noise regulariser,
squared error at 256 pixels); a step of pivotal tuning (all synthesis weights, Adam, squared error). The perceptual
distance of the latter two is left out: it is no part of these networks and the same for all of them.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.stylegan import Generator, GeneratorConfig, channel_plan
from backbones.stylegan.ops import native
from backbones.stylegan.runtime import Runtime
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from backbones.stylegan.stylegan3.layout import channel_plan as alias_free_plan
from tests.perf.stylegan_peers import official, plain

Noise = Mapping[str, Tensor]
TASKS = ("forward", "backward", "projector", "tuning")
LABELS = {
    "forward": "forward",
    "backward": "forward + backward to w",
    "projector": "projector step",
    "tuning": "PTI step",
}


@dataclass(frozen=True)
class Network:
    """One implementation. draw: (ws, noise maps by layer, or None for the stored ones) -> pictures."""

    name: str
    module: nn.Module
    draw: Callable[[Tensor, Noise | None], Tensor]


def generator_of(kind: str, size: int) -> Generator:
    """Random weights; noise that shows."""
    torch.manual_seed(0)
    if kind == "stylegan2":
        generator = Generator(GeneratorConfig(size, channel_plan(size), conv_clamp=256.0))
    else:
        radial = kind == "stylegan3-r"
        scale = 2 if radial else 1
        channels = alias_free_plan(size, base=32768 * scale, maximum=512 * scale)
        generator = Generator(AliasFreeConfig(size, channels, kernel_size=1 if radial else 3, radial_filters=radial))
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if name.endswith("noise_strength"):
                value.fill_(0.1)
    return generator.eval().requires_grad_(False)


def networks(arguments: argparse.Namespace, kind: str, size: int) -> list[Network]:
    generator = generator_of(kind, size).to(arguments.device)
    generator.synthesis.runtime = Runtime(
        dtype=None if arguments.dtype is None else getattr(torch, arguments.dtype),
        checkpoint_from=arguments.checkpoint_from,
    )
    synthesis = generator.synthesis
    found = [Network("ours", synthesis, lambda ws, noise: synthesis(ws, noise="const" if noise is None else noise))]
    if "plain" in arguments.against:
        other = copy.deepcopy(generator).synthesis
        found.append(Network("plain", other, partial(plain, other)))
    if arguments.peer is not None:
        module, draw = official(arguments.peer, generator, kind)
        found.append(Network("official", module, draw))
    return found


# --- tasks ------------------------------------------------------------------------------------------------------


def task(name: str, network: Network, ws: Tensor, maps: Noise) -> Callable[[], None]:
    """What is timed; state such as an optimiser's is made before."""
    if name == "forward":

        def forward() -> None:
            with torch.no_grad():
                network.draw(ws, None)

        return forward
    if name == "backward":

        def backward() -> None:
            leaf = ws.clone().requires_grad_()
            torch.autograd.grad(network.draw(leaf, None).square().sum(), leaf)

        return backward
    if name == "projector":
        w = ws[:, :1].clone().requires_grad_()
        noise = {key: value.clone().requires_grad_() for key, value in maps.items()}
        optimiser = torch.optim.Adam([w, *noise.values()], lr=0.1)

        def project() -> None:
            optimiser.zero_grad()
            image = network.draw(w.expand(-1, ws.shape[1], -1), noise or None)
            image = F.interpolate(image, size=256, mode="area") if image.shape[-1] > 256 else image
            loss = image.square().sum() + sum((regulariser(value) for value in noise.values()), torch.zeros(()))
            loss.backward()
            optimiser.step()

        return project
    network.module.requires_grad_(True)
    optimiser = torch.optim.Adam(network.module.parameters(), lr=3e-4)

    def tune() -> None:
        optimiser.zero_grad()
        network.draw(ws, None).square().mean().backward()
        optimiser.step()

    return tune


def regulariser(noise: Tensor) -> Tensor:
    """Of the projector: 1e5 times the squared correlation with the neighbours at all sizes down to 8."""
    total, level = noise.new_zeros(()), noise[None, None]
    while True:
        total = total + sum((level * level.roll(1, dims=d)).mean().square() for d in (2, 3))
        if level.shape[-1] <= 8:
            return 1e5 * total
        level = F.avg_pool2d(level, 2)


# --- measuring --------------------------------------------------------------------------------------------------


def status(field: str) -> float:
    """A line of /proc/self/status in MB, 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)


def peak_memory(run: Callable[[], None], device: str) -> float:
    """MB that `run` takes at its peak beyond what was held before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except (OSError, AttributeError):
        return float("nan")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def timed(run: Callable[[], None], device: str) -> tuple[float, float]:
    """(wall, process) seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, process = time.perf_counter(), time.process_time()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - process


def measure(arguments: argparse.Namespace, kind: str, size: int, batch: int, name: str, found: list[Network]) -> None:
    ws = torch.randn(batch, found[0].module.num_ws, 512, generator=torch.Generator().manual_seed(1))  # type: ignore[call-overload]
    ws = ws.to(arguments.device)
    maps = {
        key.removesuffix(".noise_const"): value
        for key, value in found[0].module.named_buffers()
        if key.endswith("noise_const")
    }
    saved = [copy.deepcopy(network.module.state_dict()) for network in found] if name == "tuning" else []
    runs = [task(name, network, ws, maps) for network in found]
    memory = [peak_memory(run, arguments.device) for run in runs]  # also warms up
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    for _ in range(arguments.repeats):
        for kept, run in zip(times, runs, strict=True):
            kept.append(timed(run, arguments.device))
    wall, process = ([statistics.median(t[i] for t in kept) for kept in times] for i in (0, 1))
    for k, network in enumerate(found):
        ratio = "" if k == 0 else f"{wall[k] / wall[0]:8.2f} {process[k] / process[0]:8.2f}"
        print(
            f"{kind:12} {size:5} {batch:5}  {LABELS[name]:24} {network.name:9} {wall[k]:9.3f} {process[k]:9.3f} "
            f"{memory[k]:9.0f}  {ratio}",
            flush=True,
        )
    for network, state in zip(found, saved, strict=False):
        network.module.load_state_dict(state)
    for network in found:
        network.module.requires_grad_(False)


def agreement(found: list[Network], device: str) -> str:
    ws = torch.randn(2, found[0].module.num_ws, 512, generator=torch.Generator().manual_seed(2)).to(device)  # type: ignore[call-overload]
    with torch.no_grad():
        ours, *others = (network.draw(ws, None) for network in found)
    span = ours.max() - ours.min()
    largest = [((other - ours).abs().max() / span).item() for other in others]
    return ", ".join(f"{network.name} {value:.1e}" for network, value in zip(found[1:], largest, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--networks", nargs="+", default=["stylegan2"], choices=("stylegan2", "stylegan3-t", "stylegan3-r")
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", nargs="*", default=["plain"], choices=("plain",))
    parser.add_argument("--peer", type=Path, default=None, help="a checkout of the official repository")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-kernels", action="store_true", help="ours in plain torch operations")
    parser.add_argument("--dtype", default=None, choices=("float16", "bfloat16"), help="of our largest sizes")
    parser.add_argument("--checkpoint-from", type=int, default=None, help="recompute our layers of this size and more")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    kernels = not arguments.no_kernels and native.load(arguments.device)
    print(f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, kernels: {kernels}")
    print(f"{'network':12} {'px':>5} {'batch':>5}  {'':24} {'':9} {'wall s':>9} {'process s':>9} {'peak MB':>9}  "
          f"{'x wall':>8} {'x process':>8}")  # fmt: skip
    for kind in arguments.networks:
        for size in arguments.sizes:
            found = networks(arguments, kind, size)
            print(f"{kind:12} {size:5}  largest difference to ours, as a part of the range: "
                  f"{agreement(found, arguments.device)}")  # fmt: skip
            for batch in arguments.batches:
                for name in arguments.tasks:
                    measure(arguments, kind, size, batch, name, found)


if __name__ == "__main__":
    main()
