"""Kaiser-windowed low-pass filters (Karras et al. 2021, appendix C.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def lowpass(taps: int, *, cutoff: float, width: float, rate: float) -> Tensor | None:
    """A windowed sinc [taps] with sum 1, float32; None for one tap.

    cutoff: middle of the transition; width: of the whole transition; rate: sampling rate, in one unit.
    """
    if taps == 1:
        return None
    from scipy.signal import firwin  # takes seconds to import

    values = firwin(taps, cutoff, window=("kaiser", kaiser_beta(taps, width, rate)), fs=rate)
    return torch.tensor(values, dtype=torch.float32)


def radial_lowpass(taps: int, *, cutoff: float, width: float, rate: float) -> Tensor | None:
    """The same with a passband that is a disc instead of a square: [taps, taps] with sum 1.

    The ideal filter is jinc(r) = cutoff J1(2 pi cutoff r) / r; the window stays separable.
    """
    if taps == 1:
        return None
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(*np.meshgrid(x, x))
    centre = np.pi * cutoff**2  # the limit at r = 0, met by odd numbers of taps
    from scipy.signal.windows import kaiser
    from scipy.special import j1

    ideal = np.where(r > 0, cutoff * j1(2 * np.pi * cutoff * r) / np.where(r > 0, r, 1), centre)
    window = kaiser(taps, kaiser_beta(taps, width, rate))
    values = ideal * np.outer(window, window)
    return torch.tensor(values / values.sum(), dtype=torch.float32)


def kaiser_beta(taps: int, width: float, rate: float) -> float:
    """The window's shape parameter for a transition of `width` (Kaiser 1974).

    Attenuation A = 2.285 (taps - 1) pi width / (rate / 2) + 7.95 dB.
    """
    attenuation = 2.285 * (taps - 1) * np.pi * width / (rate / 2) + 7.95
    if attenuation > 50:
        return float(0.1102 * (attenuation - 8.7))
    if attenuation > 21:
        return float(0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21))
    return 0.0
