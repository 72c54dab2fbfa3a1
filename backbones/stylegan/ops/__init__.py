"""The operations of StyleGAN2 as plain, differentiable torch: the specification of any faster version."""

from backbones.stylegan.ops.bias_act import bias_act
from backbones.stylegan.ops.modulated_conv import demodulation, modulated_conv2d
from backbones.stylegan.ops.upfirdn2d import downsample2d, make_filter, upfirdn2d, upsample2d

__all__ = [
    "bias_act",
    "demodulation",
    "downsample2d",
    "make_filter",
    "modulated_conv2d",
    "upfirdn2d",
    "upsample2d",
]
