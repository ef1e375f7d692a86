"""Compute intervals of an AUC: the unit is the video, the cluster is the identity group.

Labels are 1 for fake and 0 for real. Where the data cannot support a bound, it is NaN with a
reason, never an interval of width zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import norm
from scipy.stats import t as student

from dfnb.evaluation import metrics

ENOUGH_GROUPS = 30  # per class; from here on the cluster bootstrap is the primary interval
CHUNK = 2_000_000  # weights held at a time, so that memory stays flat
NAN = float("nan")


@dataclass(frozen=True)
class Bootstrap:
    """Hold the options of an interval: confidence, bootstrap draws (or permutations), and seed."""

    confidence: float = 0.95
    draws: int = 2000
    seed: int = 0


DEFAULT = Bootstrap()


class Interval(NamedTuple):
    """Hold an estimate with its interval; `reason` is why a bound is NaN, else empty."""

    value: float
    low: float
    high: float
    kind: str
    reason: str = ""


def words(value: float, low: float, high: float, sign: str = "+") -> str:
    """Return a difference with its interval as a text, such as "+0.050 (-0.010 to +0.110)".

    `sign` "" leaves out the plus, for a value that is no difference.
    """
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def over_draws(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's interval (low, high) of the mean of two or more independent draws."""
    values = np.asarray(values, float)
    quantile = student.ppf((1 + confidence) / 2, len(values) - 1)
    half = float(quantile * np.std(values, ddof=1) / len(values) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half


def newcombe(
    auc: ArrayLike, positives: ArrayLike, negatives: ArrayLike, confidence: float = 0.95
):
    """Return (low, high), the score interval of an AUC with Hanley and McNeil's variance.

    Newcombe (2006, Statistics in Medicine 25:559, method 5): the roots theta of
    (auc - theta)^2 = z^2 V(theta). It does not collapse at an AUC of 0 or 1. Takes numbers or
    arrays of one shape; NaN where a class is empty.
    """
    arrays = [np.asarray(value, float) for value in (auc, positives, negatives)]
    auc, positives, negatives = np.broadcast_arrays(*arrays)
    valid = (positives >= 1) & (negatives >= 1) & (auc >= 0) & (auc <= 1)
    z = norm.ppf((1 + confidence) / 2)
    low = np.where(valid, _score_bound(auc, positives, negatives, z), NAN)
    high = np.where(valid, 1 - _score_bound(1 - auc, positives, negatives, z), NAN)
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def newcombe_of(labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the AUC of scores with Newcombe's interval."""
    labels, value = np.asarray(labels), metrics.auc(labels, scores)
    bounds = newcombe(value, (labels == 1).sum(), (labels == 0).sum(), confidence)
    return Interval(value, *bounds, "Newcombe", metrics.undefined(labels, scores))


def delong(
    labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95, *, logit: bool = False
) -> Interval:
    """Return DeLong's interval (1988), on the logit scale by option.

    It is too narrow where a class has few videos.
    """
    value, kind = metrics.auc(labels, scores), "logit-DeLong" if logit else "DeLong"
    if reason := metrics.undefined(labels, scores):
        return Interval(value, NAN, NAN, kind, reason)
    error = float(delong_covariance(labels, np.atleast_2d(scores))[0, 0]) ** 0.5
    if not error > 0:
        reason = "DeLong's variance is 0 or undefined on this data"
        return Interval(value, NAN, NAN, kind, reason)
    half = float(norm.ppf((1 + confidence) / 2)) * error
    if logit:
        return Interval(value, *on_logit_scale(value, half), kind)
    return Interval(value, max(0.0, value - half), min(1.0, value + half), kind)


def delong_covariance(labels: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Return the covariance (models, models) of the AUCs of scores (models, n) (DeLong, 1988).

    It is NaN where a class has fewer than two rows, since a sample variance needs two.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    fakes, reals = scores[:, labels == 1], scores[:, labels == 0]
    if min(fakes.shape[1], reals.shape[1]) < 2:
        return np.full((len(scores), len(scores)), NAN)
    pairs = list(zip(fakes, reals, strict=True))
    of_fakes = np.cov([_placements(fake, real) for fake, real in pairs])
    of_reals = np.cov([1 - _placements(real, fake) for fake, real in pairs])
    return np.atleast_2d(of_fakes) / fakes.shape[1] + np.atleast_2d(of_reals) / reals.shape[1]


def cluster_bootstrap(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, bootstrap: Bootstrap = DEFAULT
) -> Interval:
    """Return the interval of the AUC over draws of whole groups, both classes present in each draw.

    The draws give the standard error. The interval is Student's on the logit scale, with one degree
    of freedom less than there are groups in the rarer class. In simulation it keeps its confidence
    where plain percentiles are too narrow.
    """
    value, kind = metrics.auc(labels, scores), "cluster bootstrap"
    if reason := metrics.undefined(labels, scores) or too_few_groups(labels, groups):
        return Interval(value, NAN, NAN, kind, reason)
    drawn = bootstrap_aucs(labels, np.atleast_2d(scores), groups, bootstrap)[:, 0]
    if np.ptp(drawn) == 0 or value in (0, 1):
        reason = "all draws have the same AUC, so the bootstrap shows no spread"
        return Interval(value, NAN, NAN, kind, reason)
    freedom = min(groups_per_class(labels, groups)) - 1
    quantile = float(student.ppf((1 + bootstrap.confidence) / 2, freedom))
    return Interval(value, *on_logit_scale(value, quantile * float(drawn.std(ddof=1))), kind)


def interval(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, bootstrap: Bootstrap = DEFAULT
) -> Interval:
    """Return the primary interval of a video-level AUC.

    It is the cluster bootstrap where each class has 30 groups or more and the draws spread, else
    Newcombe's.
    """
    if min(groups_per_class(labels, groups)) >= ENOUGH_GROUPS:
        drawn = cluster_bootstrap(labels, scores, groups, bootstrap)
        if not drawn.reason:
            return drawn
    return newcombe_of(labels, scores, bootstrap.confidence)


def auc_row(
    scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT, bounds: Callable[..., Interval] = interval
) -> dict[str, float | str]:
    """Return AUC, low, high, interval (its kind), reason, EER, reals and fakes of a score table.

    `scores` needs label, score and group. `bounds` is `interval` for videos and `cluster_bootstrap`
    for frames.
    """
    labels, values, groups = (scores[name].to_numpy() for name in ("label", "score", "group"))
    names = ("AUC", "low", "high", "interval", "reason")
    row = dict(zip(names, bounds(labels, values, groups, bootstrap), strict=True))
    return row | {"EER": metrics.eer(labels, values),
                  "reals": int((labels == 0).sum()), "fakes": int((labels == 1).sum())}


def bootstrap_aucs(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, bootstrap: Bootstrap = DEFAULT
) -> np.ndarray:
    """Return the AUC of each model in each draw: scores (models, n) -> (draws, models).

    A draw takes whole groups, the same ones for all models. One that lacks a class is drawn again.
    """
    if reason := metrics.undefined(labels, np.sum(scores, axis=0)):
        raise ValueError(f"there is nothing to draw from: {reason}")
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    aucs = [weighted_auc(labels, row) for row in np.asarray(scores, float)]
    rng, kept, missing = np.random.default_rng(bootstrap.seed), [], bootstrap.draws
    step = max(1, CHUNK // max(len(names), len(member)))
    while missing > 0:
        weights = _draw(rng, min(step, missing), len(names))[:, member]
        drawn = np.stack([auc(weights) for auc in aucs], axis=1)
        kept.append(drawn[~np.isnan(drawn).any(axis=1)])
        missing -= len(kept[-1])
    return np.concatenate(kept)


def weighted_auc(labels: ArrayLike, scores: ArrayLike) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from weights (draws, n) to the AUC of each draw; scores are sorted once.

    A draw without weight in a class has the AUC NaN.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    fakes, reals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    reals = reals[np.argsort(scores[reals], kind="stable")]
    below = np.searchsorted(scores[reals], scores[fakes], side="left")
    upto = np.searchsorted(scores[reals], scores[fakes], side="right")

    def auc(weights: np.ndarray) -> np.ndarray:
        total = np.zeros((len(weights), len(reals) + 1))
        np.cumsum(weights[:, reals], axis=1, out=total[:, 1:])
        fake = weights[:, fakes]
        wins = (fake * (total[:, below] + total[:, upto])).sum(axis=1) / 2
        pairs = fake.sum(axis=1) * total[:, -1]
        return np.divide(wins, pairs, out=np.full(len(weights), NAN), where=pairs > 0)

    return auc


def percentiles(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the two percentiles that leave (1 - confidence) / 2 outside on each side."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def groups_per_class(labels: ArrayLike, groups: ArrayLike) -> tuple[int, int]:
    """Return the number of identity groups of the reals and of the fakes."""
    labels, groups = np.asarray(labels), np.asarray(groups)
    return len(set(groups[labels == 0].tolist())), len(set(groups[labels == 1].tolist()))


def too_few_groups(labels: ArrayLike, groups: ArrayLike) -> str:
    """Return why groups cannot be resampled, or ""; each class needs at least two groups."""
    for count, name in zip(groups_per_class(labels, groups), ("real", "fake"), strict=True):
        if count < 2:
            return f"the {name} videos belong to fewer than two identity groups"
    return ""


def _score_bound(
    auc: np.ndarray, positives: np.ndarray, negatives: np.ndarray, z: float
) -> np.ndarray:
    """Return the lower root by bisection: left of it auc - theta - z sqrt(V(theta)) is positive."""
    half = (positives + negatives) / 2 - 1  # Newcombe's N*
    low, high = np.zeros_like(auc), auc.copy()
    for _ in range(60):  # halves [0, 1] below the precision of a float
        theta = (low + high) / 2
        inner = 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.sqrt(np.maximum(theta * (1 - theta) * inner / (positives * negatives), 0))
        left = auc - theta > z * spread
        low, high = np.where(left, theta, low), np.where(left, high, theta)
    return (low + high) / 2


def on_logit_scale(value: float, half: float) -> tuple[float, float]:
    """Return value -+ half, computed on the logit scale so that the bounds stay inside (0, 1)."""
    centre, half = np.log(value / (1 - value)), half / (value * (1 - value))
    return float(expit(centre - half)), float(expit(centre + half))


def _placements(these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return per value the share of `others` below it, ties one half."""
    others = np.sort(others)
    below, upto = (np.searchsorted(others, these, side) for side in ("left", "right"))
    return (below + upto) / (2 * len(others))


def _draw(rng: np.random.Generator, count: int, groups: int) -> np.ndarray:
    """Return how often each group is drawn, (count, groups); a row is one draw with replacement."""
    picked = rng.integers(0, groups, (count, groups)) + groups * np.arange(count)[:, None]
    drawn = np.bincount(picked.ravel(), minlength=count * groups)
    return drawn.reshape(count, groups).astype(float)


def group_weights(groups: ArrayLike, draws: int, rng: np.random.Generator, fewer: int = 0
                  ) -> np.ndarray:
    """Return how often each row is drawn when whole groups are, (draws, rows).

    A draw takes as many groups as there are, less `fewer`. With one group fewer, the variance of a
    mean over the draws is unbiased for a stratum of few groups (Rao and Wu, 1988, JASA 83:231).
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    return rng.multinomial(len(names) - fewer, share, draws)[:, member].astype(float)
