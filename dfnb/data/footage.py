"""Clips of frames: which crops of a video belong together, and which real clip stands beside a fake one."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd


def clips_of(frames: pd.DataFrame, length: int) -> np.ndarray:
    """(m, length) rows of `frames`: clips of consecutive kept frames, video by video.

    The last clip of a video reaches back for frames where too few are left; a shorter video is stretched.
    """
    clips = []
    for rows in frames.groupby(["corpus", "manipulation", "video"], sort=False).indices.values():
        rows = rows[np.argsort(frames["frame"].to_numpy()[rows], kind="stable")]
        if len(rows) < length:
            rows = rows[np.arange(length) * len(rows) // length]
        starts = np.minimum(np.arange(0, len(rows), length), len(rows) - length)
        clips.append(rows[starts[:, None] + np.arange(length)])
    return np.concatenate(clips)


def scenes_of(frames: pd.DataFrame) -> np.ndarray:
    """(n,) str: the scene of each crop, which a fake shares with the real video of its target."""
    return (frames["corpus"] + "/" + frames["target" if "target" in frames else "video"]).to_numpy(str)


def pairs(labels: np.ndarray, scenes: np.ndarray, generator: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Endless (real, fake) of one scene, of any scene where a fake's real is not among them; labels, scenes (m,)."""
    reals, of_scene = np.flatnonzero(labels == 0), defaultdict(list)
    for at in reals:
        of_scene[scenes[at]].append(at)
    while True:
        for fake in generator.permutation(np.flatnonzero(labels == 1)):
            yield int(generator.choice(of_scene.get(scenes[fake], reals))), int(fake)
