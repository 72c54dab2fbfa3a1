"""The operations of the StyleGAN networks.

The functions in the modules here are plain, differentiable torch: the specification. What is exported runs on the
native kernels of `native` where those are loaded and take the tensor, else on the torch functions.
"""

from backbones.stylegan.ops.dispatch import bias_act, downsample2d, modulated_epilogue, upfirdn2d, upsample2d
from backbones.stylegan.ops.modulated_conv import demodulation, modulated_conv2d
from backbones.stylegan.ops.upfirdn2d import make_filter

__all__ = [
    "bias_act",
    "demodulation",
    "downsample2d",
    "make_filter",
    "modulated_conv2d",
    "modulated_epilogue",
    "upfirdn2d",
    "upsample2d",
]
