"""What moves in a face: eyes, mouth, glasses on it, and the 68 landmarks."""

from __future__ import annotations

import numpy as np

from dfnb.demo.face import lip_edges, seam
from dfnb.demo.grid import ORIGIN_X, ORIGIN_Y, UNIT, N, X, Y, over, sample, step
from dfnb.demo.motion import Pose
from dfnb.demo.people import Person, Shape
from dfnb.demo.scenery import Light

LANDMARKS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}
_JAW = (
    slice(ORIGIN_Y + int(0.3 * UNIT), N),
    slice(ORIGIN_X - 80, ORIGIN_X + 80),
)  # 0.3 below the eyes and all that hangs on the jaw


def _opening(shape: Shape, pose: Pose) -> tuple[float, float]:
    """Return how far the upper and the lower lip move apart at the middle of the mouth."""
    grin = max(0.0, pose.smile) ** 2 * (0.05 + 0.6 * (shape.mouth_width - 0.31))
    return 0.035 * pose.mouth + 0.3 * grin, 0.22 * pose.mouth + 0.7 * grin


def _stretch(shape: Shape, pose: Pose, x: np.ndarray,
             y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undo a smile: where in the neutral face a point of the smiling face comes from."""
    near = np.exp(-0.5 * ((y - shape.mouth_y + 0.05) / 0.24) ** 2)
    corner = np.clip(np.abs(x) / shape.mouth_width, 0, 1.6) ** 2 * np.exp(-0.5 * (x / 0.42) ** 4)
    return x * (
        1 - 0.20 * pose.smile * near * np.exp(-0.5 * (x / 0.5) ** 4)
    ), y + 0.085 * pose.smile * corner * near


def _drop(shape: Shape, lower: float, x: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return how far skin `below` the lower lip's edge moves down with the jaw."""
    lip = np.sqrt(np.clip(1 - (x / shape.mouth_width) ** 2, 0, 1))
    jaw = 0.72 * np.exp(-0.5 * (x / 0.55) ** 2)
    share = np.exp(-np.clip(below, 0, 9) / 0.3)
    return lower * (lip * share + jaw * (1 - share))


def expression(person: Person, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return the backward displacement in pixels (N, N, 2) and the inside of the mouth (N, N, 4).

    The inside is sRGB and alpha.
    """
    shape = person.shape
    up, down = _opening(shape, pose)
    gx, gy = X[:, _JAW[1]], Y[_JAW[0]]
    x, y = _stretch(shape, pose, gx, gy)
    lip = np.sqrt(np.clip(1 - (x / shape.mouth_width) ** 2, 0, 1))
    line = shape.mouth_y + seam(shape, x / shape.mouth_width)
    top, bottom = line - up * lip, line + down * lip
    raised = up * lip * np.exp(-np.clip(top - y, 0, 9) / 0.12)
    source = np.where(y < top, y + raised, y - _drop(shape, down, x, y - bottom))
    source = np.where((y >= top) & (y < bottom), line, source)
    change = np.zeros((N, N, 2), np.float32)
    change[_JAW] = np.dstack([x - gx, source - gy]) * UNIT
    inside = np.zeros((N, N, 4), np.float32)
    near = slice(int((shape.mouth_y - 0.5) * UNIT), int(
        (shape.mouth_y + 0.2) * UNIT)), slice(40, 120)
    inside[_JAW][near] = _mouth_inside(shape, *(part[near] for part in (x, y, top, bottom)))
    return change, inside


def _mouth_inside(
    shape: Shape, x: np.ndarray, y: np.ndarray, top: np.ndarray, bottom: np.ndarray
) -> np.ndarray:
    edge = 0.012
    alpha = step(y - top, -edge, edge) * step(bottom - y, -edge, edge) * step(
        bottom - top, 0.012, 0.04)
    picture = np.empty((*x.shape, 3), np.float32)
    picture[:] = (0.20, 0.07, 0.07)
    over(
        picture,
        (0.55, 0.27, 0.27),
        step(y - bottom, -0.11, -0.03) * step(0.7 * shape.mouth_width - np.abs(x), 0, 0.1),
    )
    side = np.clip(1 - (x / (0.95 * shape.mouth_width)) ** 2, 0, 1)
    gaps = 0.93 + 0.07 * np.cos(x * 2 * np.pi / 0.085) ** 2
    teeth = step(top + 0.095 - y, 0, 0.03) * step(side, 0.05, 0.3)
    over(picture, np.dstack([gaps * (0.35 + 0.5 * side)] * 3) * (1.0, 0.96, 0.90), teeth)
    picture *= (0.55 + 0.45 * step(y - top, 0.0, 0.05))[..., None]
    return np.dstack([picture, alpha])


def _lids(shape: Shape, blink: float, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of both lids at t in [-1, 1] (-1 at the nose), from the eye's middle."""
    tilt = -shape.eye_tilt * t
    upper = -shape.eye_open * np.clip(1 - np.abs(t + 0.08) ** 2.3, 0, 1) ** 0.85
    lower = 0.62 * shape.eye_open * np.clip(1 - np.abs(t - 0.1) ** 2.2, 0, 1)
    return upper * (1 - blink) + 0.8 * lower * blink + tilt, lower + tilt


def paint_eyes(rgb: np.ndarray, person: Person, pose: Pose, lamp: Light, box: tuple[slice,
                                                                                    slice]) -> None:
    """Paint both eyes into the lit face (the part `box` of the canonical picture), in place."""
    shape = person.shape
    squint = min(1.0, pose.blink + 0.14 * max(0.0, pose.smile))
    for side in (-1, 1):
        x0, y0 = int(ORIGIN_X + (side * shape.eye_x - 0.34) * UNIT), ORIGIN_Y - int(0.26 * UNIT)
        rows, columns = slice(y0, y0 + int(0.5 * UNIT)), slice(x0, x0 + int(0.68 * UNIT))
        part = rgb[
            rows.start - box[0].start : rows.stop - box[0].start,
            columns.start - box[1].start : columns.stop - box[1].start,
        ]
        _paint_eye(part, person, pose, lamp, side, X[:, columns] - side * shape.eye_x, Y[rows],
                   squint)


def _paint_eye(
    part: np.ndarray,
    person: Person,
    pose: Pose,
    lamp: Light,
    side: int,
    x: np.ndarray,
    y: np.ndarray,
    blink: float,
) -> None:
    """Paint one eye; x (1, w) and y (h, 1) are relative to its middle."""
    shape, skin = person.shape, np.array(person.skin)
    t = side * x / shape.eye_width
    upper, lower = _lids(shape, blink, np.clip(t, -1, 1))
    bright = np.sqrt(lamp.ambient + 0.75 * lamp.colour)
    inside = step(1 - np.abs(t), 0, 0.08)
    seen = step(y - upper, -0.012, 0.012) * step(lower - y, -0.012, 0.012) * inside
    fold = y - upper * (1 - 0.2 * blink) + 0.055 - 0.02 * blink
    crease = np.exp(-0.5 * (fold / 0.013) ** 2) * step(1.15 - np.abs(t), 0, 0.4)
    over(part, skin * 0.45 * bright, 0.42 * crease)
    over(part, _eyeball(person, pose, lamp, x, y, t, y - upper), seen)
    lash = (0.017 if person.gender == "man" else 0.024) * (1 + 0.5 * step(t, 0.2, 1))
    line = np.exp(-0.5 * ((y - upper + 0.004) / lash) ** 2) * step(1.12 - np.abs(t), 0, 0.2)
    over(part, skin * 0.12 + 0.02, np.clip(line * (0.75 + 0.25 * shape.makeup), 0, 0.95))
    over(part, skin * 0.4, 0.4 * np.exp(-0.5 * ((y - lower - 0.006) / 0.012) ** 2) * inside)


def _eyeball(
    person: Person,
    pose: Pose,
    lamp: Light,
    x: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    below_lid: np.ndarray,
) -> np.ndarray:
    """Return white, iris, pupil, the lid's shadow and the light's reflection, (h, w, 3) sRGB."""
    bright = np.sqrt(lamp.ambient + 0.75 * lamp.colour)
    ball = np.empty((*np.broadcast_shapes(x.shape, y.shape), 3), np.float32)
    ball[:] = np.array([0.84, 0.80, 0.78]) * bright
    over(ball, np.array([0.62, 0.42, 0.40]) * bright, 0.6 * step(np.abs(t) + 0 * y, 0.6, 1.0))
    gaze_x, iris = 0.085 * pose.gaze_x, np.array(person.iris) * bright
    away = np.hypot(x - gaze_x, y + 0.012 - 0.03 * pose.gaze_y)
    over(ball, iris * 0.45, step(0.098 - away, 0, 0.018))
    glow = 1.0 + 0.25 * np.clip((y + 0.02) / 0.08, -1, 1)
    over(ball, iris * glow[..., None], step(0.083 - away, 0, 0.02))
    over(ball, (0.04, 0.035, 0.035), step(0.042 - away, 0, 0.018))
    ball *= (0.62 + 0.38 * step(below_lid, 0.0, 0.07))[..., None]
    glint = np.hypot(x - gaze_x - 0.035 * lamp.direction[0] / 0.6, y + 0.045)
    return over(ball, (1, 1, 1), 0.85 * step(0.026 - glint, 0, 0.016))


def glasses(person: Person) -> np.ndarray | None:
    """Return frame and a hint of reflection, (N, N, 4) sRGB and alpha; None without glasses."""
    if not person.glasses:
        return None
    rng, shape = person.rng(10), person.shape
    wide, tall, power = rng.uniform(0.33, 0.37), rng.uniform(0.22, 0.30), rng.uniform(2.2, 4.5)
    thick = rng.uniform(0.022, 0.045)
    colour = [(0.06, 0.06, 0.07), (0.25, 0.14, 0.08), (0.45, 0.42, 0.40),
              (0.16, 0.06, 0.06)][rng.integers(4)]
    centre = max(shape.eye_x, wide + 0.075)
    ring = (np.abs((np.abs(X) - centre) / wide)**power + np.abs(
        (Y - 0.04) / tall)**power)**(1 / power)
    frame = step(thick - np.abs(ring - 1) * tall, -0.006, 0.012)
    bridge = step(0.03 - np.abs(Y + 0.04 + 0.02 * np.cos(X * 12)), -0.006, 0.012) * (
        np.abs(X) < centre - wide + 0.02
    )
    sides = (
        step(0.028 - np.abs(Y + 0.06), -0.006, 0.012)
        * (np.abs(X) > centre + wide)
        * (np.abs(X) < shape.skull_width)
    )
    alpha = np.maximum(np.maximum(frame, bridge), sides) * 0.95
    streak = 0.13 * step(1 - ring, 0, 0.1) * step(np.abs((
        (X - 0.5 * Y) * 2.2) % 1 - 0.5), 0.36, 0.44)
    picture = np.empty((N, N, 4), np.float32)
    picture[..., :3] = np.where((alpha > 0.2)[..., None], colour, 1.0)
    picture[..., :3] += (0.25 * np.exp(-0.5 * ((Y + tall - 0.02) / 0.03)**2) * (alpha > 0.2))[...,
                                                                                              None]
    picture[..., 3] = np.maximum(alpha, streak)
    return picture


def landmark_points(shape: Shape, outline: np.ndarray) -> np.ndarray:
    """Return the 68 points (68, 2) of a neutral face, canonical, in the order of iBUG 300-W."""
    angles = np.radians(np.linspace(185, -5, 17))
    reach = np.linspace(0.4, 1.5, 111)
    middle = 0.3
    rays = np.cos(angles)[:, None] * reach, middle + np.sin(angles)[:, None] * reach
    radius = reach[(sample(outline, *rays) > 0).sum(1) - 1]
    jaw = np.c_[np.cos(angles) * radius, middle + np.sin(angles) * radius]
    t = np.linspace(1, -1, 5)
    brow = np.c_[-(shape.eye_x - 0.02 + 0.30 * t),
                 shape.brow_y - shape.brow_arch * (1 - ((t - 0.25) / 1.1)**2)]
    brows = np.r_[brow, brow[::-1] * [-1, 1]]
    nose = np.c_[np.zeros(4), np.linspace(-0.05, shape.nose_y - 0.1, 4)]
    wings = np.c_[
        np.array([-0.2, -0.1, 0, 0.1, 0.2]) * shape.nose_width,
        shape.nose_y + np.array([0, 0.03, 0.05, 0.03, 0]),
    ]
    return np.r_[jaw, brows, nose, wings, np.zeros((32, 2))]


def move_landmarks(person: Person, points: np.ndarray, pose: Pose) -> np.ndarray:
    """Return points of the neutral face (68, 2) with the expression of a pose, (68, 2)."""
    shape, moved = person.shape, points.copy()
    up, down = _opening(shape, pose)
    moved[36:48] = _eye_points(shape, pose)
    moved[48:68] = _mouth_points(shape, pose, up, down)
    jaw = moved[:17]
    jaw[:, 1] += _drop(shape, down, jaw[:, 0], jaw[:, 1] - shape.mouth_y)
    return moved


def _eye_points(shape: Shape, pose: Pose) -> np.ndarray:
    t = np.array([1, 0.35, -0.35, -1, -0.35, 0.35])  # from the outer corner over the upper lid
    upper, lower = _lids(shape, min(1.0, pose.blink + 0.14 * max(0.0, pose.smile)), t)
    y = np.where([1, 1, 1, 1, 0, 0], upper, lower)
    left = np.c_[-(shape.eye_x + shape.eye_width * t), y]
    right = left[[3, 2, 1, 0, 5, 4]] * [-1, 1]
    return np.r_[left, right]


def _mouth_points(shape: Shape, pose: Pose, up: float, down: float) -> np.ndarray:
    t = np.array(
        [
            -1,
            -0.6,
            -0.25,
            0,
            0.25,
            0.6,
            1,
            0.6,
            0.25,
            0,
            -0.25,
            -0.6,
            -0.9,
            -0.35,
            0,
            0.35,
            0.9,
            0.35,
            0,
            -0.35,
        ]
    )
    upper, lower = lip_edges(shape, t)
    gap = np.sqrt(np.clip(1 - t * t, 0, 1))
    y = np.where(np.arange(20) < 7, -upper - up * gap, lower + down * gap)
    y[12:17], y[17:] = -up * gap[12:17], down * gap[17:]
    x, y = t * shape.mouth_width, y + shape.mouth_y + seam(shape, t)
    from_x, from_y = _stretch(shape, pose, x, y)
    return np.c_[2 * x - from_x, 2 * y - from_y]
