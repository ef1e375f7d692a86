"""Compare two models on the same videos: paired tests, the interval of the difference, power."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from dfnb import KEY, UserError
from dfnb.evaluation import metrics
from dfnb.evaluation.intervals import (
    CHUNK,
    DEFAULT,
    NAN,
    Bootstrap,
    bootstrap_aucs,
    delong_covariance,
    groups_per_class,
    weighted_auc,
)

POWER = 0.8
LEAST_GROUPS = 5  # from here on, `tools.coverage` finds that 92 % or more hold the true difference


def table(
    first: pd.DataFrame, second: pd.DataFrame, bootstrap: Bootstrap = DEFAULT,
    by: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare two tables of test scores on common videos: a row of `compare` per value of `by`.

    The tables hold frames or videos. Raises UserError where no video is in both, or where a video
    has another label in the second table.
    """
    videos = metrics.to_videos(first), metrics.to_videos(second)
    both = videos[0].merge(
        videos[1], on=[*KEY, *by], suffixes=("", "_other"), validate="one_to_one")
    if both.empty:
        names = [repr(one["video"].iloc[0]) if len(one) else "nothing" for one in videos]
        raise UserError(
            f"the two models have no test video in common (such as {names[0]} and {names[1]}); "
            "names and manipulations must be spelled alike")
    if (wrong := both["label"] != both["label_other"]).any():
        raise UserError(f"video {both.loc[wrong, 'video'].iloc[0]!r} has two different labels")
    pieces = both.groupby(list(by)) if by else [((), both)]
    return pd.DataFrame([
        dict(zip(by, values, strict=True))
        | compare(rows["label"], rows["score"], rows["score_other"], rows["group"], bootstrap)
        for values, rows in pieces])


def compare(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, groups: ArrayLike,
    bootstrap: Bootstrap = DEFAULT,
) -> dict[str, float | str]:
    """Return the paired comparison of two models on the same videos, with a sentence in `says`.

    Keys: AUC_first, AUC_second, difference, low, high, p_permutation, p_delong, delong_low,
    delong_high, detectable (at 80 % power), reals, fakes, groups, reason, says. The interval is
    Student's on the deviation over draws of whole groups, with one degree of freedom less than
    there are groups in the rarer class; there is none below `LEAST_GROUPS`.
    """
    labels = np.asarray(labels)
    if not len(labels) == len(first) == len(second) == len(groups):
        raise UserError(
            "a paired comparison needs the same videos in the same order for both models")
    confidence = bootstrap.confidence
    drawn, difference, reason = _differences(labels, first, second, groups, bootstrap)
    low, high, detectable = NAN, NAN, NAN
    if not reason:
        freedom = min(groups_per_class(labels, groups)) - 1
        half = float(student.ppf((1 + confidence) / 2, freedom) * drawn.std(ddof=1))
        low, high = max(difference - half, -1.0), min(difference + half, 1.0)
        detectable = detectable_difference(float(drawn.std(ddof=1)), confidence)
    delong = paired_delong(labels, first, second, confidence)
    row = {
        "AUC_first": metrics.auc(labels, first),
        "AUC_second": metrics.auc(labels, second),
        "difference": difference,
        "low": low,
        "high": high,
        "p_permutation": paired_permutation(labels, first, second, groups, bootstrap),
        "p_delong": delong["p"],
        "delong_low": delong["low"],
        "delong_high": delong["high"],
        "detectable": detectable,
        "reals": int((labels == 0).sum()),
        "fakes": int((labels == 1).sum()),
        "groups": len(np.unique(np.asarray(groups))),
        "reason": reason,
    }
    return {**row, "says": _sentence(row, confidence)}


def paired_permutation(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, groups: ArrayLike,
    bootstrap: Bootstrap = DEFAULT,
) -> float:
    """Return the two-sided p-value of AUC(first) = AUC(second), swapping models group by group.

    Scores are turned into ranks within each model first, so that models on two scales can be
    swapped. The p-value counts the observed labelling too and is never 0.
    """
    if metrics.undefined(labels, first) or metrics.undefined(labels, second):
        return NAN
    labels, ranks = np.asarray(labels), np.array([rankdata(first), rankdata(second)])
    observed = abs(metrics.auc(labels, ranks[0]) - metrics.auc(labels, ranks[1]))
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    auc = weighted_auc(np.tile(labels, 2), ranks.ravel())  # weights choose a row of either model
    rng, extreme = np.random.default_rng(bootstrap.seed), 0
    step = max(1, CHUNK // (2 * len(member)))
    for start in range(0, bootstrap.draws, step):
        count = min(step, bootstrap.draws - start)
        kept = rng.integers(0, 2, (count, len(names))).astype(float)[:, member]
        difference = auc(np.hstack([kept, 1 - kept])) - auc(np.hstack([1 - kept, kept]))
        extreme += int((np.abs(difference) >= observed - 1e-12).sum())
    return (1 + extreme) / (1 + bootstrap.draws)


def paired_delong(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, confidence: float = 0.95
) -> dict[str, float]:
    """Return low, high and two-sided p of DeLong's paired test (1988).

    It takes videos as independent, so it is the second opinion.
    """
    difference = metrics.auc(labels, first) - metrics.auc(labels, second)
    error = NAN
    if not np.isnan(difference):
        covariance = delong_covariance(labels, np.array([first, second], float))
        variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        error = max(variance, 0.0) ** 0.5
    if not error > 0:
        return {"low": NAN, "high": NAN, "p": NAN}
    half = float(norm.ppf((1 + confidence) / 2)) * error
    p = float(2 * norm.sf(abs(difference) / error))
    return {"low": difference - half, "high": difference + half, "p": p}


def detectable_difference(error: float, confidence: float = 0.95) -> float:
    """Return the true difference that a two-sided test finds with 80 % power, from its error."""
    return float((norm.ppf((1 + confidence) / 2) + norm.ppf(POWER)) * error)


def _differences(
    labels: np.ndarray, first: ArrayLike, second: ArrayLike, groups: ArrayLike,
    bootstrap: Bootstrap,
) -> tuple[np.ndarray, float, str]:
    """Return the bootstrapped differences, the observed one, and why there is no interval."""
    value = metrics.auc(labels, first) - metrics.auc(labels, second)
    reason = metrics.undefined(labels, first) or metrics.undefined(labels, second)
    least = min(groups_per_class(labels, groups))
    if not reason and least < LEAST_GROUPS:
        reason = f"the rarer class has {least} identity groups, {LEAST_GROUPS} are needed"
    if reason:
        return np.empty(0), value, reason
    aucs = bootstrap_aucs(labels, np.array([first, second], float), groups, bootstrap)
    drawn = aucs[:, 0] - aucs[:, 1]
    if np.ptp(drawn) == 0:
        reason = "all draws have the same difference, so the bootstrap shows no spread"
    return drawn, value, reason


def _sentence(row: dict, confidence: float) -> str:
    """Word the result; what is not significant is never called "no difference"."""
    if row["reason"]:
        return f"The difference has no interval: {row['reason']}."
    low, high = row["low"], row["high"]
    seen = f"{row['difference']:+.3f}, {confidence:.0%} interval {low:+.3f} to {high:+.3f}"
    if low > 0 or high < 0:
        better = "first" if row["difference"] > 0 else "second"
        return f"The {better} model ranks these videos better ({seen})."
    return (
        f"These videos do not tell the two models apart ({seen}); "
        f"a true difference of {row['detectable']:.3f} would be found four times in five.")
