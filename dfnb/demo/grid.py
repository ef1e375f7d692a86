"""The canonical picture of a head: its grid, and the small tools for painting on it.

Coordinates are in half face widths from the point between the eyes: x to the right of the picture,
y down, z to the viewer. Maps are float32 (N, N); pixel (ORIGIN_X, ORIGIN_Y) is the origin.
"""

from __future__ import annotations

import cv2
import numpy as np

N = 288  # pixels of the canonical picture
UNIT = 64  # pixels per half face width, slightly more than in the rendered picture
ORIGIN_X, ORIGIN_Y = 144, 112
X = ((np.arange(N, dtype=np.float32) - ORIGIN_X) / UNIT)[None, :]  # (1, N)
Y = ((np.arange(N, dtype=np.float32) - ORIGIN_Y) / UNIT)[:, None]  # (N, 1)
PIXELS = np.stack(np.meshgrid(np.arange(N), np.arange(N)),
                  -1).astype(np.float32)  # (N, N, 2) as x, y


def step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return a Gaussian of height 1 at (x, y)."""
    return _bell(Y - y, height) * _bell(X - x, width)


def pair(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return the same Gaussian on both sides of the face, at (x, y) and (-x, y)."""
    return _bell(Y - y, height) * _bell(np.abs(X) - x, width)


def _bell(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / width) ** 2)


def noise(rng: np.random.Generator, cell: float, height: int = N, width: int = N) -> np.ndarray:
    """Return smooth noise (height, width) of unit variance with details `cell` pixels wide."""
    coarse = rng.standard_normal((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 1.2


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Return gaussian blur, `sigma` in pixels."""
    return cv2.GaussianBlur(values, (0, 0), sigma)


def slope(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return dz/dx and dz/dy of a height map in half face widths."""
    return (
        cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=UNIT / 8),
        cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=UNIT / 8),
    )


def sample(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return values of a map at canonical coordinates, bilinear; same shape as x."""
    at = np.asarray(x, np.float32) * UNIT + ORIGIN_X, np.asarray(y, np.float32) * UNIT + ORIGIN_Y
    return cv2.remap(values, at[0].reshape(-1, 1), at[1].reshape(-1, 1), cv2.INTER_LINEAR).reshape(
        np.shape(x)
    )


def over(below: np.ndarray, colour: np.ndarray | tuple, alpha: np.ndarray) -> np.ndarray:
    """Paint `colour` over a picture (h, w, 3) where `alpha` (h, w) says; in place."""
    share = cv2.merge((np.asarray(alpha, np.float32),) * 3)
    change = np.subtract(np.asarray(colour, np.float32), below, dtype=np.float32)
    change *= share
    below += change
    return below


def layer(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Lay a picture with alpha (h, w, 4) over another (h, w, 3); in place."""
    return over(below, cv2.cvtColor(above, cv2.COLOR_RGBA2RGB), cv2.extractChannel(above, 3))
