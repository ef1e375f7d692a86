"""A NeuralTextures-like reenactment: the target's own lower face, rendered anew with the source's expression.

What betrays the original method is kept: the new part comes out of a narrow bottleneck, a little off in
colour and without camera noise, and is pasted with a soft mask (Thies et al., 2019; Roessler et al., 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from dfnb.demo.render import LANDMARKS, Pose, Rendered, Scene
from dfnb.demo.swap import at_least_zero, blend, coarse, feathered, share


@dataclass(frozen=True)
class ReenactStrength:
    """How visible a reenactment is. The bottleneck is the dial that matters."""

    bottleneck: float = 0.22  # share of the pixels along a side that survive; 1 loses nothing
    colour: float = 0.05      # largest relative error of a channel's brightness, drawn anew in each frame
    feather: float = 3.0      # pixels, half the width of the seam

    def __post_init__(self) -> None:
        share(above_zero=True, bottleneck=self.bottleneck)
        share(colour=self.colour)
        at_least_zero(feather=self.feather)


STRONG = ReenactStrength()


def neural_textures(scene: Scene, pose: Pose, source_pose: Pose, *, target: Rendered,
                    strength: ReenactStrength = STRONG,
                    rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give the target's camera picture the mouth of the source's performance.

    `scene` and `pose` are those of `target`. Returns the picture, uint8 (h, w, 3), and the mask, float32
    (h, w): the weight of the new part, exactly 0 above the nose's base and where the target is untouched.
    """
    fresh = scene.frame(replace(pose, mouth=source_pose.mouth, smile=source_pose.smile), noise=False)
    error = 1 + strength.colour * rng.uniform(-1, 1, 3)
    patch = coarse(fresh.image, strength.bottleneck) * error.astype(np.float32)
    mask = feathered(_lower_face(target, fresh, pose.roll, margin=strength.feather), strength.feather)
    return blend(target.image, patch, mask), mask


def _lower_face(before: Rendered, after: Rendered, roll: float, margin: float) -> np.ndarray:
    """The face below the nose in either picture, (h, w) bool.

    The hull grows by `margin` pixels, so that a chin that has moved leaves no edge behind; the half-plane
    below the nose, turned by `roll` degrees, keeps the upper face out.
    """
    down = np.array([-np.sin(np.radians(roll)), np.cos(np.radians(roll))])
    height, width = before.image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    below_nose = columns * down[0] + rows * down[1] > (before.landmarks[LANDMARKS["nose"]] @ down).max() + 1
    points = np.concatenate([before.landmarks, after.landmarks])
    hull = cv2.fillConvexPoly(np.zeros((height, width), np.uint8),
                              cv2.convexHull(np.rint(points).astype(np.int32)), 1)
    size = 2 * round(margin) + 1
    grown = cv2.dilate(hull, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    return grown.astype(bool) & below_nose
