"""Damaged checkpoints in great number: `python tests/backbones/stylegan/fuzz.py --cases 100000 [--seed 0] [--first 0]`.

Each case takes a small file of one format and changes it: bytes overwritten, cut out, doubled, the end cut off,
parts of two files joined. Every reader must give a network or raise UserError, within memory that
is a small multiple of the file's, and within seconds. Prints what came out, and exits with 1 on any other exception.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import random
import resource
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

import torch
from hypothesis import strategies as st

from backbones.stylegan import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from backbones.stylegan.formats import (
    UnsafeFileError,
    inspect,
    load_file,
    load_networks,
    save_networks,
    save_rosinality,
)
from backbones.stylegan.formats.recognition import format_of
from backbones.stylegan.formats.rosinality import generator_to_rosinality
from backbones.stylegan.loading import _is_ours
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from tests.backbones.stylegan import writers
from unified.errors import UserError

KINDS = (
    "official",
    "stylegan3",
    "pti",
    "tensorflow",
    "rosinality",
    "training",
    "legacy",
    "encoder",
    "safetensors",
)
Change = tuple[str, float, int, bytes]
INTERESTING = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f",
    b"R",
    b"b",
    b"\x93",
    b"Q",
    b"h\x00",
    b"(",
    b".",
    b"\x81",
    b"\x94",
    b"\x85",
    b"0",
    b"cos\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b")R",
    b"u",
    b"}",
    b"]",
    b"\x8f",
)


@functools.cache
def sample(kind: str) -> bytes:
    """A small whole file of the format (8 px)."""
    torch.manual_seed(0)
    config = GeneratorConfig(8, (2, 2), w_dim=3, z_dim=3, mapping_layers=1)
    generator, discriminator = Generator(config), Discriminator(DiscriminatorConfig(8, (2, 2), group_size=2))
    named = generator_to_rosinality(generator.state_dict(), config.sizes)
    average = named.pop("latent_avg")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        if kind == "official":
            writers.write_official(path, generator, discriminator, version="ada")
        elif kind == "stylegan3":
            alias_free = AliasFreeConfig(16, (2, 2, 2), w_dim=3, z_dim=3, mapping_layers=1)
            writers.write_official(path, Generator(alias_free), version="stylegan3")
        elif kind == "safetensors":
            save_networks(path, generator, discriminator)
        elif kind == "pti":
            writers.write_pti(path, generator)
        elif kind == "tensorflow":
            writers.write_tensorflow(path, generator, discriminator)
        elif kind == "rosinality":
            save_rosinality(path, generator, discriminator)
        else:
            stream = io.BytesIO()
            content = (
                writers.encoder_content(named, average) if kind == "encoder" else writers.training_content(named, {})
            )
            torch.save(content, stream, _use_new_zipfile_serialization=kind != "legacy")
            path.write_bytes(stream.getvalue())
        return path.read_bytes()


def changes() -> st.SearchStrategy[list[Change]]:
    """Hypothesis strategy: some changes, each (what, where as a part of the file, how long, bytes)."""
    what = st.sampled_from(["write", "insert", "cut", "double", "end", "flip"])
    where = st.one_of(st.floats(0, 1), st.floats(0, 0.02), st.floats(0.98, 1))
    data = st.one_of(st.sampled_from(INTERESTING), st.binary(min_size=1, max_size=9))
    return st.lists(st.tuples(what, where, st.integers(1, 64), data), min_size=1, max_size=6)


def random_changes(chance: random.Random) -> list[Change]:
    """As :func:`changes`, faster."""
    found = []
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        what = chance.choice(("write", "write", "flip", "flip", "insert", "cut", "double", "end"))
        where = chance.choice((chance.random(), chance.random(), chance.random() * 0.02, 1 - chance.random() * 0.02))
        data = chance.choice(INTERESTING) if chance.random() < 0.7 else chance.randbytes(chance.randrange(1, 10))
        found.append((what, where, chance.randrange(1, 65), data))
    return found


def changed(data: bytes, changes: list[Change]) -> bytes:
    for what, where, length, new in changes:
        at = min(int(where * len(data)), len(data))
        if what == "write":
            data = data[:at] + new + data[at + len(new) :]
        elif what == "insert":
            data = data[:at] + new + data[at:]
        elif what == "cut":
            data = data[:at] + data[at + length :]
        elif what == "double":
            data = data[: at + length] + data[at : at + length] + data[at + length :]
        elif what == "end":
            data = data[:at]
        elif at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << length % 8)]) + data[at + 1 :]
    return data


def changed_inside(data: bytes, changes: list[Change]) -> bytes:
    """As :func:`changed`; of a zip file the pickle in it is changed, with a right checksum, so that it is read."""
    if not data.startswith(b"PK"):
        return changed(data, changes)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(stream, "w") as result:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = changed(content, changes)
            result.writestr(entry.filename, content)
    return stream.getvalue()


def check(data: bytes, *, look: bool = True) -> str:
    """What came of the file: "loaded", "refused by name", "damaged" or "not a StyleGAN"; anything else is raised.

    look: also recognise and inspect it.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        try:
            (load_networks if _is_ours(path) else load_file)(path)
            outcome = "loaded"
        except UnsafeFileError as error:
            outcome = "damaged" if error.global_name is None else "refused by name"
        except UserError:
            outcome = "not a StyleGAN"
        if look:
            format_of(path)
            with contextlib.suppress(UserError):
                str(inspect(path))
        return outcome


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=100_000)
    options.add_argument("--first", type=int, default=0, help="number of the first case, to run one again or in parts")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--memory", type=int, default=1024, help="MiB that may be used beyond the start")
    options.add_argument("--inspect-every", type=int, default=1, help="also recognise and inspect each n-th case")
    given = options.parse_args()
    torch.set_num_threads(1)
    samples = {kind: sample(kind) for kind in KINDS}
    for data in samples.values():
        assert check(data) == "loaded"
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + given.memory * 2**20,) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    slowest, failures, start = 0.0, 0, time.perf_counter()
    for case in range(given.first, given.first + given.cases):
        chance = random.Random(f"{given.seed}/{case}")
        kind = chance.choice(KINDS)
        change = changed_inside if chance.random() < 0.8 else changed
        data = change(samples[kind], random_changes(chance))
        if chance.random() < 0.05:
            other = samples[chance.choice(KINDS)]
            data = data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other)) :]
        began = time.process_time()
        try:
            outcomes[check(data, look=case % given.inspect_every == 0)] += 1
        except BaseException as error:
            failures += 1
            print(f"case {case} ({kind}, seed {given.seed}): {type(error).__name__}: {error}", flush=True)
            if isinstance(error, KeyboardInterrupt):
                break
        slowest = max(slowest, time.process_time() - began)
        if (case + 1) % 2000 == 0:
            print(f"to case {case + 1}, {time.perf_counter() - start:.0f} s, {dict(outcomes)}", flush=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{sum(outcomes.values())} cases: {dict(outcomes)}; {failures} failures; slowest {slowest:.2f} s of CPU time; "
        f"memory grew by {grown / 1024:.0f} MiB; {time.perf_counter() - start:.0f} s in all"
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
