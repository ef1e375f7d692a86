"""The head of one person in the canonical picture: depth, outline, colours, moving parts."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dfnb.demo.grid import X, Y, blur, bump, noise, over, pair, slope, step
from dfnb.demo.people import Person, Shape


@dataclass
class Face:
    """Maps (N, N) of a head without hair; colours are linear light."""

    outline: np.ndarray  # above 0 inside the head, about 1 in its middle
    depth: np.ndarray  # the shape that light sees
    parallax: np.ndarray  # a flatter shape without steep edges, for turning the head
    smile: np.ndarray  # change of depth by a full smile
    colour: np.ndarray  # (N, N, 3) albedo
    shine: np.ndarray  # strength of the highlights
    occlusion: np.ndarray  # 1 open to the sky, below 1 in hollows
    alpha: np.ndarray  # head and ears
    skin: np.ndarray  # the face's skin: no ears, no hair (hair is taken off later)


def build(person: Person) -> Face:
    """Make the maps of one person's head."""
    shape, rng = person.shape, person.rng(1)
    outline = _outline(shape)
    inside = np.maximum(outline, 0)
    ears = _ears(shape)
    features = _features(person, rng)
    depth = (1.15 * np.sqrt(inside + 1e-4) + features * step(outline, 0.0, 0.25) + 0.12 * ears *
             (outline < 0.05))
    parallax = blur(1.05 * inside + 0.8 * features * step(outline, 0.05, 0.4), 1.5)
    alpha = step(outline, -0.015, 0.05)
    hollow = blur(depth, 6) - depth
    return Face(
        outline,
        depth,
        parallax,
        _smile(shape),
        _colour(person, rng, outline, ears),
        _shine(shape, rng),
        np.clip(1 - 2.2 * np.maximum(hollow, 0), 0.35, 1),
        np.maximum(alpha, ears),
        alpha * step(Y + 0 * X, shape.hairline - 0.05, shape.hairline + 0.05),
    )


def _outline(shape: Shape) -> np.ndarray:
    """Return a smooth union of skull and jaw, each a (super)ellipse."""
    skull = 1 - (X / shape.skull_width) ** 2 - ((Y + 0.35) / 1.1) ** 2
    jaw_middle = 0.48
    power = shape.jaw_square
    jaw = (
        1
        - (np.abs(X) / shape.jaw_width) ** power
        - (np.abs(Y - jaw_middle) / (shape.chin - jaw_middle)) ** power
    )
    return (np.logaddexp(6 * skull, 6 * jaw) / 6 - 0.04).astype(np.float32)


def _ears(shape: Shape) -> np.ndarray:
    across = (np.abs(X) - 0.985 * shape.skull_width) / 0.13 - 0.35 * (0.1 - Y)
    return step(1 - across**2 - ((Y - 0.12) / 0.30) ** 2, 0.0, 0.25)


def _features(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Return depth of everything that stands out from the smooth head."""
    shape, old = person.shape, person.age == "old"
    depth = -0.13 * pair(shape.eye_x, -0.03, 0.23, 0.15) + 0.07 * pair(shape.eye_x, 0.0, 0.17, 0.10)
    depth += shape.brow_ridge * pair(0.36, shape.brow_y + 0.03, 0.28, 0.07)
    depth += shape.cheek * pair(0.52, 0.42, 0.2, 0.2) + _nose(shape) + _lips(shape)
    depth += 0.10 * bump(0, shape.chin - 0.16, 0.19, 0.13) - 0.05 * bump(
        0, shape.mouth_y + 0.2, 0.25, 0.05)
    depth += -0.02 * bump(0, (shape.nose_y + shape.mouth_y) / 2, 0.035, 0.07)  # philtrum
    depth -= (0.012 + 0.045 * shape.wrinkles) * _fold(shape)
    depth -= (0.008 + 0.02 * shape.wrinkles) * pair(shape.eye_x - 0.02, 0.2, 0.16,
                                                    0.025)  # under the eyes
    if old:
        lines = np.sin(Y * 46 + 0.5 * noise(rng, 60)) * bump(0, -0.58, 0.38, 0.12)
        crows = pair(shape.eye_x + 0.31, 0.02, 0.07, 0.12) * np.sin(Y * 70)
        depth += shape.wrinkles * (0.006 * lines + 0.005 * crows)
    return depth.astype(np.float32)


def _nose(shape: Shape) -> np.ndarray:
    base, width = shape.nose_y, shape.nose_width
    rise = step(Y, -0.25,
                base - 0.08)**1.1 * (1 - step(Y + 0.5 * np.abs(X), base - 0.06, base + 0.09))
    ridge = np.exp(-0.5 * (X / ((0.082 + 0.042 * step(Y, 0.1, base)) * width)) ** 2)
    tip = 0.10 * bump(0, base - 0.09, 0.095 * width, 0.085) + 0.085 * pair(
        0.165 * width, base - 0.05, 0.052, 0.062
    )
    return shape.nose_depth * (0.27 * rise * ridge + tip)


def lip_edges(shape: Shape, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return heights of the upper and the lower lip at t = x / mouth_width in [-1, 1]."""
    bow = 1 - 0.28 * np.exp(-((t / 0.16) ** 2))
    room = np.clip(1 - np.abs(t), 0, 1)
    return (
        shape.lip_upper * np.clip(room * 1.9, 0, 1) ** 0.8 * (0.75 + 0.25 * room) * bow * 1.25,
        shape.lip_lower * np.clip(1 - t * t, 0, 1) ** 0.8,
    )


def seam(shape: Shape, t: np.ndarray) -> np.ndarray:
    """Return the height of the line between closed lips at t = x / mouth_width, from mouth_y."""
    return shape.mouth_bend * np.clip(t * t, 0, 1.2) + 0.012 * np.exp(-((t / 0.28) ** 2))


def _lip_mask(shape: Shape) -> np.ndarray:
    upper, lower = lip_edges(shape, X / shape.mouth_width)
    y = Y - shape.mouth_y - seam(shape, X / shape.mouth_width)
    return step(y + upper, -0.008, 0.03) * step(lower - y, -0.008, 0.035) * step(
        upper + lower, 0.005, 0.03)


def _lips(shape: Shape) -> np.ndarray:
    across = np.exp(-0.5 * (X / (0.75 * shape.mouth_width)) ** 4)
    line = shape.mouth_y + seam(shape, X / shape.mouth_width)
    upper = 0.07 * np.exp(-0.5 * ((Y - line + 0.6 * shape.lip_upper) / 0.05) ** 2)
    lower = 0.10 * np.exp(-0.5 * ((Y - line - 0.55 * shape.lip_lower) / 0.055) ** 2)
    return across * (upper + lower) + 0.08 * bump(0, shape.mouth_y, 0.36, 0.2)


def _fold(shape: Shape) -> np.ndarray:
    """Return the fold from the nose's wing to the corner of the mouth."""
    middle = 0.24 + 0.55 * (Y - shape.nose_y + 0.08) + 0 * X
    along = step(Y, shape.nose_y - 0.16, shape.nose_y) * (
        1 - step(Y, shape.mouth_y - 0.02, shape.mouth_y + 0.16)
    )
    return np.exp(-0.5 * ((np.abs(X) - middle) / 0.035) ** 2) * along


def _smile(shape: Shape) -> np.ndarray:
    change = 0.08 * pair(0.5, 0.42, 0.17, 0.14) - 0.05 * _fold(shape)
    dimple = pair(shape.mouth_width + 0.08, shape.mouth_y - 0.05, 0.05, 0.07)
    return (change - 0.03 * dimple).astype(np.float32)


def _colour(person: Person, rng: np.random.Generator, outline: np.ndarray,
            ears: np.ndarray) -> np.ndarray:
    """Return albedo of skin and lips in linear light (display values squared), (N, N, 3)."""
    colour = _complexion(person, rng, ears)
    _darken_hollows(colour, person, ears * (outline < 0.1))
    shape, skin = person.shape, np.array(person.skin, np.float32)
    if shape.freckles > 0.2:
        places = pair(0.4, 0.38, 0.22, 0.14) + bump(0, 0.35, 0.16, 0.14)
        spots = step(noise(rng, 2.6), 1.35, 1.9) * places
        over(colour, skin * (0.72, 0.56, 0.45), np.clip(0.55 * shape.freckles * spots, 0, 0.5))
    _paint_lips(colour, person, rng)
    return np.clip(colour, 0.01, 1) ** 2


def _complexion(person: Person, rng: np.random.Generator, ears: np.ndarray) -> np.ndarray:
    """Return skin with blotches, redder on cheeks, nose and ears."""
    shape = person.shape
    cheeks, nose = pair(0.52, 0.42, 0.2, 0.18), bump(0, shape.nose_y - 0.1, 0.14, 0.12)
    blotches = 0.5 * noise(rng, 24) + 0.3 * noise(rng, 7)
    red = shape.blush * (0.5 * cheeks + 0.6 * nose + 0.7 * ears) + 0.12 * blotches
    tone = 1 + 0.010 * blotches + 0.009 * noise(rng, 2.2)
    tint = 1 + red[..., None] * np.array([0.02, -0.085, -0.075], np.float32)
    return np.array(person.skin, np.float32) * tone[..., None] * tint


def _darken_hollows(colour: np.ndarray, person: Person, ears: np.ndarray) -> None:
    """Darken skin under the eyes, on lids, in ears and nostrils, beside the nose; in place."""
    shape, skin = person.shape, np.array(person.skin, np.float32)
    bags = pair(shape.eye_x - 0.03, 0.13, 0.17, 0.06) * (0.6 + shape.wrinkles)
    over(colour, skin * (0.74, 0.62, 0.62), 0.35 * bags)
    lids = pair(shape.eye_x, -0.1, 0.2, 0.05)
    over(colour, skin * (0.72, 0.60, 0.58),
         0.35 * lids + 0.25 * ears * pair(1.02, 0.12, 0.05, 0.16))
    nostrils = pair(0.1 * shape.nose_width, shape.nose_y + 0.035, 0.042, 0.022)
    wings = pair(0.245 * shape.nose_width, shape.nose_y - 0.04, 0.02, 0.07)
    over(colour, skin * (0.5, 0.36, 0.33), np.clip(0.8 * nostrils + 0.28 * wings, 0, 1))


def _paint_lips(colour: np.ndarray, person: Person, rng: np.random.Generator) -> None:
    shape, lips = person.shape, _lip_mask(person.shape)
    over(colour, np.array(person.lips), lips * (0.8 + 0.08 * noise(rng, 3)).clip(0, 1))
    below = Y - shape.mouth_y - seam(shape, X / shape.mouth_width)
    dark = 0.7 * np.exp(-0.5 *
                        (below / 0.013)**2) * step(1.04 - np.abs(X) / shape.mouth_width, 0, 0.25)
    over(colour, np.array(person.lips) * 0.3, np.clip(dark + 0.16 * lips * (below < 0), 0, 1))


def _shine(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    places = (0.5 + 0.5 * bump(0, -0.6, 0.4, 0.2) + 0.8 * bump(0, 0.4, 0.1, 0.3) +
              0.3 * pair(0.5, 0.3, 0.15, 0.12))
    lips = 1.2 * bump(0, shape.mouth_y + 0.5 * shape.lip_lower, 0.16, 0.03)
    return (shape.shine * (places + lips) * (1 + 0.25 * noise(rng, 2)).clip(0.3, 1.8)).astype(
        np.float32)


def slopes(face: Face) -> tuple[np.ndarray, np.ndarray]:
    """Return dz/dx and dz/dy of the head, limited so that its edge stays smooth; each (N, N)."""
    return tuple(np.clip(part, -6, 6) for part in slope(cv2.GaussianBlur(face.depth, (0, 0), 0.8)))
