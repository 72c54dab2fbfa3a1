"""Hostile and damaged files: nothing runs, only the documented exceptions come out, memory stays bounded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backbones.stylegan.formats import (
    UnsafeFileError,
    inspect,
    load_encoder,
    load_file,
    load_official,
    load_rosinality,
    load_tensorflow,
)
from tests.backbones.stylegan import fuzz, hostile
from unified.errors import UserError

ROOT = Path(__file__).parents[3]
READERS = (load_file, load_official, load_tensorflow, load_rosinality, load_encoder)
SLOW = ("a million", "tuples in tuples", "networks that stand")  # what takes seconds runs with one reader


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_every_hostile_file_is_refused_by_every_reader(tmp_path, reader):
    mark = tmp_path / "executed"
    files = hostile.corpus(mark)
    assert len(files) >= 25
    path = tmp_path / "file.pkl"
    for title, data in files.items():
        if title.startswith(SLOW) and reader is not load_file:
            continue
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            reader(path)
        name = hostile.NAMED.get(title)
        if name is not None:
            assert isinstance(caught.value, UnsafeFileError), title
            assert caught.value.global_name == name, title
            assert name in str(caught.value)
        assert len(str(caught.value)) < 600, title
    assert not mark.exists()
    assert not (tmp_path.parent / "outside").exists() and not Path("/tmp/outside").exists()


def test_inspection_names_what_is_refused(tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / "file"
    for title, data in hostile.corpus(mark).items():
        if title.startswith(SLOW):
            continue
        path.write_bytes(data)
        try:
            found = inspect(path)
        except UserError:
            assert title in ("empty", "web page", "git lfs pointer"), title
            continue
        if title in hostile.NAMED:
            assert not found.safe, title
            assert title == "nested: twice" or hostile.NAMED[title] in str(found), title
    assert not mark.exists()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(sorted(fuzz.KINDS)), changes=fuzz.changes())
def test_damaged_files_raise_only_the_documented_exceptions(kind, changes):
    fuzz.check(fuzz.changed_inside(fuzz.sample(kind), changes))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\x80\x04", b"\x80\x02}(", b"PK\x03\x04"]))
def test_arbitrary_bytes_raise_only_the_documented_exceptions(data, start):
    fuzz.check(start + data)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is enforced on Linux")
def test_memory_is_bounded(tmp_path):
    """All of the corpus in a process that may use 1.5 GiB more than it has after importing."""
    script = f"""
import resource, sys
from pathlib import Path
from backbones.stylegan.formats import inspect, load_file
from tests.backbones.stylegan import hostile
from unified.errors import UserError
files = hostile.corpus(Path({str(tmp_path / "mark")!r}))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**29,) * 2)
path = Path({str(tmp_path / "file.pkl")!r})
for title, data in files.items():
    path.write_bytes(data)
    for reader in (load_file, inspect):
        try:
            reader(path)
        except UserError as error:
            assert "more memory than there is" not in str(error), title
print("done", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0 and run.stdout.startswith("done"), run.stderr[-2000:]
    assert not (tmp_path / "mark").exists()
