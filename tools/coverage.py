"""Simulate how often an interval of the AUC holds the true value.

`python -m tools.coverage` prints a table for test sets like those of the study (minutes).
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm

from dfnb.evaluation import cross_fitting, intervals
from dfnb.evaluation.intervals import Bootstrap, Interval

KINDS: dict[str, Callable[..., Interval]] = {
    "Newcombe": lambda labels, scores, groups: intervals.newcombe_of(labels, scores),
    "DeLong": lambda labels, scores, groups: intervals.delong(labels, scores),
    "cluster bootstrap": lambda labels, scores, groups: intervals.cluster_bootstrap(
        labels, scores, groups, Bootstrap(draws=300)),
}


def samples(auc: float, reals: int, fakes: int, *, within: float = 0.0, spread: float = 1.0,
            repeats: int = 1000, seed: int = 0) -> Iterator[tuple]:
    """Yield labels, binormal scores and groups (n,) of test sets whose true AUC is `auc`.

    Two identities make a group, and `within` is the share of variance that they have in common.
    `spread` is the deviation of the reals divided by that of the fakes, whose deviation is 1.
    """
    labels = np.repeat([0, 1], [reals, fakes])
    groups = np.concatenate([np.arange(reals), np.arange(fakes)]) // 2
    shift = np.sqrt(1 + spread**2) * norm.ppf(auc)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        shared = rng.standard_normal(groups.max() + 1)[groups]
        noise = np.sqrt(within) * shared + np.sqrt(1 - within) * rng.standard_normal(len(labels))
        yield labels, np.where(labels, noise + shift, spread * noise), groups


def coverage(auc: float, reals: int, fakes: int, kinds: Mapping[str, Callable] = KINDS,
             **options) -> pd.DataFrame:
    """Return for each kind of interval its coverage, mean width, and share of undefined ones.

    An undefined interval does not cover the true value. `options` are those of `samples`.
    """
    rows = []
    for sample in samples(auc, reals, fakes, **options):
        for kind, of in kinds.items():
            found = of(*sample)
            rows.append({"kind": kind, "coverage": found.low <= auc <= found.high,
                         "width": found.high - found.low, "undefined": np.isnan(found.low)})
    return pd.DataFrame(rows).groupby("kind", sort=False).mean()


def cross_fitted(groups: int, folds: int = 5, *, first: float = 0.8, second: float = 0.75,
                 within: float = 0.0, spread: float = 1.0, repeats: int = 1000, seed: int = 0
                 ) -> pd.Series:
    """Return how often the intervals of an AUC and of a difference hold the true value.

    Every identity group has two reals and two fakes. The scores of two detectors correlate by 0.7,
    and those of a fold have an offset in common.
    """
    rng = np.random.default_rng(seed)
    group = np.tile(np.repeat(np.arange(groups), 2), 2)
    labels = np.repeat([0, 1], 2 * groups)
    key = {"corpus": "c", "manipulation": labels.astype(str), "video": np.arange(4 * groups)}
    videos = pd.DataFrame({**key, "label": labels, "group": group, "fold": group % folds})

    def noise() -> np.ndarray:
        shared = rng.standard_normal(groups)[group]
        return np.sqrt(within) * shared + np.sqrt(1 - within) * rng.standard_normal(len(group))

    rows = []
    for _ in range(repeats):
        common, offset = noise(), rng.standard_normal(folds)[group % folds]
        tables = []
        for auc in (first, second):
            value, shift = np.sqrt(0.7) * common + np.sqrt(0.3) * noise(), norm.ppf(auc)
            score = np.where(labels == 1, value + np.sqrt(1 + spread**2) * shift, spread * value)
            tables.append(videos.assign(score=score + offset))
        bootstrap = Bootstrap(draws=300)
        auc = cross_fitting.auc(tables[0], bootstrap)
        gap = cross_fitting.difference(*tables, bootstrap)
        rows.append({"AUC": auc.low <= first <= auc.high,
                     "difference": gap.low <= first - second <= gap.high})
    return pd.DataFrame(rows).mean()


def main() -> None:
    """Print the coverage for few and many reals, within groups and with unequal spreads."""
    for options in ({}, {"within": 0.3}, {"within": 0.3, "spread": 2.5}):
        for reals, fakes in ((10, 100), (50, 50), (140, 140)):
            print(f"AUC 0.8, {reals} reals, {fakes} fakes, {options or 'equal spread'}")
            print(coverage(0.8, reals, fakes, **options).to_string(), "\n")
        for groups in (10, 50, 100):
            print(f"cross-fitted, {groups} groups in 5 folds, {options or 'equal spread'}")
            print(cross_fitted(groups, **options).to_string(), "\n")


if __name__ == "__main__":
    main()
