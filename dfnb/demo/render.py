"""Frames of a person: shading, expression, turning the head, landmarks, camera."""

from __future__ import annotations

import copy
import zlib
from dataclasses import astuple, dataclass

import cv2
import numpy as np

from dfnb.demo import face as faces
from dfnb.demo import features, hair, scenery
from dfnb.demo.grid import ORIGIN_X, ORIGIN_Y, UNIT, N, blur, layer, over, sample
from dfnb.demo.motion import Pose, expression, gaze, performance
from dfnb.demo.people import Person

__all__ = ["LANDMARKS", "SIZE", "Pose", "Rendered", "Scene", "expression", "gaze", "performance"]

SIZE = scenery.SIZE
LANDMARKS = features.LANDMARKS
CENTRE_X, CENTRE_Y = 128.0, 108.0  # of the point between the eyes at rest
PIVOT_Y, PIVOT_Z = 1.3, 0.1  # the head turns around the top of the neck


@dataclass
class Rendered:
    """One frame and what is known about it."""

    image: np.ndarray  # (256, 256, 3) uint8 RGB
    landmarks: np.ndarray  # (L, 2) float32, x and y in pixels
    face_mask: np.ndarray  # (256, 256) float32 in [0, 1]: the skin of the face


class Scene:
    """A person in a place with a light, ready to be rendered in any pose."""

    def __init__(self, person: Person):
        self.person, self.light = person, scenery.light(person)
        self._head = faces.build(person)
        self._gx, self._gy = faces.slopes(self._head)
        self._smile = faces.slope(self._head.smile)
        self._hair, lift, self._back = hair.layers(person, self.light)
        self._hair_face = np.ascontiguousarray(self._hair[_FACE][..., :3]), self._hair[_FACE][...,
                                                                                              3]
        self._paint_hair_of_the_face()
        self._colour = [
            np.ascontiguousarray(plane) for plane in np.moveaxis(self._head.colour[_FACE], 2, 0)
        ]
        self._head.parallax += lift
        self._head.skin *= 1 - self._hair[..., 3]
        shade = 1 - 0.45 * blur(np.roll(self._hair[..., 3], 4, 0), 4)
        self._head.occlusion *= shade
        self._background = scenery.background(person).astype(np.float32)
        self._torso = scenery.torso(person, self.light)
        self._points = features.landmark_points(person.shape, self._head.outline)
        rest = features.move_landmarks(person, self._points, Pose())
        self._heights = sample(self._head.parallax, rest[:, 0], rest[:, 1])
        self._glasses = features.glasses(person)
        self._noise = person.rng(12).uniform(0.005, 0.013)
        self._grain = person.rng(9).standard_normal((SIZE + 64, SIZE + 64, 3), dtype=np.float32)

    def _paint_hair_of_the_face(self) -> None:
        colour = np.array(self.person.hair) ** 2
        dark = colour * (0.55 if self.person.hair_colour in ("blond", "grey") else 0.8)
        over(self._head.colour, dark, hair.brows(self.person))
        over(self._head.colour, dark if self.person.beard else dark * 0.5 + 0.03,
             hair.beard(self.person))
        self._head.shine *= 1 - 0.8 * hair.beard(self.person)

    def under(self, light: scenery.Light) -> Scene:
        """Return the same face in another light; hair, neck and place keep theirs."""
        scene = copy.copy(self)
        scene.light = light
        return scene

    def frame(self, pose: Pose, rng: np.random.Generator | None = None,
              noise: bool = True) -> Rendered:
        """Render one pose; camera noise comes from `rng`, without one from the pose alone."""
        at = self._where(pose)
        change, inside = features.expression(self.person, pose)
        moved = at + cv2.remap(change, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        head = cv2.remap(self._lit(pose), moved, None, cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_REPLICATE)
        mouth = cv2.remap(inside, at, None, cv2.INTER_LINEAR)
        skin = cv2.remap(self._head.skin, moved, None, cv2.INTER_LINEAR)
        picture = self._behind(pose)
        layer(picture, head)
        points = np.c_[features.move_landmarks(self.person, self._points, pose), self._heights]
        points = self._project(points, pose)
        rows = slice(*np.clip(points[[49, 57], 1] + [-30, 30], 0, SIZE).astype(int))
        layer(picture[rows], mouth[rows])
        return Rendered(self._camera(picture, pose, rng, noise), points, skin)

    def _rotation(self, pose: Pose) -> np.ndarray:
        yaw, pitch, roll = np.radians([pose.yaw, pose.pitch, pose.roll])
        around_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0],
                             [-np.sin(yaw), 0, np.cos(yaw)]])
        around_x = np.array(
            [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
        )
        around_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll),
                                                                np.cos(roll), 0], [0, 0, 1]])
        return around_z @ around_x @ around_y

    def _place(self, pose: Pose) -> np.ndarray:
        """Return the pixel on which the pivot of the head lies, (2,)."""
        shape = self.person.shape
        return np.array([
            CENTRE_X + shape.offset_x + pose.x,
            CENTRE_Y + shape.offset_y + pose.y + PIVOT_Y * shape.scale
        ])

    def _project(self, points: np.ndarray, pose: Pose) -> np.ndarray:
        """Return canonical points (L, 3) to pixels (L, 2)."""
        turned = (points - [0, PIVOT_Y, PIVOT_Z]) @ self._rotation(pose).T
        return (turned[:, :2] * self.person.shape.scale + self._place(pose)).astype(np.float32)

    def _where(self, pose: Pose) -> np.ndarray:
        """Return the canonical pixel that each pixel of the frame shows, (256, 256, 2) float32.

        The head is a height field: the place depends on the depth there, hence a fixed-point
        iteration.
        """
        turn, scale = self._rotation(pose), self.person.shape.scale
        back = np.linalg.inv(turn[:2, :2])
        offset = np.array([ORIGIN_X, ORIGIN_Y + PIVOT_Y * UNIT])
        to_canonical = back * (UNIT / scale)
        matrix = np.c_[to_canonical, offset - to_canonical @ self._place(pose)]
        flat = cv2.transform(_FRAME, matrix.astype(np.float32))
        shift = (-(back @ turn[:2, 2]) * UNIT).astype(np.float32)
        at = flat
        for _ in range(3):
            depth = cv2.remap(
                self._head.parallax, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            at = flat + cv2.merge(((depth - PIVOT_Z) * shift[0], (depth - PIVOT_Z) * shift[1]))
        return at

    def _lit(self, pose: Pose) -> np.ndarray:
        """Return the lit head in its pose, with eyes and hair, (N, N, 4) sRGB and alpha."""
        head, box = self._head, _FACE
        picture = self._hair.copy()
        light = (self._rotation(pose).T @ self.light.direction).astype(np.float32)
        smile = max(0.0, pose.smile)
        gx, gy = self._gx[box] + smile * self._smile[0][box], self._gy[
            box] + smile * self._smile[1][box]
        rgb = _skin_light(gx, gy, self._colour, head.shine[box], head.occlusion[box], light,
                          self.light)
        features.paint_eyes(rgb, self.person, pose, self.light, box)
        if self._glasses is not None:
            over(rgb, self._glasses[box][..., :3], self._glasses[box][..., 3])
        picture[box][..., :3] = over(rgb, self._hair_face[0], self._hair_face[1])
        picture[..., 3] = np.maximum(head.alpha, self._hair[..., 3])
        return picture

    def _behind(self, pose: Pose) -> np.ndarray:
        """Return background, hair behind the neck, neck and shoulders, (256, 256, 3)."""
        picture, scale = self._background.copy(), self.person.shape.scale / UNIT
        x, y = self._place(pose) - [pose.x, pose.y]
        for part, follow, top in ((self._back, 0.9, 0), (self._torso, 0.35, 120)):
            if part is None:
                continue
            matrix = np.array(
                [
                    [scale, 0, x + follow * pose.x - scale * ORIGIN_X],
                    [0, scale, y + follow * pose.y - scale * (ORIGIN_Y + PIVOT_Y * UNIT)],
                ]
            )
            seen = cv2.warpAffine(part, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
            layer(picture[top:], seen[top:])
        return picture

    def _camera(
        self, picture: np.ndarray, pose: Pose, rng: np.random.Generator | None, noise: bool
    ) -> np.ndarray:
        """Return grain of the sensor and rounding to bytes."""
        if noise:
            rng = rng or np.random.default_rng(zlib.crc32(np.array(astuple(pose)).tobytes()))
            x, y = rng.integers(0, 64, 2)
            picture = picture + self._noise * self._grain[y : y + SIZE, x : x + SIZE]
        return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


_FRAME = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(np.float32)
_FACE = (
    slice(ORIGIN_Y - int(1.55 * UNIT), min(N, ORIGIN_Y + int(1.75 * UNIT))),
    slice(ORIGIN_X - int(1.3 * UNIT), ORIGIN_X + int(1.3 * UNIT)),
)
_WRAP = (0.42, 0.26, 0.18)  # red light travels further under the skin


def _skin_light(
    gx: np.ndarray,
    gy: np.ndarray,
    colour: np.ndarray,
    shine: np.ndarray,
    occlusion: np.ndarray,
    light: np.ndarray,
    lamp: scenery.Light,
) -> np.ndarray:
    """Shade by Lambert with a soft reddish edge, ambient light and Blinn-Phong; sRGB (h, w, 3)."""
    norm = 1 / np.sqrt(1 + gx * gx + gy * gy)
    toward = (light[2] - gx * light[0] - gy * light[1]) * norm
    half = light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    gloss = np.clip((half[2] - gx * half[0] - gy * half[1]) * norm, 0, 1)
    gloss *= gloss
    gloss *= gloss
    gloss = 0.05 * shine * (gloss * gloss) ** 2 * occlusion  # to the power of 16
    sky = occlusion * (0.85 + 0.25 * gy * norm)
    planes = []
    for c, wrap in enumerate(_WRAP):
        direct = np.maximum((toward + wrap) / (1 + wrap), 0) * (0.5 + 0.5 * occlusion)
        planes.append(colour[c] * (lamp.ambient[c] * sky + lamp.colour[c] * direct) +
                      lamp.colour[c] * gloss)
    return cv2.merge([np.sqrt(np.minimum(plane, 1)) for plane in planes])
