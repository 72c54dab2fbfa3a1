"""Native kernels for the operations of the StyleGAN networks, on the CPU and on CUDA devices.

The torch functions in `backbones.stylegan.ops` are the specification; these give the same results in fewer passes
over memory. Nothing is compiled or loaded at import. `load()` loads the kernels of a device, compiling them first
if they are not in the cache; from then on `backbones.stylegan.ops.dispatch` uses them for the tensors that they
take. Without a compiler `load` raises UserError, and everything runs in torch.
"""

from backbones.stylegan.ops.native.functions import (
    affine_lrelu,
    bias_act,
    filtered_lrelu,
    modulated_epilogue,
    upfirdn2d,
)
from backbones.stylegan.ops.native.loading import disabled, load, load_built, loaded, ready, unload

__all__ = [
    "affine_lrelu",
    "bias_act",
    "disabled",
    "filtered_lrelu",
    "load",
    "load_built",
    "loaded",
    "modulated_epilogue",
    "ready",
    "unload",
    "upfirdn2d",
]
