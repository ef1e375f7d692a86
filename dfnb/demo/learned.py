"""A learned swap like Deepfakes: the source's face as an autoencoder would draw it.

Two decoders share an encoder: what comes out has the pose, the expression and the light of the
target's face and the features of the source, on few pixels. It is aligned by a similarity,
recoloured and pasted with a soft mask inside the face (Roessler et al., 2019; Perov et al., 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from dfnb.demo.motion import Pose
from dfnb.demo.render import Rendered, Scene
from dfnb.demo.swap import at_least_zero, blend, coarse, recolour, share


@dataclass(frozen=True)
class DeepfakesStrength:
    """How visible a learned swap is. The bottleneck matters most.

    It was chosen as `reenact.Face2FaceStrength.texture` was, on the same worlds: at 0.3 the AUC is
    .84 and .84, between those of FaceSwap and NeuralTextures.
    """

    bottleneck: float = 0.3    # share of the pixels along a side that survive; 1 loses nothing
    expression: float = 0.8  # share of the target's expression that the encoder passes on
    colour_match: float = 0.9  # 0 keeps the source's colours .. 1 takes the target's mean, contrast
    jitter: float = 0.5  # pixels, standard deviation of the shift of the aligned face in each frame
    feather: float = 5.0       # pixels, half the width of the seam, all of it inside the face

    def __post_init__(self) -> None:
        share(above_zero=True, bottleneck=self.bottleneck)
        share(expression=self.expression, colour_match=self.colour_match)
        at_least_zero(jitter=self.jitter, feather=self.feather)


STRONG = DeepfakesStrength()


def deepfakes(target: Rendered, pose: Pose, source: Scene, *, light,
              strength: DeepfakesStrength = STRONG,
              rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put the source's face, in the target's `pose` and `light`, into the target's camera picture.

    `source` is the source's scene. Returns the picture, uint8 (h, w, 3), and the mask, float32 (h,
    w): the weight of the new face, exactly 0 where the target is untouched.
    """
    dampened = {
        name: strength.expression * getattr(pose, name)
        for name in ("mouth", "smile", "blink")
    }
    drawn = source.under(light).frame(replace(pose, **dampened), noise=False)
    matrix = _similarity(drawn.landmarks, target.landmarks)
    matrix[:, 2] += rng.normal(0, strength.jitter, 2)
    size = target.image.shape[1::-1]
    face = cv2.warpAffine(coarse(drawn.image,
                                 strength.bottleneck), matrix, size, flags=cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    mask = _inner(
        _hull(target.landmarks, size)
        & _hull(cv2.transform(drawn.landmarks[None], matrix)[0], size), strength.feather)
    return blend(target.image, recolour(face, target.image, mask > 0, strength.colour_match),
                 mask), mask


def _similarity(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """Return the similarity (2, 3) that maps points (n, 2) to others (Umeyama, 1991)."""
    a, b = these.astype(float) - these.mean(0), those.astype(float) - those.mean(0)
    turn = complex(*(np.einsum("ij,ij->", a, b),
                     (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum())) / (a**2).sum()
    rotation = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.c_[rotation, those.mean(0) - rotation @ these.mean(0)]


def _hull(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the convex hull of points (n, 2), (h, w) bool."""
    corners = cv2.convexHull(np.rint(landmarks).astype(np.int32))
    return cv2.fillConvexPoly(np.zeros(size[::-1], np.uint8), corners, 1).astype(bool)


def _inner(region: np.ndarray, feather: float) -> np.ndarray:
    """Return a smooth mask of a region (h, w) bool: 0 at its edge, 1 from 2 `feather` inside."""
    depth = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    t = np.clip(depth / max(2 * feather, 1), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
