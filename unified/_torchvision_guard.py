"""Make `import torchvision` work beside a torch of another build.

A torchvision built for CUDA (what a plain installation brings) next to a CPU torch cannot load its binary
operators, and then `import torchvision` fails with "operator torchvision::nms does not exist", and with it
lpips, peft and CLIPModel. Only the two schemas that torchvision looks up at import are missing; they are
declared here, right before torchvision is looked for. Calling them still fails, as it must, but nothing here
calls them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Kept for the lifetime of the process: a Library withdraws its definitions when it is collected.
_declared: list[torch.library.Library] = []


class _BeforeTorchvision:
    """Finds nothing: runs the guard when torchvision is looked for the first time."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name == "torchvision" and cls in sys.meta_path:
            sys.meta_path.remove(cls)
            guard()
        return None


def install() -> None:
    """Let :func:`guard` run before torchvision is imported by anyone; imports nothing by itself."""
    if "torchvision" not in sys.modules and _BeforeTorchvision not in sys.meta_path:
        sys.meta_path.insert(0, _BeforeTorchvision)


def guard() -> bool:
    """Declare torchvision's operators if its own binary does not load; True if they were declared."""
    if "torchvision" in sys.modules or _declared:
        return False
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    import torch

    try:
        torch.ops.load_library(str(next(Path(found.origin).parent.glob("_C.*"))))
    except (OSError, RuntimeError, StopIteration):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    return bool(_declared)
