"""Compiles the kernels in csrc/ into the cache folder: `python -m backbones.stylegan.ops.native`.

A library's name holds a hash of its sources, the torch version, the compiler and what the processor can do, so a
library that is found is one that fits. Several processes may ask at once: one builds, the others wait. The lock
is held by an open file and goes with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from unified import files
from unified.errors import UserError

Target = Literal["cpu", "cuda", "emulated"]  # "emulated": the CUDA kernels run on the CPU, for tests
TARGETS: tuple[Target, ...] = ("cpu", "cuda", "emulated")

SOURCES = Path(__file__).resolve().parents[4] / "csrc"
STABLE_ABI = "0x020b000000000000"  # torch 2.11
ARCHITECTURES = ("80", "90")


@dataclass(frozen=True)
class Plan:
    """All that a library depends on. key: the hash in its name."""

    target: Target
    sources: tuple[Path, ...]
    compiler: str
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    key: str

    @property
    def library(self) -> Path:
        return cache_folder() / f"stylegan-{self.target}-{self.key}.so"


def cache_folder() -> Path:
    """UNIFIED_CACHE or ~/.cache/unified, then kernels."""
    return files.cache_folder() / "kernels"


def plan(target: Target) -> Plan:
    """Raises UserError where the sources or a compiler are missing."""
    folders = {"cpu": ("cpu",), "cuda": ("cuda",), "emulated": ("cuda", "emulation")}[target]
    suffix = ".cpp" if target == "cpu" else ".cu"
    sources = tuple(sorted((SOURCES / folders[0]).glob(f"*{suffix}")))
    if not sources:
        raise UserError(
            f"The kernels' sources are not in {SOURCES}: this installation has none. "
            "Install from a checkout of the repository; without kernels everything runs in plain torch."
        )
    compiler, flags, fingerprint = _cuda_compiler() if target == "cuda" else _cpu_compiler()
    if target == "emulated":
        namespace = "-DUNIFIED_NAMESPACE=unified_stylegan_emulated"
        flags = (*flags, "-O1", "-Wno-unknown-pragmas", "-DUNIFIED_EMULATE", namespace, "-x", "c++")
    include = Path(torch.__file__).parent / "include"
    flags = (*flags, f"-DTORCH_TARGET_VERSION={STABLE_ABI}", "-isystem", str(include))
    library = Path(torch.__file__).parent / "lib"
    link_flags: tuple[str, ...] = ("-shared", f"-L{library}", "-ltorch_cpu")
    if target == "cuda" and (library / "libtorch_cuda.so").exists():
        link_flags += ("-ltorch_cuda",)

    digest = hashlib.sha256()
    for part in (torch.__version__, compiler, *flags, *link_flags, fingerprint):
        digest.update(part.encode() + b"\0")
    for path in sorted([*SOURCES.glob("*.h"), *(p for folder in folders for p in (SOURCES / folder).iterdir())]):
        digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    return Plan(target, sources, compiler, flags, link_flags, digest.hexdigest()[:20])


def build(target: Target, *, jobs: int | None = None) -> Path:
    """The library's path; compiled unless the cache has it. jobs: compilers at a time, all cores when None.

    Raises UserError where a compiler, ninja or the sources are missing, or compilation fails.
    """
    made = plan(target)
    if made.library.exists():
        return made.library
    ninja = shutil.which("ninja")
    if ninja is None:
        raise UserError("The kernels are built with ninja, which is not installed: `pip install ninja`.")
    made.library.parent.mkdir(parents=True, exist_ok=True)
    with _locked(made.library.with_suffix(".lock")):
        if not made.library.exists():
            prefix = f"building-{target}-{made.key}-"
            for left in made.library.parent.glob(f"{prefix}*"):  # by a process that was killed: the lock is ours now
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=made.library.parent) as folder:
                _compile(made, Path(folder), ninja, jobs or os.cpu_count() or 1)
    return made.library


def find(target: Target) -> Path | None:
    """The library if it was built before; None if not, or where nothing could be built."""
    try:
        library = plan(target).library
    except UserError:
        return None
    return library if library.exists() else None


def _compile(made: Plan, folder: Path, ninja: str, jobs: int) -> None:
    objects = [f"{source.stem}.o" for source in made.sources]
    lines = [
        "rule compile",
        f"  command = {_shell(made.compiler, *made.flags)} -c $in -o $out",
        "rule link",
        f"  command = {_shell(made.compiler)} $in {_shell(*made.link_flags)} -o $out",
        *(f"build {o}: compile {_ninja(str(source))}" for o, source in zip(objects, made.sources, strict=True)),
        f"build library.so: link {' '.join(objects)}",
        "default library.so",
        "",
    ]
    (folder / "build.ninja").write_text("\n".join(lines))
    done = subprocess.run([ninja, f"-j{jobs}"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"Compiling the {made.target} kernels with {made.compiler} failed; without them everything runs in plain "
            f"torch. The compiler's last lines:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    # A rename within one folder is atomic: another process sees the whole library or none.
    os.replace(folder / "library.so", made.library)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cpu_compiler() -> tuple[str, tuple[str, ...], str]:
    """(path, flags, what identifies it and the processor)."""
    named = os.environ.get("CXX")
    compiler = shutil.which(named) if named else next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
    if compiler is None:
        raise UserError(
            f"No C++ compiler was found ({named or 'g++, c++, clang++'}); install one or set CXX. "
            "Without kernels everything runs in plain torch."
        )
    flags = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
    # The macros a compiler defines name its version and, with -march=native, what the processor can do.
    for native in ("-march=native", "-mcpu=native", ""):
        command = [compiler, *filter(None, [native]), "-dM", "-E", "-x", "c++", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return compiler, (*flags, *filter(None, [native])), done.stdout
    raise UserError(f"The C++ compiler {compiler} does not work: {done.stderr[-500:]}")


def _cuda_compiler() -> tuple[str, tuple[str, ...], str]:
    home = os.environ.get("CUDA_HOME")
    compiler = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    compiler = compiler or shutil.which("nvcc")
    if compiler is None:
        raise UserError(
            "No nvcc was found; install the CUDA toolkit or set CUDA_HOME. "
            "Without kernels everything runs in plain torch."
        )
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    newest = ARCHITECTURES[-1]
    flags = (
        "-std=c++17",
        "-O3",
        "-DUSE_CUDA",
        *codes,
        f"-gencode=arch=compute_{newest},code=compute_{newest}",  # later processors compile this when loading
        "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall",
    )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return compiler, flags, version.stdout


def _shell(*words: str) -> str:
    return " ".join(shlex.quote(word).replace("$", "$$") for word in words)


def _ninja(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
