"""Resizing to the very grey levels that PIL gives, in torch: CLIP's own preprocessing, on any device."""

import functools

import numpy as np
import torch

BITS = 22  # PIL computes with integers: a weight is a whole number of 2^-22


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Bicubic: uint8 (n, 3, h, w) to float32 (n, 3, size, size) of whole grey levels, columns first, as PIL does.

    The weights are integers, and double precision sums them exactly: the result does not depend on the device.
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images.float()
    pixels = images.double()
    if width != size:
        pixels = _round(pixels @ _weights(width, size).to(images.device).T)
    if height != size:
        pixels = _round(_weights(height, size).to(images.device) @ pixels)
    return pixels.float()


def _round(sums: torch.Tensor) -> torch.Tensor:
    return ((sums + 2 ** (BITS - 1)) / 2**BITS).floor().clamp(0, 255)


@functools.lru_cache(maxsize=8)
def _weights(before: int, after: int) -> torch.Tensor:
    """Whole numbers as float64 (after, before): what each old pixel lends to a new one, times 2^BITS.

    Keys' cubic with a = -1/2; when shrinking it is stretched over the old pixels that a new one covers.
    """
    scale = before / after
    stretch = max(1.0, scale)
    weights = np.zeros((after, before))
    for new in range(after):
        centre = (new + 0.5) * scale
        first, end = max(0, int(centre - 2 * stretch + 0.5)), min(before, int(centre + 2 * stretch + 0.5))
        lent = _cubic((np.arange(first, end) - centre + 0.5) * (1 / stretch))
        lent = lent / np.cumsum(lent)[-1] * 2**BITS  # summed one by one, as PIL does
        weights[new, first:end] = np.trunc(lent + np.copysign(0.5, lent))
    return torch.from_numpy(weights)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys (1981), eq. 4, with a = -1/2: zero from a distance of 2 on."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
