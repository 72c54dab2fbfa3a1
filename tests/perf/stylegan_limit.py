"""How near a StyleGAN's forward pass is to its convolutions alone: `python -m tests.perf.stylegan_limit --help`.

One forward pass is watched, and the convolutions that it asked for are then done by themselves, on numbers of the
same shapes in the same memory order, in turn with the whole pass. No implementation by convolutions is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.perf.stylegan import generator_of


class Convolutions(TorchDispatchMode):
    """Keeps the arguments of every convolution that is done inside of it, tensors as random ones like them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.calls.append(tuple(torch.randn_like(a) if isinstance(a, Tensor) else a for a in args))
        return func(*args, **(kwargs or {}))

    def replay(self) -> None:
        for call in self.calls:
            torch.ops.aten.convolution.default(*call)


def seconds(run: Callable[[], Any]) -> float:
    """Of processor time, which a busy machine lengthens less than wall time."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="stylegan2", help="as in tests.perf.stylegan")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = generator_of(arguments.network, arguments.size)
    with torch.no_grad():
        ws = generator.mapping(torch.randn(1, generator.config.z_dim))
        with Convolutions() as found:
            generator.synthesis(ws)
        found.replay()
        pairs = [(seconds(lambda: generator.synthesis(ws)), seconds(found.replay)) for _ in range(arguments.repeats)]
    whole, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{arguments.network} {arguments.size}: forward {whole:.2f} s of processor time, its {len(found.calls)}"
        f" convolutions alone {alone:.2f} s: {whole / alone:.2f} times the limit"
    )


if __name__ == "__main__":
    main()
