"""Group frames into clips, and pair a real clip with a fake one."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from dfnb import KEY


def clips_of(frames: pd.DataFrame, length: int) -> np.ndarray:
    """Return rows of `frames` as clips (m, length) of consecutive kept frames, video by video.

    The last clip of a video starts earlier where too few frames are left, and overlaps the one
    before it. The frames of a shorter video are repeated.
    """
    clips = []
    for rows in frames.groupby(KEY, sort=False).indices.values():
        rows = rows[np.argsort(frames["frame"].to_numpy()[rows], kind="stable")]
        if len(rows) < length:
            rows = rows[np.arange(length) * len(rows) // length]
        starts = np.minimum(np.arange(0, len(rows), length), len(rows) - length)
        clips.append(rows[starts[:, None] + np.arange(length)])
    return np.concatenate(clips)


def scenes_of(frames: pd.DataFrame) -> np.ndarray:
    """Return the scene (n,) str of each crop; a fake has the scene of its target's real video."""
    scene = frames["target" if "target" in frames else "video"]
    return (frames["corpus"] + "/" + scene).to_numpy(str)


def pairs(labels: np.ndarray, scenes: np.ndarray, rng: np.random.Generator) -> Iterator[tuple]:
    """Yield positions (real, fake) of one scene without end, from labels and scenes (m,).

    A fake whose scene has no real is paired with any real.
    """
    reals, of_scene = np.flatnonzero(labels == 0), defaultdict(list)
    for at in reals:
        of_scene[scenes[at]].append(at)
    while True:
        for fake in rng.permutation(np.flatnonzero(labels == 1)):
            yield int(rng.choice(of_scene.get(scenes[fake], reals))), int(fake)
