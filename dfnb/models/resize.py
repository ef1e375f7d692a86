"""Resize crops to the grey levels that PIL gives, as CLIP's own processor does, on any device.

`torch.nn.functional.interpolate(mode="bicubic", antialias=True)` is no substitute. It does not
round and clamp between the two axes as PIL does, so noise from 65 to 224 pixels differs from PIL's
by up to 31 grey levels. On uint8, or with one rounded pass per axis, the difference is still 2.
"""

import functools

import numpy as np
import torch

BITS = 22  # PIL computes with integers: a weight is a whole number of 2^-22


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize uint8 (n, 3, h, w) to float32 (n, 3, size, size) of whole grey levels, bicubic.

    The columns come first, as in PIL. The weights are integers whose sums double precision holds
    exactly, so the result does not depend on the device.
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
    """Return whole numbers as float64 (after, before): 2^BITS times the weights of the old pixels.

    They follow Keys' cubic with a = -1/2. When shrinking, it is stretched over the old pixels that
    a new one covers.
    """
    scale = before / after
    stretch = max(1.0, scale)
    weights = np.zeros((after, before))
    for new in range(after):
        centre = (new + 0.5) * scale
        first = max(0, int(centre - 2 * stretch + 0.5))
        end = min(before, int(centre + 2 * stretch + 0.5))
        row = _cubic((np.arange(first, end) - centre + 0.5) * (1 / stretch))
        row = row / np.cumsum(row)[-1] * 2**BITS  # summed one by one, as PIL does
        weights[new, first:end] = np.trunc(row + np.copysign(0.5, row))
    return torch.from_numpy(weights)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return Keys' cubic (1981, eq. 4) with a = -1/2, which is zero from a distance of 2 on."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
