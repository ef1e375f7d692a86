"""Simulate how often an interval of the AUC holds the true value.

`python -m tools.coverage` prints a table for test sets like those of the study (minutes).
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm

from dfnb.evaluation import intervals
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


def main() -> None:
    """Print the coverage for few and many reals, within groups and with unequal spreads."""
    for reals, fakes in ((10, 100), (50, 50), (140, 140)):
        for options in ({}, {"within": 0.3}, {"spread": 2.5}):
            print(f"AUC 0.8, {reals} reals, {fakes} fakes, {options or 'equal spread'}")
            print(coverage(0.8, reals, fakes, **options).to_string(), "\n")


if __name__ == "__main__":
    main()
