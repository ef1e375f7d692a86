"""The domain of a detector: the ranges of its training videos, and how far from their faces another video's lie.

It is stored with a detector and answers, before its score of another video is believed: is this like what it learnt on?
"""

from functools import cache

import numpy as np
import pandas as pd

from dfnb import KEY
from dfnb.data import video

DIRECTIONS = 16  # principal components kept; what lies outside of them is measured by its length alone
RANGES = {  # trait of a video -> digits after the point, and how a sentence names it
    "side": (0, "{new} pixels on the picture's short side, training videos had {known}"),
    "face": (0, "a face of {new} pixels, training faces had {known}"),
    "bits": (3, "{new} bits per pixel after compression, training videos had {known}"),
}
FAR = "its faces look less like the training faces than those of any of the {count} validation videos"


def traits(videos: pd.DataFrame, frames: pd.DataFrame) -> pd.DataFrame:
    """A row per video of `frames`: side (short side of the picture, pixels), face (median side of its box), bits.

    `videos` has their paths; `frames` the boxes x0 and x1 of the kept frames, in pixels of the source.
    """
    face = (frames.x1 - frames.x0).groupby([frames[name] for name in KEY], sort=False).median()
    path = videos.set_index(KEY).path.loc[face.index]
    files = pd.DataFrame([_traits(path) for path in path], index=face.index)
    return pd.DataFrame({"side": files[["width", "height"]].min(axis=1), "face": face, "bits": files.bits})


_traits = cache(video.traits)  # a study asks the same files for every detector


def learn(traits: pd.DataFrame, features: np.ndarray, unseen: np.ndarray, videos: np.ndarray) -> dict:
    """The domain, plain JSON: ranges of the training videos' `traits`, and the spread of their crops' features.

    `features` (n, dim) of the training crops; `unseen` (m, dim) of the validation crops, whose `videos` (m,) they are:
    the distances of videos that were not trained on are what another one is compared with.
    """
    space = _spread(features.astype(np.float64))
    known = sorted(pd.Series(distances(space, unseen) ** 2).groupby(videos).mean() ** 0.5)
    ranges = {name: _short([traits[name].min(), traits[name].max()]) for name in RANGES}
    return {"videos": len(traits), "ranges": ranges, "space": space, "validation": _short(known)}


def _spread(features: np.ndarray) -> dict:
    """Mean, leading principal components and variances; `rest`, the mean variance of a direction outside of them."""
    mean = features.mean(axis=0)
    _, sizes, directions = np.linalg.svd(features - mean, full_matrices=False)
    variances = sizes**2 / max(1, len(features) - 1)
    kept = min(DIRECTIONS, max(1, int((variances > 1e-9 * variances[0]).sum()) - 1))
    rest = variances[kept:].sum() / max(1, features.shape[1] - kept)
    return {"mean": _short(mean), "directions": [_short(row) for row in directions[:kept]],
            "variances": _short(variances[:kept]), "rest": float(max(rest, 1e-12))}


def distances(space: dict, features: np.ndarray) -> np.ndarray:
    """(n,) Mahalanobis distance of features (n, dim), over the root of dim: about 1 for a training crop.

    The covariance is that of probabilistic PCA (Tipping and Bishop, 1999): a few directions have a variance of their
    own, all others the same one. The distance as a sign of foreign data: Lee et al., NeurIPS 2018.
    """
    centred, directions = features - np.array(space["mean"]), np.array(space["directions"])
    along = centred @ directions.T  # (n, directions)
    outside = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
    squared = (along**2 / np.array(space["variances"])).sum(axis=1) + np.maximum(outside, 0) / space["rest"]
    return np.sqrt(squared / features.shape[1])


def compare(domain: dict, traits: dict, features: np.ndarray) -> tuple[dict, list[str]]:
    """Traits, distance and `farther` of one video, and a sentence for each in which it lies outside of the domain.

    `farther` is the share of validation videos that lie at least as far from the training crops.
    """
    distance = float(np.mean(distances(domain["space"], features) ** 2) ** 0.5)
    farther = float(np.mean(np.array(domain["validation"]) >= distance))
    found = dict(zip(RANGES, _short(traits[name] for name in RANGES), strict=True))
    found |= {"distance": distance, "farther": farther}
    text = [sentence.format(new=f"{found[name]:.{digits}f}", known=span(domain["ranges"][name], f".{digits}f"))
            for name, (digits, sentence) in RANGES.items()
            for low, high in [domain["ranges"][name]] if not low <= found[name] <= high]
    return found, text + ([FAR.format(count=len(domain["validation"]))] if farther == 0 else [])


def span(bounds: list[float], digits: str) -> str:
    """Two bounds in words, one where they are the same."""
    low, high = (format(bound, digits) for bound in bounds)
    return low if low == high else f"{low} to {high}"


def _short(values) -> list[float]:
    """Six digits are enough to compare with, and make a small file."""
    return [float(f"{value:.6g}") for value in values]
