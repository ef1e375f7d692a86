"""What a test set can show: coverage of intervals, power, and the optimism of picking the best cell.

The simulations draw binormal scores (reals around 0, fakes around sqrt(2) probit(AUC), unit variance), from
a seed.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm

from dfnb.evaluation import intervals, metrics
from dfnb.evaluation.intervals import CHUNK, NAN, Bootstrap

HALVES = Bootstrap(draws=500)  # random halves of the identity groups


def coverage(
    auc: float,
    reals: int,
    fakes: int,
    *,
    confidence: float = 0.95,
    repeats: int = 1000,
    within: float = 0.0,
    bootstrap_draws: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how often each kind of interval holds the true AUC: kind, coverage, width, undefined.

    `within` is the share of variance that the two identities of a pair have in common (fakes and reals
    alike). `bootstrap_draws` > 0 adds the cluster bootstrap, which takes most of the time. An undefined
    interval covers not.
    """
    labels = np.repeat([0, 1], [reals, fakes])
    groups = np.concatenate([np.arange(reals), np.arange(fakes)]) // 2
    rng, rows = np.random.default_rng(seed), []
    for _ in range(repeats):
        shared = rng.standard_normal(groups.max() + 1)[groups]
        noise = np.sqrt(within) * shared + np.sqrt(1 - within) * rng.standard_normal(len(labels))
        rows += _intervals(labels, noise + _shift(auc) * labels, groups, confidence, bootstrap_draws, seed)
    table = pd.DataFrame([row._asdict() for row in rows])
    score = table["kind"] == "Newcombe"  # all at once, since its roots are found by bisection
    bounds = intervals.newcombe(table.loc[score, "value"], fakes, reals, confidence)
    table.loc[score, ["low", "high"]] = np.column_stack(bounds)
    table = table.assign(
        coverage=(table["low"] <= auc) & (auc <= table["high"]),
        width=table["high"] - table["low"],
        undefined=table["low"].isna(),
    )
    return table.groupby("kind", sort=False)[["coverage", "width", "undefined"]].mean().reset_index()


def power(
    first: float,
    second: float,
    reals: int,
    fakes: int,
    *,
    correlation: float = 0.7,
    confidence: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> float:
    """Return how often the paired DeLong test tells two AUCs apart whose scores correlate within a class."""
    shifts, found = np.array([_shift(first), _shift(second)]), []
    for real, fake in _models(shifts, reals, fakes, correlation, repeats, seed):
        of_fakes, of_reals = _placements(real, fake)
        gaps = (
            of_fakes[:, 0] - of_fakes[:, 1],
            of_reals[:, 0] - of_reals[:, 1],
        )  # (repeats, fakes), (repeats, reals)
        variance = sum(gap.var(axis=1, ddof=1) / gap.shape[1] for gap in gaps)
        found.append(np.abs(gaps[0].mean(axis=1)) > norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return float(np.concatenate(found).mean())


def expected_optimism(
    cells: int, auc: float, reals: int, fakes: int, *, correlation: float, repeats: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Return what choosing the best of `cells` equally good cells on the test set adds to its AUC.

    `correlation` is that of two cells' scores within a class. Keys: optimism (mean), low, high (the middle
    95 % of the best cell's AUC), spread (mean distance from the best to the worst cell).
    """
    shifts, best, spread = np.full(cells, _shift(auc)), [], []
    for real, fake in _models(shifts, reals, fakes, correlation, repeats, seed):
        aucs = _placements(real, fake)[0].mean(axis=2)  # (repeats, cells)
        best.append(aucs.max(axis=1))
        spread.append(np.ptp(aucs, axis=1))
    best = np.concatenate(best)
    low, high = intervals.percentiles(best, 0.95)
    return {
        "optimism": float(best.mean() - auc),
        "low": low,
        "high": high,
        "spread": float(np.concatenate(spread).mean()),
    }


def optimism_of_best(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, bootstrap: Bootstrap = HALVES
) -> dict[str, float | str]:
    """Return the optimism of reporting the best of K cells chosen on the test set, from scores (cells, n).

    Nested estimate: choose on a random half of the identity groups, evaluate the chosen cell on the other
    half. A half is noisier than the whole by sqrt(2), so the mean gap is divided by it. Keys: best (index),
    apparent (its AUC), nested (mean AUC of the chosen cell on the unused half), optimism, reason.
    """
    scores, labels = np.atleast_2d(np.asarray(scores, float)), np.asarray(labels)
    whole = np.array([metrics.auc(labels, row) for row in scores])
    reason = metrics.undefined(labels, scores.mean(axis=0)) or intervals.too_few_groups(labels, groups)
    if reason:
        return {"best": -1, "apparent": NAN, "nested": NAN, "optimism": NAN, "reason": reason}
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(bootstrap.seed)
    order = rng.random((bootstrap.draws, len(names))).argsort(axis=1).argsort(axis=1)
    chosen_half = (order < len(names) // 2).astype(float)[:, member]
    aucs = [intervals.weighted_auc(labels, row) for row in scores]
    here = np.stack([auc(chosen_half) for auc in aucs], axis=1)
    there = np.stack([auc(1 - chosen_half) for auc in aucs], axis=1)
    both = ~np.isnan(here).any(axis=1) & ~np.isnan(there).any(axis=1)
    best = here[both].argmax(axis=1)
    nested = there[both][np.arange(both.sum()), best]
    gap = here[both].max(axis=1) - nested
    return {
        "best": int(whole.argmax()),
        "apparent": float(whole.max()),
        "nested": float(nested.mean()) if both.any() else NAN,
        "optimism": float(gap.mean() / np.sqrt(2)) if both.any() else NAN,
        "reason": "" if both.any() else "no half of the groups holds both classes",
    }


def _intervals(labels, scores, groups, confidence: float, bootstrap_draws: int, seed: int) -> list[intervals.Interval]:
    """Return the intervals of one sample; Newcombe's is left open."""
    found = [
        intervals.Interval(metrics.auc(labels, scores), NAN, NAN, "Newcombe"),
        intervals.delong(labels, scores, confidence),
        intervals.delong(labels, scores, confidence, logit=True),
    ]
    if bootstrap_draws:
        bootstrap = Bootstrap(confidence, bootstrap_draws, seed)
        found += [
            intervals.cluster_bootstrap(labels, scores, groups, bootstrap, percentile=percentile)
            for percentile in (False, True)
        ]
    return found


def _shift(auc: float) -> float:
    return float(np.sqrt(2) * norm.ppf(auc))


def _models(
    shifts: np.ndarray, reals: int, fakes: int, correlation: float, repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield scores of reals (repeats, models, reals) and fakes (repeats, models, fakes), piece by piece."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // (len(shifts) * reals * fakes))

    def scores(count: int, size: int) -> np.ndarray:
        common = rng.standard_normal((count, 1, size))
        own = rng.standard_normal((count, len(shifts), size))
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    for start in range(0, repeats, step):
        count = min(step, repeats - start)
        yield scores(count, reals), scores(count, fakes) + shifts[:, None]


def _placements(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of reals below each fake and of fakes above each real; there are no ties."""
    above = fake[..., :, None] > real[..., None, :]  # (repeats, models, fakes, reals)
    return above.mean(axis=-1), above.mean(axis=-2)
