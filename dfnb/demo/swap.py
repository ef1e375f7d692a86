"""A graphics FaceSwap: the source's face warped onto the target's landmarks and blended in.

The steps are those of FaceForensics++ (Roessler et al., 2019): landmarks, warp, colour, seam.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import Delaunay

from dfnb.demo.render import LANDMARKS, Rendered


def at_least_zero(**values: float) -> None:
    """Raise ValueError for a value below 0."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")


def share(above_zero: bool = False, **values: float) -> None:
    """Raise ValueError for a value that is not in [0, 1], or in (0, 1] with `above_zero`."""
    for name, value in values.items():
        if not 0 <= value <= 1 or (above_zero and value == 0):
            raise ValueError(f"{name} must be in {'(' if above_zero else '['}0, 1], got {value}")


@dataclass(frozen=True)
class SwapStrength:
    """How visible a swap is. The resolution matters most."""

    feather: float = 1.5  # pixels, half the width of the seam; 0 is a hard edge, larger hides it
    colour_match: float = 0.5  # 0 keeps the source's colours .. 1 takes the target's mean, contrast
    jitter: float = 1.0  # pixels, standard deviation of the shift of each part in each frame
    source_resolution: float = 0.4  # share of the pixels along a side that survive; 1 loses nothing

    def __post_init__(self) -> None:
        at_least_zero(feather=self.feather, jitter=self.jitter)
        share(colour_match=self.colour_match)
        share(above_zero=True, source_resolution=self.source_resolution)


STRONG = SwapStrength()


def face_swap(target: Rendered, source: Rendered, *, strength: SwapStrength = STRONG,
              rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put the source's face into the target's picture.

    Returns the picture, uint8 (h, w, 3), and the mask, float32 (h, w): the weight of the new face,
    exactly 0 where the target is untouched. The region is the hull of the target's landmarks, which
    end at the brows.
    """
    landmarks = target.landmarks + _tracking_error(len(target.landmarks), strength.jitter, rng)
    x, y, inside = _warp(landmarks, source.landmarks, target.image.shape[:2])
    face = cv2.remap(coarse(source.image, strength.source_resolution), x, y, cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    face = recolour(face, target.image, inside, strength.colour_match)
    mask = feathered(inside, strength.feather)
    return blend(target.image, face, mask), mask


def _tracking_error(count: int, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Return one shift per facial part, (count, 2) pixels; single ones would tear a mouth."""
    error = np.zeros((count, 2))
    for part in LANDMARKS.values():
        error[part] = rng.normal(0, jitter, 2)
    return error


def _warp(goal: np.ndarray, origin: np.ndarray,
          size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return piecewise-affine map over the triangles of `goal`, landmarks (n, 2) as x, y.

    Returns where in the source's picture each pixel comes from, x and y (h, w) float32, and the
    hull (h, w) bool.
    """
    x, y = np.zeros((2, *size), np.float32)
    inside = np.zeros(size, bool)
    left, top = np.floor(goal.min(0)).astype(int).clip(0)
    right, bottom = np.ceil(goal.max(0)).astype(int) + 1
    columns, rows = np.meshgrid(np.arange(left, min(right, size[1])),
                                np.arange(top, min(bottom, size[0])))
    points = np.stack([columns.ravel(), rows.ravel()], 1).astype(float)          # (p, 2)
    mesh = Delaunay(goal)
    triangle = mesh.find_simplex(points)  # (p,), -1 outside the hull
    points, triangle = points[triangle >= 0], triangle[triangle >= 0]
    affine = mesh.transform[triangle]                                            # (p, 3, 2)
    first = np.einsum("pij,pj->pi", affine[:, :2], points - affine[:, 2])
    weights = np.concatenate([first, 1 - first.sum(1, keepdims=True)], 1)  # (p, 3) barycentric
    at = points.astype(int)
    found = np.einsum("pi,pij->pj", weights, origin[mesh.simplices[triangle]].astype(float))
    x[at[:, 1], at[:, 0]], y[at[:, 1], at[:, 0]] = found.T
    inside[at[:, 1], at[:, 0]] = True
    return x, y, inside


def recolour(face: np.ndarray, like: np.ndarray, inside: np.ndarray, amount: float) -> np.ndarray:
    """Move mean and contrast of each channel in a region towards `like` (Reinhard, 2001)."""
    have, want = face[inside], like[inside].astype(np.float32)                   # (p, 3)
    gain = np.clip(want.std(0) / (have.std(0) + 1e-3), 0.5, 2) ** amount
    return (face - have.mean(0)) * gain + have.mean(0) + amount * (want.mean(0) - have.mean(0))


def coarse(image: np.ndarray, keep: float) -> np.ndarray:
    """Shrink a picture to the share `keep` of its sides and enlarge it, which loses detail."""
    height, width = image.shape[:2]
    small = (max(1, round(width * keep)), max(1, round(height * keep)))
    if small == (width, height):
        return image
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height),
                      interpolation=cv2.INTER_CUBIC)


def feathered(region: np.ndarray, feather: float) -> np.ndarray:
    """Return a soft mask of a region (h, w) bool: 0 outside, 1 from 2 `feather` pixels inside."""
    depth = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(depth / max(2 * feather, 1), 0, 1).astype(np.float32)


def blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mix two pictures (h, w, 3), `above` with the weight `mask` (h, w); uint8."""
    mixed = below + mask[..., None] * (above - below.astype(np.float32))
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
