"""tmp"""
from __future__ import annotations
import torch, torch.nn.functional as F
from backbones.stylegan.ops.upfirdn2d import upfirdn2d

def filtered_lrelu(x, up_filter, down_filter, bias, *, up, down, padding, slope, gain, clamp):
    x = x + bias[:, None, None]
    p = (padding[0], padding[1])*2
    def two(f): return torch.outer(f, f) if f.ndim == 1 else f
    if up_filter is not None:
        x = upfirdn2d(x, two(up_filter), up=up, padding=p, gain=up*up)
    x = F.leaky_relu(x, slope)*gain
    if clamp is not None: x = x.clamp(-clamp, clamp)
    if down_filter is not None:
        x = upfirdn2d(x, two(down_filter), down=down)
    return x
