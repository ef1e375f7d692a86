"""Reenactments: the target's face rendered again with the source's expression.

NeuralTextures changes the lower face only; what betrays the original method is kept: the new part
comes out of a narrow bottleneck, a little off in colour and without camera noise, and is pasted
with a soft mask (Thies et al., 2019; Roessler et al., 2019). Face2Face changes the whole face: a
graphics model with a coarse texture, fitted to each frame, is drawn over it (Thies et al.,
2016).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from dfnb.demo.motion import Pose
from dfnb.demo.render import LANDMARKS, Rendered, Scene
from dfnb.demo.swap import at_least_zero, blend, coarse, feathered, share


@dataclass(frozen=True)
class ReenactStrength:
    """How visible a reenactment is. The bottleneck matters most."""

    bottleneck: float = 0.22  # share of the pixels along a side that survive; 1 loses nothing
    colour: float = 0.05  # largest relative error of a channel's brightness, drawn in each frame
    feather: float = 3.0      # pixels, half the width of the seam

    def __post_init__(self) -> None:
        share(above_zero=True, bottleneck=self.bottleneck)
        share(colour=self.colour)
        at_least_zero(feather=self.feather)


@dataclass(frozen=True)
class Face2FaceStrength:
    """How visible a Face2Face is. The texture matters most.

    It was chosen on worlds 311 and 312 (24 people, 6 frames each) among 0.3, 0.45 and 0.6, to be as
    visible as the first two kinds: a logistic regression on local sharpness energies, asked about
    people it has not met, finds it at an AUC of .86 and .85, FaceSwap at .80 and .78,
    NeuralTextures at .94 and .86 (0.45: .70 and .68).
    """

    texture: float = 0.3  # share of the pixels along a side that the texture keeps; 1 keeps all
    light: float = 0.08  # largest relative error of the light at the face's edge, in each frame
    misfit: float = 0.7     # pixels, standard deviation of the tracked face's shift in each frame
    feather: float = 1.5    # pixels, half the width of the seam; 0 is a hard edge, larger hides it

    def __post_init__(self) -> None:
        share(above_zero=True, texture=self.texture)
        share(light=self.light)
        at_least_zero(misfit=self.misfit, feather=self.feather)


STRONG = ReenactStrength()
STRONG_FACE = Face2FaceStrength()


def neural_textures(scene: Scene, pose: Pose, source_pose: Pose, *, target: Rendered,
                    strength: ReenactStrength = STRONG,
                    rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give the target's camera picture the mouth of the source's performance.

    `scene` and `pose` are those of `target`. Returns the picture, uint8 (h, w, 3), and the mask,
    float32 (h, w): the weight of the new part, exactly 0 above the nose's base and where the target
    is untouched.
    """
    fresh = scene.frame(replace(pose, mouth=source_pose.mouth, smile=source_pose.smile),
                        noise=False)
    error = 1 + strength.colour * rng.uniform(-1, 1, 3)
    patch = coarse(fresh.image, strength.bottleneck) * error.astype(np.float32)
    mask = feathered(_lower_face(target, fresh, pose.roll, margin=strength.feather),
                     strength.feather)
    return blend(target.image, patch, mask), mask


def face2face(scene: Scene, pose: Pose, source_pose: Pose, *, target: Rendered,
              strength: Face2FaceStrength = STRONG_FACE,
              rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give the target's camera picture mouth, smile and blinks of the source's performance.

    `scene` and `pose` are those of `target`, whose identity, gaze and scene stay. Returns picture
    and mask as `neural_textures` does; the mask covers the face from the brows to the chin.
    """
    x, y = rng.normal(0, strength.misfit, 2)
    shown = {name: getattr(source_pose, name) for name in ("mouth", "smile", "blink")}
    fresh = scene.frame(replace(pose, **shown, x=pose.x + x, y=pose.y + y), noise=False)
    face = coarse(fresh.image, strength.texture) * _light_error(fresh, strength.light, rng)
    mask = feathered(_face(target, fresh, strength.feather), strength.feather)
    return blend(target.image, face, mask), mask


def _light_error(face: Rendered, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Return a factor (h, w, 1) that rises across the face in a drawn direction, 1 half-way."""
    angle, size = rng.uniform(0, 2 * np.pi), largest * rng.uniform(-1, 1)
    middle, half = face.landmarks.mean(0), np.ptp(face.landmarks, axis=0).max() / 2
    rows, columns = np.mgrid[:face.image.shape[0], :face.image.shape[1]].astype(np.float32)
    along = ((columns - middle[0]) * np.cos(angle) + (rows - middle[1]) * np.sin(angle)) / half
    return (1 + size * np.clip(along, -1, 1)).astype(np.float32)[..., None]


def _lower_face(before: Rendered, after: Rendered, roll: float, margin: float) -> np.ndarray:
    """Return the face below the nose in either picture, (h, w) bool.

    The half-plane below the nose, turned by `roll` degrees, keeps the upper face out.
    """
    down = np.array([-np.sin(np.radians(roll)), np.cos(np.radians(roll))])
    height, width = before.image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    below_nose = columns * down[0] + rows * down[1] > (
        before.landmarks[LANDMARKS["nose"]] @ down).max() + 1
    return _face(before, after, margin) & below_nose


def _face(before: Rendered, after: Rendered, margin: float) -> np.ndarray:
    """Return the face in either picture, from the brows down, (h, w) bool.

    The hull grows by `margin` pixels, so that a chin that has moved leaves no edge behind.
    """
    points = np.concatenate([before.landmarks, after.landmarks])
    hull = cv2.fillConvexPoly(np.zeros(before.image.shape[:2], np.uint8),
                              cv2.convexHull(np.rint(points).astype(np.int32)), 1)
    size = 2 * round(margin) + 1
    return cv2.dilate(hull, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))).astype(bool)
