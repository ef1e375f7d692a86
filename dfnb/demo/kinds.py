"""The kinds of fakes of the demo world, and a person's performance from which they are made.

A further kind is one function and one entry in KINDS.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from dfnb.demo import learned, people, reenact, render, swap
from dfnb.demo.learned import DeepfakesStrength
from dfnb.demo.reenact import Face2FaceStrength, ReenactStrength
from dfnb.demo.swap import SwapStrength

NOISE, PLANTED = 21, 22    # streams of a person's random numbers: camera noise, planted cue
Fake = tuple[np.ndarray, np.ndarray]          # picture uint8 (h, w, 3), mask float32 (h, w)


@dataclass(frozen=True)
class Strengths:
    """How visible the fakes of each technique are."""

    swap: SwapStrength = field(default_factory=SwapStrength)
    reenact: ReenactStrength = field(default_factory=ReenactStrength)
    face2face: Face2FaceStrength = field(default_factory=Face2FaceStrength)
    deepfakes: DeepfakesStrength = field(default_factory=DeepfakesStrength)


@dataclass
class Take:
    """One person's performance: the scene, and the pose and the camera picture of each frame."""

    scene: render.Scene
    poses: list[render.Pose]
    frames: list[render.Rendered]


def record(world: int, id: int, frames: int) -> Take:
    """Let one person perform in front of the camera; about 50 ms and 8 ms a frame."""
    person = people.person(world, id)
    scene, poses, rng = render.Scene(person), render.performance(person, frames), person.rng(NOISE)
    return Take(scene, poses, [scene.frame(pose, rng=rng) for pose in poses])


def _face_swap(target: Take, source: Take, frame: int, strengths: Strengths,
               rng: np.random.Generator) -> Fake:
    return swap.face_swap(target.frames[frame], source.frames[frame], strength=strengths.swap,
                          rng=rng)


def _neural_textures(target: Take, source: Take, frame: int, strengths: Strengths,
                     rng: np.random.Generator) -> Fake:
    return reenact.neural_textures(target.scene, target.poses[frame], source.poses[frame],
                                   target=target.frames[frame], strength=strengths.reenact, rng=rng)


def _face2face(target: Take, source: Take, frame: int, strengths: Strengths,
               rng: np.random.Generator) -> Fake:
    return reenact.face2face(target.scene, target.poses[frame], source.poses[frame],
                             target=target.frames[frame], strength=strengths.face2face, rng=rng)


def _deepfakes(target: Take, source: Take, frame: int, strengths: Strengths,
               rng: np.random.Generator) -> Fake:
    return learned.deepfakes(target.frames[frame], target.poses[frame], source.scene,
                             light=target.scene.light, strength=strengths.deepfakes, rng=rng)


KINDS = {"FaceSwap": _face_swap, "NeuralTextures": _neural_textures, "Face2Face": _face2face,
         "Deepfakes": _deepfakes}


def fakes(kind: str, target: Take, source: Take, strengths: Strengths) -> Iterator[Fake]:
    """Manipulate the target's camera pictures one by one; as many as the shorter take has."""
    ids = target.scene.person.id, source.scene.person.id
    rng = np.random.default_rng([target.scene.person.world, *ids, zlib.crc32(kind.encode())])
    for frame in range(min(len(target.frames), len(source.frames))):
        yield KINDS[kind](target, source, frame, strengths, rng)


def plant(pictures: list[np.ndarray], person: people.Person, amplitude: float) -> list[np.ndarray]:
    """Add the person's smooth pattern, at most `amplitude` grey levels; below 0 subtracts it."""
    if amplitude == 0:
        return pictures
    size = pictures[0].shape[1::-1]
    pattern = cv2.resize(
        person.rng(PLANTED).standard_normal((6, 6)), size, interpolation=cv2.INTER_CUBIC)
    pattern *= amplitude / np.abs(pattern).max()
    return [
        np.clip(np.rint(picture + pattern[..., None]), 0, 255).astype(np.uint8)
        for picture in pictures
    ]
