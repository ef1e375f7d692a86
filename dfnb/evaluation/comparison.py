"""Two models on the same videos: paired tests, the interval of the difference, what could have been seen."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from dfnb import UserError
from dfnb.evaluation import metrics
from dfnb.evaluation.intervals import (
    CHUNK,
    DEFAULT,
    NAN,
    Bootstrap,
    Interval,
    bootstrap_aucs,
    delong_covariance,
    percentiles,
    too_few_groups,
    weighted_auc,
)

POWER = 0.8


def paired_bootstrap(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike,
    bootstrap: Bootstrap = DEFAULT,
) -> Interval:
    """Return AUC(first) - AUC(second) with its percentile interval over draws of whole identity groups."""
    drawn, value, reason = _differences(labels, first, second, groups, bootstrap)
    if reason:
        return Interval(value, NAN, NAN, "paired cluster bootstrap", reason)
    return Interval(value, *percentiles(drawn, bootstrap.confidence), "paired cluster bootstrap")


def paired_permutation(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike,
    bootstrap: Bootstrap = DEFAULT,
) -> float:
    """Return the two-sided p-value of AUC(first) = AUC(second), swapping the models group by group.

    Scores are turned into ranks within each model first, so that models on two scales can be swapped.
    The p-value counts the observed labelling too and is never 0.
    """
    ranks = _ranks(labels, first, second)
    if ranks is None:
        return NAN
    labels = np.asarray(labels)
    observed = abs(metrics.auc(labels, ranks[0]) - metrics.auc(labels, ranks[1]))
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    auc = weighted_auc(np.tile(labels, 2), ranks.ravel())  # a swapped model chooses among both models' rows
    rng, extreme = np.random.default_rng(bootstrap.seed), 0
    step = max(1, CHUNK // (2 * len(member)))
    for start in range(0, bootstrap.draws, step):
        kept = rng.integers(0, 2, (min(step, bootstrap.draws - start), len(names))).astype(float)[:, member]
        difference = auc(np.hstack([kept, 1 - kept])) - auc(np.hstack([1 - kept, kept]))
        extreme += int((np.abs(difference) >= observed - 1e-12).sum())
    return (1 + extreme) / (1 + bootstrap.draws)


def paired_delong(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, confidence: float = 0.95
) -> dict[str, float]:
    """Return DeLong's paired test (1988): difference, standard error, low, high and two-sided p.

    It takes videos as independent, so it is the second opinion.
    """
    scores = np.array([first, second], float)
    difference = metrics.auc(labels, first) - metrics.auc(labels, second)
    covariance = delong_covariance(labels, scores) if not np.isnan(difference) else np.full((2, 2), NAN)
    error = max(float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]), 0.0) ** 0.5
    if not error > 0:
        return {"difference": difference, "error": NAN, "low": NAN, "high": NAN, "p": NAN}
    half = float(norm.ppf((1 + confidence) / 2)) * error
    return {
        "difference": difference,
        "error": error,
        "low": difference - half,
        "high": difference + half,
        "p": float(2 * norm.sf(abs(difference) / error)),
    }


def detectable_difference(error: float, *, confidence: float = 0.95, power: float = POWER) -> float:
    """Return the true difference that a two-sided test finds with this power, from its standard error."""
    return float((norm.ppf((1 + confidence) / 2) + norm.ppf(power)) * error)


def compare(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike,
    bootstrap: Bootstrap = DEFAULT,
) -> dict[str, float | str]:
    """Return the paired comparison of two models on the same videos as one row, with a sentence in `says`.

    Keys: AUC_first, AUC_second, difference, low, high (paired cluster bootstrap), p_permutation, p_delong,
    delong_low, delong_high, detectable (at 80 % power), reals, fakes, groups, reason, says.
    """
    labels = np.asarray(labels)
    if not len(labels) == len(first) == len(second) == len(groups):
        raise UserError("a paired comparison needs the same videos in the same order for both models")
    drawn, difference, reason = _differences(labels, first, second, groups, bootstrap)
    low, high = (NAN, NAN) if reason else percentiles(drawn, bootstrap.confidence)
    second_opinion = paired_delong(labels, first, second, bootstrap.confidence)
    row = {
        "AUC_first": metrics.auc(labels, first),
        "AUC_second": metrics.auc(labels, second),
        "difference": difference,
        "low": low,
        "high": high,
        "p_permutation": paired_permutation(labels, first, second, groups, bootstrap),
        "p_delong": second_opinion["p"],
        "delong_low": second_opinion["low"],
        "delong_high": second_opinion["high"],
        "detectable": NAN if reason else detectable_difference(float(drawn.std(ddof=1)), confidence=bootstrap.confidence),
        "reals": int((labels == 0).sum()),
        "fakes": int((labels == 1).sum()),
        "groups": len(np.unique(np.asarray(groups))),
        "reason": reason,
    }
    return {**row, "says": _sentence(row, bootstrap.confidence)}


def seed_spread(
    labels: ArrayLike,
    scores: Sequence[ArrayLike],
    groups: ArrayLike,
    bootstrap: Bootstrap = DEFAULT,
) -> dict[str, float]:
    """Return the spread by training seed and by test sampling, two different numbers, for scores (seeds, n).

    `seed_sd`, `seed_min` and `seed_max` describe the AUCs of the seeds on the same test videos;
    `sampling_sd`, `low` and `high` the mean AUC over seeds had other identity groups been tested (cluster
    bootstrap).
    """
    scores = np.atleast_2d(np.asarray(scores, float))
    aucs = np.array([metrics.auc(labels, row) for row in scores])
    result = {
        "seeds": len(aucs),
        "mean": float(aucs.mean()),
        "seed_sd": float(aucs.std(ddof=1)) if len(aucs) > 1 else NAN,
        "seed_min": float(aucs.min()),
        "seed_max": float(aucs.max()),
        "sampling_sd": NAN,
        "low": NAN,
        "high": NAN,
    }
    if not np.isnan(aucs).any() and not too_few_groups(labels, groups):
        drawn = bootstrap_aucs(labels, scores, groups, bootstrap).mean(axis=1)
        low, high = percentiles(drawn, bootstrap.confidence)
        result |= {"sampling_sd": float(drawn.std(ddof=1)), "low": low, "high": high}
    return result


def _differences(labels, first, second, groups, bootstrap: Bootstrap) -> tuple[np.ndarray, float, str]:
    """Return the bootstrapped differences, the observed one, and why there are none."""
    value = metrics.auc(labels, first) - metrics.auc(labels, second)
    reason = metrics.undefined(labels, first) or metrics.undefined(labels, second)
    if reason := reason or too_few_groups(labels, groups):
        return np.empty(0), value, reason
    aucs = bootstrap_aucs(labels, np.array([first, second], float), groups, bootstrap)
    drawn = aucs[:, 0] - aucs[:, 1]
    if np.ptp(drawn) == 0:
        return drawn, value, "all draws have the same difference, so the bootstrap shows no spread"
    return drawn, value, ""


def _ranks(labels, first, second) -> np.ndarray | None:
    if metrics.undefined(labels, first) or metrics.undefined(labels, second):
        return None
    return np.array([rankdata(first), rankdata(second)])


def _sentence(row: dict, confidence: float) -> str:
    """Word the result; what is not significant is never called "no difference"."""
    if row["reason"]:
        return f"The difference has no interval: {row['reason']}."
    seen = f"{row['difference']:+.3f}, {confidence:.0%} interval {row['low']:+.3f} to {row['high']:+.3f}"
    if row["low"] > 0 or row["high"] < 0:
        better = "first" if row["difference"] > 0 else "second"
        return f"The {better} model ranks these videos better ({seen})."
    return (
        f"These videos do not tell the two models apart ({seen}); "
        f"a true difference of {row['detectable']:.3f} would be found four times in five."
    )
