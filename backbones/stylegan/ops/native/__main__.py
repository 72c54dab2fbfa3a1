"""`python -m backbones.stylegan.ops.native`: build the kernels, which `make kernels` does."""

from __future__ import annotations

import argparse
import shutil
import sys

from backbones.stylegan.ops.native import build
from unified.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the native kernels of the StyleGAN networks.")
    parser.add_argument(
        "targets", nargs="*", choices=(*build.TARGETS, []), help="default: cpu, and cuda if nvcc is there"
    )
    parser.add_argument("--jobs", type=int, default=None, help="compilers at a time; default: all cores")
    arguments = parser.parse_args()
    targets: list[build.Target] = arguments.targets or ["cpu", *(["cuda"] if shutil.which("nvcc") else [])]  # type: ignore[list-item]
    try:
        for target in targets:
            print(f"{target}: {build.build(target, jobs=arguments.jobs)}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
