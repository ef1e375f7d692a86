"""Metrics of one set of scores: AUC, EER, everything at a threshold, and frames averaged to videos.

Labels are 1 for fake and 0 for real; a score is the probability of fake; score >= threshold says "fake".
What is undefined on the data (one class only, NaN among the scores) is NaN, never 0.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dfnb import KEY, UserError

TRIAL = ["model", "split_seed"]  # where a table holds several: scores of one video are averaged within each
AVERAGES = ("mean", "logit", "median", "max")


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return FPR, TPR and threshold of every distinct score, from "all real" (infinity) to "all fake".

    Each array has one element more than there are distinct scores; equal scores share one point. Both classes
    must be present.
    """
    reals, fakes, thresholds = _counts(labels, scores)
    fpr, tpr = (np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]) for counts in (reals, fakes))
    return fpr, tpr, np.concatenate([[np.inf], thresholds])


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the share of (fake, real) pairs in which the fake scores higher; a tie counts one half."""
    if undefined(labels, scores):
        return float("nan")
    reals, fakes, _ = _counts(labels, scores)
    below = reals.sum() - np.cumsum(reals)
    wins = int(np.sum(fakes * (2 * below + reals)))  # twice the number of wins, exact
    return wins / (2 * int(reals.sum()) * int(fakes.sum()))


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the error where FPR = FNR, interpolated linearly between the two ROC points that straddle it.

    The threshold behind it is an oracle's: print beside it the HTER at the threshold from validation.
    """
    if undefined(labels, scores):
        return float("nan")
    fpr, tpr, _ = roc(labels, scores)
    gap = (1 - tpr) - fpr  # falls from 1 to -1 along the curve
    after = int(np.argmax(gap <= 0))
    step = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(fpr[after - 1] + step * (fpr[after] - fpr[after - 1]))


def at_threshold(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """Return ACC, balanced accuracy, HTER (1 - balanced), F1, MCC and the counts TP, FP, FN, TN."""
    labels, scores = _arrays(labels, scores)
    if np.isnan(scores).any() or np.isnan(threshold):
        return dict.fromkeys(("ACC", "balanced", "HTER", "F1", "MCC", "TP", "FP", "FN", "TN"), float("nan"))
    said = scores >= threshold
    fake = labels == 1
    return from_counts(
        TP=int((said & fake).sum()),
        FP=int((said & ~fake).sum()),
        FN=int((~said & fake).sum()),
        TN=int((~said & ~fake).sum()),
    )


def from_counts(*, TP: int, FP: int, FN: int, TN: int) -> dict[str, float]:
    """Return the metrics of one confusion matrix; a ratio with denominator 0 is NaN."""
    tpr, tnr = _ratio(TP, TP + FN), _ratio(TN, TN + FP)
    product = float(TP + FP) * (TP + FN) * (TN + FP) * (TN + FN)
    return {
        "ACC": _ratio(TP + TN, TP + FP + FN + TN),
        "balanced": (tpr + tnr) / 2,
        "HTER": 1 - (tpr + tnr) / 2,
        "F1": _ratio(2 * TP, 2 * TP + FP + FN),
        "MCC": _ratio(TP * TN - FP * FN, product**0.5),
        "TP": TP,
        "FP": FP,
        "FN": FN,
        "TN": TN,
    }


def constant_answer(labels: ArrayLike) -> dict[str, float]:
    """Return the metrics of answering "fake" to everything, the row every table must beat."""
    labels = np.asarray(labels)
    both = 0 < labels.sum() < len(labels)
    chance = 0.5 if both else float("nan")
    return {**at_threshold(labels, np.ones(len(labels)), 0.5), "AUC": chance, "EER": chance}


def best_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold of largest balanced accuracy; call it on validation only, then freeze it.

    Candidates lie half-way between neighbouring distinct scores; of equally good ones the nearest to 0.5
    wins.
    """
    if undefined(labels, scores):
        return float("nan")
    fpr, tpr, points = roc(labels, scores)
    halfway = (points[1:-1] + points[2:]) / 2
    halfway = np.where(halfway > points[2:], halfway, points[1:-1])  # two neighbouring floats have no middle
    candidates = np.concatenate([[np.nextafter(points[1], np.inf)], halfway, [points[-1]]])
    quality = np.round(tpr - fpr, 12)
    best = np.flatnonzero(quality == quality.max())
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])


def row(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """Return one row of a results table: AUC, EER and all metrics at `threshold`."""
    ranking = {"AUC": auc(labels, scores), "EER": eer(labels, scores)}
    return {**ranking, **at_threshold(labels, scores, threshold), "threshold": float(threshold)}


def to_videos(scores: pd.DataFrame, how: str = "mean") -> pd.DataFrame:
    """Return one row per video with group, label, score and the number of frames.

    A video counts once in each split, and in each model and split where the table has these columns. `how` is
    "mean" of the probabilities (as the study does), "logit" (mean logit, back to a probability), "median" or
    "max". The columns corpus, manipulation and group may be missing. Raises UserError where a video has two
    labels.
    """
    if how not in AVERAGES:
        raise UserError(f"frames are averaged by one of {', '.join(AVERAGES)}, got {how!r}")
    key = [name for name in [*TRIAL, *KEY, "split"] if name in scores]
    keep = [name for name in ("group", "label") if name in scores]
    value = _logit(scores["score"]) if how == "logit" else scores["score"].astype(float)
    grouped = scores.assign(score=value).groupby(key, sort=True, dropna=False, observed=True)
    _check_one_label(grouped)
    average = grouped["score"].agg("mean" if how == "logit" else how)
    videos = (
        grouped[keep]
        .first()
        .assign(score=1 / (1 + np.exp(-average)) if how == "logit" else average, frames=grouped.size())
    )
    videos = videos.reset_index()
    order = [*TRIAL, *KEY, "group", "split", "label", "score", "frames"]
    return videos[[name for name in order if name in videos]]


def undefined(labels: ArrayLike, scores: ArrayLike) -> str:
    """Return why a ranking metric has no value on this data, or "" where it has one."""
    labels, scores = _arrays(labels, scores)
    if len(labels) == 0:
        return "no rows"
    if np.isnan(scores).any():
        return f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN"
    if labels.min() == labels.max():
        return "only fake rows, no real ones" if labels[0] == 1 else "only real rows, no fake ones"
    return ""


def _counts(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of reals and of fakes at each distinct score, and the scores, from high to low."""
    labels, scores = _arrays(labels, scores)
    values, place = np.unique(scores, return_inverse=True)
    reals, fakes = (np.bincount(place[labels == label], minlength=len(values))[::-1] for label in (0, 1))
    return reals, fakes, values[::-1]


def _arrays(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be two lists of equal length")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels are 0 (real) or 1 (fake), got {sorted(set(labels.tolist()) - {0, 1})[:3]}")
    return labels.astype(int), scores


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _logit(probability: pd.Series) -> pd.Series:
    clipped = probability.astype(float).clip(1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def _check_one_label(grouped) -> None:
    spread = grouped["label"].nunique(dropna=False)
    if (spread > 1).any():
        raise UserError(f"video {spread.index[spread > 1][0]} has two labels; a video is real or fake")
