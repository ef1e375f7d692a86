"""Describe the domain of a detector: the ranges of its training videos, the spread of its faces.

The domain is stored with a detector. Before a score of another video is used, `compare` lists what
differs between that video and the training videos.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
import pandas as pd

from dfnb import KEY
from dfnb.data import video

DIRECTIONS = 16  # principal components with a variance each; all other directions share one
RANGES = {  # trait of a video -> digits after the point, and the sentence about it
    "side": (0, "{new} pixels on the picture's short side, training videos had {known}"),
    "face": (0, "a face of {new} pixels, training faces had {known}"),
    "bits": (3, "{new} bits per pixel after compression, training videos had {known}"),
}
FAR = ("its faces look less like the training faces than those of any of the {count} validation "
       "videos")


def traits(videos: pd.DataFrame, frames: pd.DataFrame) -> pd.DataFrame:
    """Return side, face and bits of each video of `frames`.

    `side` is the short side of the picture and `face` the median side of the box, both in pixels;
    `bits` are per pixel. `videos` holds the paths, `frames` the boxes x0 and x1 of the kept frames,
    in pixels of the source.
    """
    face = (frames.x1 - frames.x0).groupby([frames[name] for name in KEY], sort=False).median()
    path = videos.set_index(KEY).path.loc[face.index]
    files = pd.DataFrame([_traits(path) for path in path], index=face.index)
    side = files[["width", "height"]].min(axis=1)
    return pd.DataFrame({"side": side, "face": face, "bits": files.bits})


_traits = cache(video.traits)  # all detectors of a study are fitted on the same files


def learn(traits: pd.DataFrame, features: np.ndarray, unseen: np.ndarray,
          videos: np.ndarray) -> dict:
    """Return the domain as plain JSON: ranges of `traits`, and the spread of the crops' features.

    `features` (n, dim) are those of the training crops, `unseen` (m, dim) those of the validation
    crops, and `videos` (m,) numbers the video of each. Another video is compared with the
    distances of the validation videos, because these were not trained on.
    """
    space = _spread(features.astype(np.float64))
    known = sorted(pd.Series(distances(space, unseen) ** 2).groupby(videos).mean() ** 0.5)
    ranges = {name: _rounded([traits[name].min(), traits[name].max()]) for name in RANGES}
    return {"videos": len(traits), "ranges": ranges, "space": space, "validation": _rounded(known)}


def _spread(features: np.ndarray) -> dict:
    """Return the mean, the first principal components and their variances.

    `rest` is the mean variance of the other directions.
    """
    mean = features.mean(axis=0)
    _, sizes, directions = np.linalg.svd(features - mean, full_matrices=False)
    variances = sizes**2 / max(1, len(features) - 1)
    kept = min(DIRECTIONS, max(1, int((variances > 1e-9 * variances[0]).sum()) - 1))
    rest = variances[kept:].sum() / max(1, features.shape[1] - kept)
    return {"mean": _rounded(mean), "directions": [_rounded(row) for row in directions[:kept]],
            "variances": _rounded(variances[:kept]), "rest": float(max(rest, 1e-12))}


def distances(space: dict, features: np.ndarray) -> np.ndarray:
    """Return Mahalanobis distances (n,) of features (n, dim), divided by the root of dim.

    A training crop lies at about 1. The covariance is that of probabilistic PCA (Tipping and
    Bishop, 1999): each of a few directions has a variance, and all others share one. Lee et al.
    (NeurIPS 2018) use this distance as a sign of foreign data.
    """
    centred, directions = features - np.array(space["mean"]), np.array(space["directions"])
    along = centred @ directions.T  # (n, directions)
    outside = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
    inside = (along**2 / np.array(space["variances"])).sum(axis=1)
    return np.sqrt((inside + np.maximum(outside, 0) / space["rest"]) / features.shape[1])


def compare(domain: dict, traits: dict, features: np.ndarray) -> tuple[dict, list[str]]:
    """Return the traits of one video, with `distance` and `farther`, and a sentence per deviation.

    `farther` is the share of validation videos that lie at least as far from the training crops.
    """
    distance = float(np.mean(distances(domain["space"], features) ** 2) ** 0.5)
    farther = float(np.mean(np.array(domain["validation"]) >= distance))
    own = dict(zip(RANGES, _rounded(traits[name] for name in RANGES), strict=True))
    warnings = []
    for name, (digits, sentence) in RANGES.items():
        low, high = domain["ranges"][name]
        if not low <= own[name] <= high:
            known = span([low, high], f".{digits}f")
            warnings.append(sentence.format(new=f"{own[name]:.{digits}f}", known=known))
    if farther == 0:
        warnings.append(FAR.format(count=len(domain["validation"])))
    return own | {"distance": distance, "farther": farther}, warnings


def span(bounds: list[float], digits: str) -> str:
    """Return two bounds in words, or one number where they are equal."""
    low, high = (format(bound, digits) for bound in bounds)
    return low if low == high else f"{low} to {high}"


def _rounded(values: Iterable[float]) -> list[float]:
    """Return six digits of each value, which suffice for a comparison and keep the file small."""
    return [float(f"{value:.6g}") for value in values]
