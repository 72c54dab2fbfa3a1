"""Finished work on disk: what is there under the same key is never computed again.

concepts/<run>.safetensors       the concept, with its key in concepts/<run>.json
cells/<run>/<prompt>-<seed>.png  a picture, with its key, scores, seconds and memory in .json
checkpoints/<run>-<key>/         an unfinished inversion
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unified.contract.concept import Concept
from unified.errors import UserError
from unified.files import write_file, write_files
from unified.images import to_pil


class Store:
    """Reads and writes below `folder`; None keeps nothing. With resume=False nothing is read."""

    def __init__(self, folder: Path | None, *, resume: bool = True) -> None:
        self.folder = folder
        self.resume = resume

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write what is compared, before any work: so a folder that cannot be written to is noticed at once."""
        if self.folder is not None:
            write_file(self.folder / "comparison.json", _json(description))

    def checkpoints(self, run: str, key: str) -> Path | None:
        """Where the inversion of this run and key keeps what it reached."""
        if self.folder is None:
            return None
        folder = self.folder / "checkpoints" / f"{run}-{key[:8]}"
        if not self.resume:
            shutil.rmtree(folder, ignore_errors=True)
        return folder

    def concept(self, run: str, key: str) -> Concept | None:
        """The finished concept of this key, if there is one."""
        if self.folder is None or not self._has_key(self._concept_path(run), key):
            return None
        try:
            return Concept.load(self._concept_path(run))
        except UserError:
            return None  # damaged: invert again

    def save_concept(self, run: str, key: str, concept: Concept) -> None:
        """Keep a finished concept, and remove the checkpoints that led to it."""
        if self.folder is None:
            return
        path = self._concept_path(run)
        concept.save(path)
        write_file(path.with_suffix(".json"), _json({"key": key}))
        folder = self.folder / "checkpoints" / f"{run}-{key[:8]}"
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # when it was the last one

    def pictures(self, run: str, name: str, key: str) -> tuple[Tensor, dict[str, Any]] | None:
        """The finished pictures [N,3,H,W] of this key, and what was written about them."""
        path = self._picture_path(run, name)
        if path is None or not self._has_key(path, key):
            return None
        try:
            about: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            with Image.open(path) as file:
                values = torch.from_numpy(np.array(file.convert("RGB")))
            row = values.movedim(-1, 0) / 255
            return row.unflatten(2, (int(about["pictures"]), -1)).movedim(2, 0), about
        except (OSError, ValueError, KeyError, RuntimeError):
            return None

    def save_pictures(self, run: str, name: str, key: str, pictures: Tensor | None, about: Mapping[str, Any]) -> None:
        """Keep pictures side by side in one PNG with `about` beside it; None: only `about` has changed."""
        path = self._picture_path(run, name)
        if path is None:
            return
        files: dict[Any, bytes] = {}
        if pictures is not None:
            files[path] = png(pictures)
        files[path.with_suffix(".json")] = _json({**about, "key": key})
        write_files(files)

    def _has_key(self, path: Path, key: str) -> bool:
        if not self.resume:
            return False
        try:
            return bool(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["key"] == key)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _concept_path(self, run: str) -> Path:
        assert self.folder is not None
        return self.folder / "concepts" / f"{run}.safetensors"

    def _picture_path(self, run: str, name: str) -> Path | None:
        return None if self.folder is None else self.folder / "cells" / run / f"{name}.png"


def png(pictures: Tensor) -> bytes:
    """[N,3,H,W] in 0..1 as one PNG, side by side."""
    row = pictures.movedim(0, 2).flatten(2, 3)
    buffer = io.BytesIO()
    to_pil(row)[0].save(buffer, "PNG")
    return buffer.getvalue()


def shown(pictures: Tensor) -> Tensor:
    """Pictures as a file holds them, in steps of 1/255: what is scored is what is seen."""
    return (pictures.detach().float().clamp(0, 1) * 255).round() / 255


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
