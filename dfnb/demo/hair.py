"""Hair in the canonical picture: strands along a flow, a hairline, lengths, brows and beard."""

from __future__ import annotations

import cv2
import numpy as np

from dfnb.demo.grid import ORIGIN_Y, PIXELS, N, X, Y, blur, bump, noise, pair, slope, step
from dfnb.demo.people import Person
from dfnb.demo.scenery import Light

ENDS = {"short": 0.1, "medium": 1.5, "long": 3.2}  # height at which the hair beside the face ends


def strands(rng: np.random.Generator, flow: np.ndarray, cell: float, doublings: int) -> np.ndarray:
    """Return noise (h, w) smeared along a flow (h, w, 2) in pixels, unit variance.

    Each round averages the noise with itself one path further and doubles the path, so that
    `doublings` rounds smear over 2**doublings pixels (a line integral convolution in logarithmic
    time).
    """
    (height, width), path = flow.shape[:2], flow
    picture, here = noise(rng, cell, height, width), PIXELS[:height, :width]
    for _ in range(doublings):
        at = here + path
        picture = 0.5 * (
            picture + cv2.remap(picture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        )
        path = path + cv2.remap(path, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return picture / picture.std()


def _flow(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Return unit directions in which hair falls: from the parting to the sides, then down."""
    shape, short = person.shape, person.hair_length == "short"
    from_x = X - (0.6 * shape.parting if short else shape.parting)
    sideways = 1.5 * from_x * np.exp(-np.clip(Y + 1.55, 0, 9) / (0.9 if short else 0.5))
    down = 0.12 + np.clip(Y + 1.5, 0, 1) * (0.25 if short else 1.1) + 0 * X
    if short:  # combed up and aside from the forehead
        sideways, down = from_x + 0.35 * np.sign(shape.parting), np.abs(Y + 0.45) + 0.15
        down = np.where(Y < -0.45, -down, down)
    waves = 0.35 * shape.wave * (np.sin(Y * 7 + 2 * noise(rng, 50)) + 0.8 * noise(rng, 22))
    flow = np.dstack([sideways + waves * np.abs(down), down + 0 * X])
    return (flow / (np.linalg.norm(flow, axis=2, keepdims=True) + 1e-6)).astype(np.float32)


def _outer(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Return distance inside the hair's outer boundary, in half face widths (negative outside)."""
    shape, length = person.shape, person.hair_length
    wide = shape.skull_width + 0.04 + shape.volume_side * (0.6 if length == "short" else 1.3)
    tall = 1.1 + shape.volume_top
    cap = (1 - np.sqrt((X / wide) ** 2 + ((Y + 0.35) / tall) ** 2)) * wide
    if length == "short":
        return cap.astype(np.float32)
    flare = {"medium": 0.02, "long": 0.10}[length] + 0.08 * shape.volume_side
    curtain = (
        wide
        + flare * np.clip(Y + 0.35, 0, 3)
        - 0.12 * step(Y, 0.5, ENDS[length]) * (length == "medium")
        - np.abs(X)
    )
    curtain = curtain + 0.07 * shape.wave * noise(rng, 30) * step(Y, -0.35, 0.5)
    return np.where(Y < -0.35, cap, curtain).astype(np.float32)


def _inner(person: Person) -> np.ndarray:
    """Return the distance outside of the face's window, in half face widths (negative inside)."""
    shape, length = person.shape, person.hair_length
    half = {"short": 0.90, "medium": 0.84, "long": 0.82}[length] * shape.skull_width
    top, middle = shape.hairline, 0.55
    if shape.fringe > 0.25:
        top = shape.hairline + 0.42 * min(1.0, shape.fringe)
    slant = 0.22 * shape.parting * X * (1 if length != "short" else 0.4)
    rise = np.clip((middle - Y) / (middle - top - slant), 0, 9)
    window = (np.abs(X) / half) ** 2.6 + rise**2.6
    below = np.abs(X) / (half - 0.16 * step(Y, 0.5, 1.6))
    return ((np.where(middle > Y, window ** (1 / 2.6), below) - 1) * half).astype(np.float32)


def layers(person: Person, lamp: Light) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the hair in front, the height it adds to the head, and the hair behind the neck.

    Front and back are sRGB and alpha (N, N, 4); the back is None for short hair; the height is (N,
    N).
    """
    rng, length = person.rng(5), person.hair_length
    flow = _flow(person, rng)
    fine, locks = strands(rng, flow, 1.2, 5), strands(rng, flow, 7, 5)
    outer, inner = _outer(person, rng), _inner(person)
    ragged = (0.009 if length == "short" else 0.012) * fine + 0.010 * locks
    end = ENDS[length] - Y + 0.05 * fine + 0.09 * locks
    if length == "short":
        end = end + 0.25 * step(np.abs(X) + 0 * Y, 1.2, 0.9)
    edge = inner + (0.030 * fine + 0.020 * locks) * (0.6 + 0.8 * bump(0, -0.8, 0.6, 0.35))
    alpha = step(outer + ragged, -0.03, 0.035) * step(edge, -0.035, 0.06) * step(end, -0.05, 0.10)
    height = 0.95 * np.sqrt(np.clip(outer, 0, 1)) + 0.022 * locks + 0.006 * fine
    rgb = _shaded(person, lamp, flow, height, fine, locks, np.clip(inner / 0.16, 0, 1))
    front = np.dstack([rgb, alpha]).astype(np.float32)
    return (
        front,
        blur(0.06 * alpha, 3),
        None if length == "short" else _back(person, front, outer + ragged, end),
    )


def _back(person: Person, front: np.ndarray, outer: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the hair behind the neck: the same strands, in the shadow of head and neck."""
    dark = 0.42 + 0.35 * step(np.abs(X) + 0 * Y, 0.55, 1.15)
    alpha = step(outer - 0.03, -0.03, 0.03) * step(end[:, ::-1] + 0.05, -0.05, 0.1) * step(
        Y, 0.0, 0.3)
    return np.dstack([front[..., :3] * dark[..., None], alpha]).astype(np.float32)


def _shaded(
    person: Person,
    lamp: Light,
    flow: np.ndarray,
    height: np.ndarray,
    fine: np.ndarray,
    locks: np.ndarray,
    depth: np.ndarray,
) -> np.ndarray:
    """Return the colour of lit strands (Kajiya and Kay, 1989): dull along, shiny across."""
    gx, gy = (np.clip(blur(part, 1.2), -2.5, 2.5) for part in slope(height))
    norm = 1 / np.sqrt(1 + gx**2 + gy**2)
    toward = (lamp.direction[2] - gx * lamp.direction[0] - gy * lamp.direction[1]) * norm
    tangent = np.dstack([flow, flow[..., 0] * gx + flow[..., 1] * gy])
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True)
    half = lamp.direction + np.array([0, 0, 1], np.float32)
    along = tangent @ (half / np.linalg.norm(half)) + 0.06 * locks + 0.05 * fine
    gloss = np.clip(1 - along**2, 0, 1) ** 14 * np.clip(toward + 0.2, 0, 1)
    base = np.array(person.hair, np.float32) ** 2
    tone = np.clip(1 + 0.17 * fine + 0.13 * locks, 0.3, 2)
    shade = (0.45 + 0.55 * depth)[..., None]
    light = lamp.ambient * 0.8 + lamp.colour * np.clip(0.75 * toward + 0.25, 0, 1)[..., None]
    colour = base * tone[..., None] * light * shade
    shine = (
        (0.05 + 0.05 * base**0.5 + 0.2 * base)
        * lamp.colour
        * (gloss * np.clip(1 + 0.5 * fine, 0, 2))[..., None]
        * shade
    )
    return np.sqrt(np.clip(colour + shine, 0, 1))


def brows(person: Person) -> np.ndarray:
    """Return how much each point is covered by a brow, (N, N)."""
    shape, rng = person.shape, person.rng(7)
    rows = slice(ORIGIN_Y - 36, ORIGIN_Y + 4)
    y, cover = Y[rows], np.zeros((N, N), np.float32)
    t = (np.abs(X) - shape.eye_x + 0.02) / 0.30  # -1 inner end .. 1 outer end
    middle = shape.brow_y - shape.brow_arch * (1 - ((t - 0.25) / 1.1) ** 2) + 0.03 * step(t, 0.3, 1)
    thick = shape.brow_thick * (1.15 - 0.55 * step(t, -0.2, 1.0)) * step(1.05 - np.abs(t), 0, 0.3)
    rise = -0.5 + 0.6 * step(t, -0.6, 0.6)
    flow = np.dstack(np.broadcast_arrays(0.9 * np.sign(X) + 0 * y, rise)).astype(np.float32)
    density = np.exp(-0.5 * ((y - middle) / (thick + 1e-3)) ** 4) * step(thick, 0, 0.02)
    cover[rows] = np.clip(density * (0.66 + 0.22 * strands(rng, flow, 1.2, 3)), 0, 0.92)
    return cover


def beard(person: Person) -> np.ndarray:
    """Return how much a beard, or the shadow of a shaved one, covers each point, (N, N)."""
    shape, rng = person.shape, person.rng(8)
    if person.gender != "man":
        return np.zeros_like(X * Y)
    flow = np.dstack([0.5 * X + 0 * Y, 1 + 0 * X * Y]).astype(np.float32)
    hairs = strands(rng, flow, 1.2, 3)
    cheek_line = 0.62 - 0.75 * np.abs(X) + 1.1 * np.clip(np.abs(X) - 0.62, 0, 1) * -1.6
    area = step(Y - shape.mouth_y + cheek_line, 0.1, 0.32) * step(np.abs(X) + 0 * Y, 0.12, 0.3)
    chin = step(Y - shape.mouth_y - shape.lip_lower, 0.02, 0.12) * (np.abs(X) < 0.6)
    moustache = bump(0, shape.mouth_y - shape.lip_upper - 0.055, 0.3, 0.045) * 1.6 + pair(
        0.3, shape.mouth_y, 0.07, 0.1
    )
    lips = bump(0, shape.mouth_y + 0.01, 0.8 * shape.mouth_width, 0.075)
    cover = np.clip(np.maximum(np.maximum(area, chin), moustache) - 1.3 * lips, 0, 1)
    if not person.beard:
        return blur(cover, 4) * (0.10 + 0.05 * rng.random()) * (1 + 0.25 * hairs).clip(0, 2)
    return blur(cover, 2.5) ** 0.8 * np.clip(0.80 + 0.12 * hairs, 0.3, 0.94)
