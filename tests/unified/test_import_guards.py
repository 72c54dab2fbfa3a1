"""What `import unified` takes care of: shadowed packages, torchvision's operators, and being fast."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, in `folder`, which comes first on its path as with `python -c`."""
    places = os.pathsep.join(str(path) for path in (*paths, ROOT))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_shadowing_folder_or_file_is_named(tmp_path: Path, kind: str) -> None:
    if kind == "package":
        intruder = tmp_path / "editing"
        intruder.mkdir()
        (intruder / "__init__.py").write_text("")
    else:
        intruder = tmp_path / "editing.py"
        intruder.write_text("")
    done = python("import unified", tmp_path)
    assert done.returncode != 0
    assert "ImportError: unified needs its own packages" in done.stderr
    assert str(intruder) in done.stderr and "Rename" in done.stderr


def test_other_folders_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "editing").mkdir()  # without __init__.py ours, a regular package, comes before it
    if not (ROOT / "editing" / "__init__.py").exists():
        (tmp_path / "editing").rmdir()
    done = python("import unified", tmp_path)
    assert done.returncode == 0, done.stderr


def test_import_is_light(tmp_path: Path) -> None:
    heavy = ("diffusers", "transformers", "torchvision", "lpips", "sklearn", "matplotlib", "gradio", "peft")
    done = python(f"import sys, unified; print([m for m in {heavy} if m in sys.modules])", tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


BROKEN = """
import torch
try:
    torch.library.Library("torchvision", "FRAGMENT")
    @torch.library.register_fake("torchvision::nms")
    def meta(dets, scores, iou_threshold): ...
except RuntimeError as error:
    raise RuntimeError("operator torchvision::nms does not exist") from error
"""


def test_torchvision_whose_binary_does_not_load(tmp_path: Path) -> None:
    """A stand-in that fails at import as the real one does, with a binary that is none."""
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(BROKEN)
    (package / "_C.so").write_bytes(b"not a library")
    without = python("import torchvision", tmp_path, tmp_path / "site")
    assert "nms does not exist" in without.stderr
    guarded = python("import unified, torchvision; print(torchvision.__file__)", tmp_path, tmp_path / "site")
    assert guarded.returncode == 0, guarded.stderr
    assert str(package) in guarded.stdout


def test_the_installed_torchvision_can_be_imported(tmp_path: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    done = python("import unified, torchvision, lpips", tmp_path)
    assert done.returncode == 0, done.stderr
