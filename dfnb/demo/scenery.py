"""What surrounds a face: light, background, neck, shoulders and clothes of one video."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dfnb.demo.grid import X, Y, blur, bump, noise, over, pair, step
from dfnb.demo.people import Person

SIZE = 256
CLOTHES = np.array(
    [
        [0.15, 0.17, 0.22],
        [0.75, 0.74, 0.72],
        [0.25, 0.33, 0.48],
        [0.48, 0.16, 0.17],
        [0.22, 0.34, 0.27],
        [0.62, 0.55, 0.44],
        [0.10, 0.10, 0.11],
        [0.55, 0.62, 0.70],
        [0.66, 0.40, 0.34],
        [0.36, 0.30, 0.42],
    ]
)
WALLS = np.array(
    [
        [0.78, 0.75, 0.69],
        [0.66, 0.70, 0.72],
        [0.60, 0.52, 0.44],
        [0.72, 0.66, 0.55],
        [0.42, 0.45, 0.48],
        [0.56, 0.62, 0.56],
        [0.80, 0.79, 0.78],
    ]
)


@dataclass(frozen=True)
class Light:
    """One main light and the light from everywhere else; linear colours."""

    direction: np.ndarray  # (3,) unit vector towards the light: right, down, to the viewer
    colour: np.ndarray  # (3,)
    ambient: np.ndarray  # (3,)


def light(person: Person) -> Light:
    """Return the light of a video: warmer and softer indoors, cooler shadows outdoors."""
    rng = person.rng(2)
    towards = np.array(
        [rng.choice([-1, 1]) * rng.uniform(0.15, 0.75),
         rng.uniform(-0.75, -0.2), 1.0])
    outdoors = person.place == "outdoors"
    warm = rng.uniform(-0.03, 0.07) if outdoors else rng.uniform(0.0, 0.14)
    tint = np.array([1 + warm, 1.0, 1 - 1.2 * warm])
    sky = np.array([0.94, 1.0, 1.09]) if outdoors else np.array([1.03, 1.0, 0.95])
    share = rng.uniform(0.24, 0.46)  # of the light that comes from everywhere
    power = rng.uniform(0.92, 1.15)
    return Light(
        *(
            value.astype(np.float32)
            for value in (
                towards / np.linalg.norm(towards),
                power * (1 - share) * 1.25 * tint,
                power * share * sky,
            )
        )
    )


def background(person: Person) -> np.ndarray:
    """Return a blurred room or a blurred landscape, (256, 256, 3) sRGB in [0, 1]."""
    rng = person.rng(3)
    picture = _outdoors(rng) if person.place == "outdoors" else _room(rng)
    picture *= 1 + 0.03 * noise(rng, 90, SIZE, SIZE)[..., None]
    return np.clip(blur(picture, rng.uniform(2.5, 5.5)), 0, 1)


def _room(rng: np.random.Generator) -> np.ndarray:
    wall = WALLS[rng.integers(len(WALLS))] * rng.uniform(0.75, 1.05)
    fall = 1 + np.linspace(rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), SIZE)[None, :, None]
    picture = np.ascontiguousarray(np.broadcast_to(wall * fall, (SIZE, SIZE, 3)), np.float32)
    for _ in range(rng.integers(1, 4)):  # pictures, shelves, doors
        x, y, width, height = (
            rng.integers(-30, 230),
            rng.integers(-40, 150),
            rng.integers(30, 90),
            rng.integers(30, 170),
        )
        colour = np.clip(wall * rng.uniform(0.35, 1.25) + rng.normal(0, 0.06, 3), 0, 1)
        cv2.rectangle(picture, (int(x), int(y)), (int(x + width), int(y + height)), colour.tolist(),
                      -1)
        if rng.random() < 0.6:
            _books(picture, rng, int(x), int(y), int(width), int(height))
    if rng.random() < 0.4:  # a window or a lamp
        x = int(rng.choice([-20, 190]))
        cv2.rectangle(picture, (x, 10), (x + 70, 150), (0.93, 0.95, 0.97), -1)
        cv2.line(picture, (x + 35, 10), (x + 35, 150), (0.7, 0.7, 0.68), 4)
    return picture


def _books(picture: np.ndarray, rng: np.random.Generator, x: int, y: int, width: int,
           height: int) -> None:
    for top in range(y + 4, y + height - 20, 34):
        for left in range(x + 4, x + width - 6, 8):
            colour = rng.uniform(0.15, 0.65) + rng.uniform(-0.1, 0.1, 3) * (1.2, 0.6, 1.0)
            cv2.rectangle(picture, (left, top + int(rng.integers(0, 10))), (left + 6, top + 30),
                          colour.tolist(), -1)


def _outdoors(rng: np.random.Generator) -> np.ndarray:
    rows = np.linspace(0, 1, SIZE)[:, None, None]
    sky = np.array([0.62, 0.76, 0.92]) * rng.uniform(0.85, 1.05) + rng.uniform(-0.06, 0.08, 3)
    horizon = rng.uniform(0.25, 0.75)
    leaves = np.array([[0.20, 0.33, 0.12], [0.30, 0.42, 0.18], [0.42, 0.45, 0.22]])[rng.integers(3)]
    ground = leaves * rng.uniform(0.8, 1.2) if rng.random() < 0.6 else np.array([0.52, 0.50, 0.47])
    picture = np.ascontiguousarray(np.broadcast_to(sky + 0.15 * rows, (SIZE, SIZE, 3)), np.float32)
    edge = rows[..., 0] - horizon + 0.06 * noise(rng, 40, SIZE, SIZE) + 0.03 * noise(
        rng, 14, SIZE, SIZE)
    over(picture, leaves, step(edge, -0.01, 0.02))
    over(picture, ground, step(rows[..., 0] - horizon - 0.3 + 0 * edge, 0, 0.05))
    leafy = (
        step(edge, -0.01, 0.02)[..., None]
        * (0.3 * noise(rng, 9, SIZE, SIZE) + 0.2 * noise(rng, 26, SIZE, SIZE))[..., None]
    )
    picture *= 1 + leafy
    for _ in range(int(rng.integers(0, 3))):  # houses
        x, top = int(rng.integers(-20, 220)), int(SIZE * (horizon - rng.uniform(0.0, 0.25)))
        colour = np.array([0.66, 0.58, 0.50]) * rng.uniform(0.6, 1.2)
        cv2.rectangle(picture, (x, top), (x + int(rng.integers(30, 90)), 200), colour.tolist(), -1)
    for _ in range(int(rng.integers(0, 14))):  # bright spots between the leaves
        centre, radius = rng.integers(0, SIZE, 2), int(rng.integers(2, 7))
        cv2.circle(picture, [int(c) for c in centre], radius, (0.9, 0.93, 0.82), -1)
    return picture


def torso(person: Person, lamp: Light) -> np.ndarray:
    """Return neck, shoulders and clothes in canonical coordinates, (N, N, 4) sRGB and alpha."""
    shape, rng = person.shape, person.rng(4)
    man = person.gender == "man"
    half = shape.neck * (1 + 0.05 * step(Y, 1.2, 1.9)) + 0.55 * np.clip(Y - 1.68, 0, 1) ** 1.6
    body = step(half - np.abs(X), -0.012, 0.02) * (Y > 0.7)  # the head hides its upper end
    shoulder = 1.93 + (0.30 if man else 0.38) * np.clip(np.abs(X) - shape.neck, 0,
                                                        3)**0.85 - 0.05 * man
    turn = np.clip(X / (half + 0.05), -0.97, 0.97)
    toward = lamp.direction[0] * turn + lamp.direction[2] * np.sqrt(
        1 - turn**2) - 0.1 * lamp.direction[1]
    sinew = 1 + 0.10 * np.exp(-(((np.abs(X) - 0.30 + 0.35 *
                                  (Y - 1.6)) / 0.07)**2)) * step(Y, 1.6, 1.95)
    sinew = sinew - 0.16 * bump(0, 2.12, 0.1, 0.07) + 0.03 * noise(rng, 20)
    under_chin = 0.42 + 0.58 * step(
        Y - 0.25 * X**2 + 0.08 * lamp.direction[0] * X, shape.chin + 0.02, shape.chin + 0.40
    )
    skin = np.array(person.skin, np.float32) ** 2 * (0.95, 0.92, 0.90)
    picture = skin * _lit(lamp, toward * under_chin, under_chin * sinew)
    cloth, collar = _clothes(person, rng, shoulder)
    folds = 1 + 0.10 * noise(rng, 34) + 0.05 * noise(rng, 12) - 0.25 * collar
    slant = np.clip(
        lamp.direction[2] * 0.8 + lamp.direction[0] * X * 0.35 - lamp.direction[1] * 0.3, 0.1, 1.2
    )
    colour = (CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.8, 1.15)) ** 2
    weave = 1 + 0.05 * noise(rng, 1.3)
    shadow = 1 - 0.4 * blur(body * (1 - cloth), 5) * step(Y + 0 * X, 1.6, 2.0)
    picture += (colour * _lit(lamp, slant, folds * weave * shadow) - picture) * cloth[..., None]
    rgb = np.sqrt(np.clip(picture, 0, 1))
    return np.dstack([rgb, np.maximum(body, cloth)]).astype(np.float32)


def _lit(lamp: Light, toward: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return (lamp.ambient + lamp.colour * np.clip(toward, 0, 1)[..., None]) * factor[..., None]


def _clothes(person: Person, rng: np.random.Generator,
             shoulder: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where cloth is, and the darker edge of its neckline; both (N, N)."""
    wide, deep = person.shape.neck + rng.uniform(0.05, 0.14), rng.uniform(0.16, 0.5)
    pointed = rng.uniform(1.2, 2.2)  # a V-neck .. a round neck
    hole = 1 - (np.abs(X) / wide) ** pointed - np.clip((Y - 1.88) / deep, 0, 9) ** 2
    cloth = step(Y - shoulder, -0.01, 0.025) * (1 - step(hole, -0.03, 0.04))
    rim = np.exp(-((hole + 0.18) ** 2) / 0.004) * cloth
    return cloth.astype(np.float32), (rim + 0.3 * pair(0.6, 2.5, 0.1, 0.3)).astype(np.float32)
