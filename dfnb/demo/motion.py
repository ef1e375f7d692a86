"""How a head moves: the pose of one frame and a talking performance over many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfnb.demo.people import Person

FPS = 25.0


@dataclass(frozen=True)
class Pose:
    """Pose and expression in one frame; left and right are those of the picture."""

    yaw: float = 0.0  # degrees, -20..20, positive turns the nose to the right
    pitch: float = 0.0  # degrees, -12..12, positive looks down
    roll: float = 0.0  # degrees, -12..12, positive tilts clockwise
    x: float = 0.0  # shift of the head to the right, pixels, -10..10
    y: float = 0.0  # shift of the head downwards, pixels, -10..10
    mouth: float = 0.0  # opening of the mouth, 0 closed .. 1 wide open
    smile: float = 0.0  # 0 none .. 1 broad; down to -0.3 for a sad mouth
    blink: float = 0.0  # 0 eyes open .. 1 closed
    gaze_x: float = 0.0  # -1 looks to the left .. 1 to the right
    gaze_y: float = 0.0  # -1 looks up .. 1 down


def expression(pose: Pose) -> str:
    """Return the word a caption uses: talking, smiling or neutral."""
    if pose.mouth > 0.25:
        return "talking"
    return "smiling" if pose.smile > 0.4 else "neutral"


def gaze(pose: Pose) -> str:
    """Return the word a caption uses: left, right (of the picture) or ahead."""
    if abs(pose.gaze_x) < 0.4:
        return "ahead"
    return "right" if pose.gaze_x > 0 else "left"


def performance(person: Person, frames: int, seed: int = 0) -> list[Pose]:
    """Return a talking track at 25 frames a second; a shorter one begins a longer one."""
    rng = np.random.default_rng([person.world, person.id, 11, seed])
    time = np.arange(frames) / FPS  # seconds
    tracks = {
        "yaw": rng.normal(0, 4.5) + 5.0 * _sway(rng, time, 0.35),
        "pitch": rng.normal(0, 2.0) + 2.5 * _sway(rng, time, 0.5),
        "roll": rng.normal(0, 2.0) + 2.0 * _sway(rng, time, 0.3),
        "x": 3.0 * _sway(rng, time, 0.25),
        "y": 2.0 * _sway(rng, time, 0.3),
    }
    mood = rng.choice([0.0, 0.15, 0.75], p=[0.4, 0.25, 0.35])
    tracks["smile"] = np.clip(mood + 0.18 * _sway(rng, time, 0.4), -0.2, 1)
    tracks["mouth"] = _speech(rng, time) * (1 - 0.3 * tracks["smile"].clip(0))
    tracks["blink"] = _blinks(rng, time)
    tracks["gaze_x"], tracks["gaze_y"] = _looks(rng, time)
    limits = {"yaw": 18, "pitch": 10, "roll": 9}
    tracks |= {name: np.clip(tracks[name], -limit, limit) for name, limit in limits.items()}
    return [
        Pose(**{name: float(track[i])
                for name, track in tracks.items()})
        for i in range(frames)
    ]


def _sway(rng: np.random.Generator, time: np.ndarray, rate: float) -> np.ndarray:
    """Return three slow waves around `rate` hertz, about unit height."""
    rates, phases = rate * rng.uniform([0.6, 1.0, 1.7], [0.9, 1.5, 2.4]), rng.uniform(
        0, 2 * np.pi, 3)
    return np.sin(2 * np.pi * rates * time[:, None] + phases) @ np.array([0.6, 0.35, 0.15])


def _speech(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Return syllables at 3 to 5 hertz under a slow envelope with pauses; 0..1."""
    loud = rng.uniform(0.45, 1.0)
    syllables = 0.5 + 0.5 * np.sin(
        2 * np.pi * rng.uniform(3, 4.5) * time + rng.uniform(0, 6) + 2 * _sway(rng, time, 1)
    )
    envelope = np.clip(0.25 + 1.0 * _sway(rng, time, 0.45), 0, 1)
    return loud * envelope * (0.25 + 0.75 * syllables)


def _blinks(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Return a blink of about a quarter of a second every two to five seconds."""
    gaps = rng.uniform(2.0, 5.0, 400)
    moments = np.cumsum(gaps) - gaps[0] * rng.uniform(0.2, 1.0)
    distance = np.abs(time[:, None] - moments).min(1)
    return np.clip(1.25 - distance / 0.10, 0, 1)


def _looks(rng: np.random.Generator, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return glances held for one to four seconds with quick jumps between; mostly ahead."""
    holds = np.cumsum(rng.uniform(1.0, 4.0, 400))
    side = rng.choice([-0.75, 0.0, 0.75], 400, p=[0.25, 0.5, 0.25]) + rng.normal(0, 0.1, 400)
    height = rng.normal(0, 0.2, 400)
    jump = 0.04  # seconds from one glance to the next
    ends = np.stack([holds - jump, holds + jump], 1).ravel()
    return (
        np.interp(time, ends, np.stack([side, np.roll(side, -1)], 1).ravel()).clip(-1, 1),
        np.interp(time, ends, np.stack([height, np.roll(height, -1)], 1).ravel()).clip(-1, 1),
    )
