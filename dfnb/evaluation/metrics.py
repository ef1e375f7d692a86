"""Compute AUC, EER and rates at a threshold of one set of scores; average frames to videos.

Labels are 1 for fake and 0 for real. A score is the probability of fake, and score >= threshold
says "fake". What is undefined on the data (one class only, NaN among the scores) is NaN, never 0.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import roc_curve

from dfnb import KEY, UserError

RATES = ("HTER", "ACC", "balanced", "F1", "MCC")  # at a threshold
COUNTS = ("TP", "FP", "FN", "TN")
FIXED = "threshold 0.5"  # names of the answers in a table
CHOSEN = "threshold from validation"
CONSTANT = 'always "fake"'
TRIAL = ["model", "split_seed"]  # columns of a table with several fits; videos are kept apart
AVERAGES = ("mean", "logit", "median", "max")
NAN = float("nan")


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return FPR, TPR and threshold of every distinct score, from "all real" to "all fake".

    Each array has one element more than there are distinct scores; the first threshold is infinite.
    Equal scores share one point. Both classes must be present, and the scores finite.
    """
    return roc_curve(*_arrays(labels, scores), drop_intermediate=False)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the share of (fake, real) pairs in which the fake scores higher; a tie counts half.

    The ranks of the fakes give the number of pairs exactly, so the share is one division.
    """
    if undefined(labels, scores):
        return NAN
    labels, scores = _arrays(labels, scores)
    fakes, reals = int(labels.sum()), int((1 - labels).sum())
    wins = rankdata(scores)[labels == 1].sum() - fakes * (fakes + 1) / 2
    return float(wins / (fakes * reals))


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the error where FPR = FNR, interpolated linearly between the two ROC points around it.

    Its threshold is chosen on the tested data: print beside it the HTER at the threshold from
    validation.
    """
    if undefined(labels, scores):
        return NAN
    fpr, tpr, _ = roc(labels, scores)
    gap = (1 - tpr) - fpr  # falls from 1 to -1 along the curve
    after = int(np.argmax(gap <= 0))
    step = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(fpr[after - 1] + step * (fpr[after] - fpr[after - 1]))


def at_threshold(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """Return RATES (balanced accuracy is 1 - HTER) and COUNTS of the answers at a threshold."""
    labels, scores = _arrays(labels, scores)
    if np.isnan(scores).any() or np.isnan(threshold):
        return dict.fromkeys(RATES + COUNTS, NAN)
    fake, answer = labels == 1, scores >= threshold
    outcomes = (answer & fake, answer & ~fake, ~answer & fake, ~answer & ~fake)
    return from_counts(*(int(rows.sum()) for rows in outcomes))


def from_counts(TP: int, FP: int, FN: int, TN: int) -> dict[str, float]:
    """Return RATES and COUNTS of one confusion matrix; a ratio with denominator 0 is NaN."""
    balanced = (_ratio(TP, TP + FN) + _ratio(TN, TN + FP)) / 2
    product = float(TP + FP) * (TP + FN) * (TN + FP) * (TN + FN)
    rates = {
        "HTER": 1 - balanced,
        "ACC": _ratio(TP + TN, TP + FP + FN + TN),
        "balanced": balanced,
        "F1": _ratio(2 * TP, 2 * TP + FP + FN),
        "MCC": _ratio(TP * TN - FP * FN, product**0.5),
    }
    return rates | dict(zip(COUNTS, (TP, FP, FN, TN), strict=True))


def constant_answer(labels: ArrayLike) -> dict[str, float]:
    """Return the metrics of answering "fake" to everything, the row every table must beat."""
    labels = np.asarray(labels)
    chance = 0.5 if 0 < labels.sum() < len(labels) else NAN
    return {**at_threshold(labels, np.ones(len(labels)), 0.5), "AUC": chance, "EER": chance}


def best_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold of largest balanced accuracy; call it on validation only.

    Candidates lie half-way between neighbouring distinct scores; of equally good ones the nearest
    to 0.5 wins.
    """
    if undefined(labels, scores):
        return NAN
    fpr, tpr, points = roc(labels, scores)
    halfway = (points[1:-1] + points[2:]) / 2
    halfway = np.where(halfway > points[2:], halfway, points[1:-1])  # neighbours have no middle
    candidates = np.concatenate([[np.nextafter(points[1], np.inf)], halfway, [points[-1]]])
    quality = np.round(tpr - fpr, 12)
    best = candidates[quality == quality.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def to_videos(scores: pd.DataFrame, how: str = "mean") -> pd.DataFrame:
    """Return one row per video with group, label, score and the number of frames.

    A video counts once in each split, and once for each model and split seed where the table has
    these columns. `how` is "mean" of the probabilities (as in the study), "logit" (mean logit, back
    to a probability), "median" or "max". The columns corpus, manipulation and group may be missing.
    Raises UserError where a video has two labels.
    """
    if how not in AVERAGES:
        raise UserError(f"frames are averaged by one of {', '.join(AVERAGES)}, got {how!r}")
    key = [name for name in [*TRIAL, *KEY, "split"] if name in scores]
    value = _logit(scores["score"]) if how == "logit" else scores["score"].astype(float)
    grouped = scores.assign(score=value).groupby(key, sort=True, dropna=False, observed=True)
    _check_one_label(grouped)
    score = grouped["score"].agg("mean" if how == "logit" else how)
    if how == "logit":
        score = 1 / (1 + np.exp(-score))
    videos = grouped[[name for name in ("group", "label") if name in scores]].first()
    videos = videos.assign(score=score, frames=grouped.size()).reset_index()
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


def _arrays(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as int and scores as float; raise ValueError where they are none."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(
            f"labels and scores must be two lists of equal length, got {labels.shape} and "
            f"{scores.shape}")
    if not np.isin(labels, (0, 1)).all():
        others = sorted(set(labels.tolist()) - {0, 1})
        raise ValueError(f"labels are 0 (real) or 1 (fake), got {others[:3]}")
    return labels.astype(int), scores


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN


def _logit(probability: pd.Series) -> pd.Series:
    clipped = probability.astype(float).clip(1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def _check_one_label(grouped) -> None:
    labels = grouped["label"].nunique(dropna=False)
    if (labels > 1).any():
        name = labels.index[labels > 1][0]
        raise UserError(f"video {name} has two labels; a video is real or fake")
