"""Estimate the optimism of picking the best model on the test set.

The simulations draw binormal scores: reals around 0, fakes around sqrt(2) probit(AUC), with unit
variance.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from dfnb.evaluation import intervals, metrics
from dfnb.evaluation.intervals import CHUNK, NAN, Bootstrap

HALVES = Bootstrap(draws=500)  # random halves of the identity groups


def expected_optimism(
    models: int, auc: float, reals: int, fakes: int, *,
    correlation: float, repeats: int = 1000, seed: int = 0,
) -> dict[str, float]:
    """Return what choosing the best of `models` equally good models on test adds to its AUC.

    `correlation` is that of two models' scores within a class. Keys: optimism (mean), low, high
    (the middle 95 % of the best model's AUC), spread (mean distance from the best to the worst).
    """
    samples = _samples([auc] * models, reals, fakes, correlation, repeats, seed)
    aucs = np.concatenate([by_fake.mean(axis=2) for by_fake, _ in samples])  # (repeats, models)
    best = aucs.max(axis=1)
    low, high = intervals.percentiles(best, 0.95)
    spread = float(np.ptp(aucs, axis=1).mean())
    return {"optimism": float(best.mean() - auc), "low": low, "high": high, "spread": spread}


def correlation_of_spread(
    models: int, auc: float, reals: int, fakes: int, spread: float, *, repeats: int = 400,
    seed: int = 0,
) -> float:
    """Return the correlation at which equally good models spread over `spread` (best - worst).

    It is that of two models' scores within a class. Equal models that correlate more lie closer
    together. The result lies on a grid of 0.01 from 0 to 0.99; NaN where even uncorrelated models
    spread less, and 0.99 where they lie closer than that.
    """
    def above(correlation: float) -> bool:
        found = expected_optimism(models, auc, reals, fakes, correlation=correlation,
                                  repeats=repeats, seed=seed)
        return found["spread"] >= spread

    low, high = 0, 99
    if not above(0.0):
        return NAN
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if above(middle / 100) else (low, middle - 1)
    return low / 100


def optimism_of_best(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, bootstrap: Bootstrap = HALVES
) -> dict[str, float | str]:
    """Return the optimism of reporting the best of K models chosen on the test set.

    `scores` are those of the models, (models, n). Nested estimate: choose on a random half of the
    identity groups, evaluate the chosen model on the other half. A half is noisier than the whole
    by sqrt(2), so the mean gap is divided by it. Keys: best (index), apparent (its AUC), nested
    (mean AUC of the chosen model on the unused half), optimism, reason.
    """
    scores, labels = np.atleast_2d(np.asarray(scores, float)), np.asarray(labels)
    row = {"best": -1, "apparent": NAN, "nested": NAN, "optimism": NAN}
    reason = metrics.undefined(labels, scores.mean(axis=0))
    if reason := reason or intervals.too_few_groups(labels, groups):
        return {**row, "reason": reason}
    whole = np.array([metrics.auc(labels, model) for model in scores])
    row |= {"best": int(whole.argmax()), "apparent": float(whole.max())}
    half = _halves(groups, bootstrap)
    aucs = [intervals.weighted_auc(labels, model) for model in scores]
    here, there = (np.stack([auc(weights) for auc in aucs], axis=1) for weights in (half, 1 - half))
    both = ~np.isnan(here).any(axis=1) & ~np.isnan(there).any(axis=1)
    if not both.any():
        return {**row, "reason": "no half of the groups holds both classes"}
    nested = there[both][np.arange(both.sum()), here[both].argmax(axis=1)]
    gap = here[both].max(axis=1) - nested
    row |= {"nested": float(nested.mean()), "optimism": float(gap.mean() / np.sqrt(2))}
    return {**row, "reason": ""}


def _halves(groups: ArrayLike, bootstrap: Bootstrap) -> np.ndarray:
    """Return random halves of the groups, as weights 0 and 1 (draws, n)."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(bootstrap.seed)
    order = rng.random((bootstrap.draws, len(names))).argsort(axis=1).argsort(axis=1)
    return (order < len(names) // 2).astype(float)[:, member]


def _samples(
    aucs: list[float], reals: int, fakes: int, correlation: float, repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield placements of fakes (repeats, models, fakes) and reals (repeats, models, reals).

    A fake's placement is the share of reals below it, a real's that of fakes above it. There are
    no ties. A chunk of the repeats is drawn at a time.
    """
    shifts = np.sqrt(2) * norm.ppf(aucs)
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // (len(shifts) * reals * fakes))

    def scores(count: int, size: int) -> np.ndarray:
        common = rng.standard_normal((count, 1, size))
        own = rng.standard_normal((count, len(shifts), size))
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    for start in range(0, repeats, step):
        count = min(step, repeats - start)
        real, fake = scores(count, reals), scores(count, fakes) + shifts[:, None]
        above = fake[..., :, None] > real[..., None, :]  # (repeats, models, fakes, reals)
        yield above.mean(axis=-1), above.mean(axis=-2)
