"""Simulate how often an interval of the AUC holds the true value.

`python -m tools.coverage` prints a table for test sets like those of the study, and writes those of
cross-fitted detectors and of paired differences into book/_static, which the methods page shows
(twenty minutes).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm

from dfnb import files
from dfnb.evaluation import comparison, cross_fitting, intervals
from dfnb.evaluation.intervals import Bootstrap, Interval

FEW = Bootstrap(draws=300)
KINDS: dict[str, Callable[..., Interval]] = {
    "Newcombe": lambda labels, scores, groups: intervals.newcombe_of(labels, scores),
    "DeLong": lambda labels, scores, groups: intervals.delong(labels, scores),
    "cluster bootstrap": lambda labels, scores, groups: intervals.cluster_bootstrap(
        labels, scores, groups, FEW),
}
CORRELATION = 0.7  # of the scores of two detectors within a class
AUCS = 0.8, 0.75  # of two cross-fitted detectors
DESIGNS = ((0.0, 1.0), (0.3, 1.0), (0.3, 2.5))  # `within` and `spread` of the tables


def noise(group: np.ndarray, within: float, rng: np.random.Generator) -> np.ndarray:
    """Return normal noise (n,) of variance 1, of which groups have the share `within` in common."""
    shared = rng.standard_normal(group.max() + 1)[group]
    return np.sqrt(within) * shared + np.sqrt(1 - within) * rng.standard_normal(len(group))


def binormal(labels: np.ndarray, values: np.ndarray, auc: float, spread: float) -> np.ndarray:
    """Return scores (n,) with a true AUC of standard normal values.

    `spread` is the deviation of the reals divided by that of the fakes, whose deviation is 1.
    """
    return np.where(labels == 1, values + np.sqrt(1 + spread**2) * norm.ppf(auc), spread * values)


def samples(auc: float, reals: int, fakes: int, *, within: float = 0.0, spread: float = 1.0,
            repeats: int = 1000, seed: int = 0) -> Iterator[tuple]:
    """Yield labels, scores and groups (n,) of test sets."""
    labels, groups = classes(reals, fakes)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        yield labels, binormal(labels, noise(groups, within, rng), auc, spread), groups


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


def cross_fitted(groups: int, folds: int = 5, *, within: float = 0.0, spread: float = 1.0,
                 repeats: int = 1000, seed: int = 0) -> pd.Series:
    """Return how often the intervals of cross-fitted detectors hold the true value.

    They are those of an AUC, of a difference, of an EER, and of rates at one threshold. Every
    identity group has two reals and two fakes, and the scores of a fold have an offset in common.
    """
    rng = np.random.default_rng(seed)
    group = np.tile(np.repeat(np.arange(groups), 2), 2)
    labels, fold = np.repeat([0, 1], 2 * groups), group % folds
    videos = pd.DataFrame({"corpus": "c", "manipulation": labels.astype(str),
                           "video": np.arange(4 * groups), "label": labels, "group": group,
                           "fold": fold})
    threshold = np.sqrt(1 + spread**2) * norm.ppf(AUCS[0]) / 2
    tnr, tpr = norm.cdf(threshold / spread), norm.cdf(np.sqrt(1 + spread**2)
                                                      * norm.ppf(AUCS[0]) - threshold)
    true = {"balanced": (tnr + tpr) / 2, "ACC": (tnr + tpr) / 2,
            "F1": 2 * tpr / (1 + tpr + 1 - tnr)}
    error = norm.cdf(-np.sqrt(1 + spread**2) * norm.ppf(AUCS[0]) / (1 + spread))
    rows = []
    for _ in range(repeats):
        common, offset = noise(group, within, rng), rng.standard_normal(folds)[fold]
        tables = [videos.assign(score=scores + offset, threshold=threshold + offset)
                  for scores in two_detectors(labels, group, common, within, spread, rng)]
        found = {"AUC": (cross_fitting.auc(tables[0], FEW), AUCS[0]),
                 "difference": (cross_fitting.difference(*tables, FEW), AUCS[0] - AUCS[1]),
                 "EER": (cross_fitting.eer(tables[0], FEW), error)}
        of_rates = cross_fitting.rates(tables[0], FEW)
        found |= {name: (of_rates[name], value) for name, value in true.items()}
        rows.append({name: one.low <= value <= one.high for name, (one, value) in found.items()})
    return pd.DataFrame(rows).mean()


def two_detectors(labels: np.ndarray, groups: np.ndarray, common: np.ndarray, within: float,
                  spread: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the scores (n,) of two detectors with the true `AUCS`, which share `common` noise."""
    return [binormal(labels, np.sqrt(CORRELATION) * common
                     + np.sqrt(1 - CORRELATION) * noise(groups, within, rng), auc, spread)
            for auc in AUCS]


def classes(reals: int, fakes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and groups (n,) of a test set; two identities make a group."""
    groups = np.concatenate([np.arange(reals), np.arange(fakes)]) // 2
    return np.repeat([0, 1], [reals, fakes]), groups


def paired(reals: int, fakes: int, *, within: float = 0.0, spread: float = 1.0,
           repeats: int = 1000, seed: int = 0) -> float:
    """Return how often the interval of `comparison.compare` holds the true difference of AUCs."""
    (labels, groups), rng, hits = classes(reals, fakes), np.random.default_rng(seed), 0
    for _ in range(repeats):
        common = noise(groups, within, rng)
        scores = two_detectors(labels, groups, common, within, spread, rng)
        found = comparison.compare(labels, *scores, groups, FEW)
        hits += found["low"] <= AUCS[0] - AUCS[1] <= found["high"]
    return hits / repeats


def main() -> None:
    """Print the coverage of the kinds of intervals, and write that of cross-fitted detectors."""
    for (within, spread), (reals, fakes) in itertools.product(
            DESIGNS, ((10, 100), (50, 50), (140, 140))):
        print(f"AUC 0.8, {reals} reals, {fakes} fakes, shared variance {within}, spread {spread}")
        print(coverage(0.8, reals, fakes, within=within, spread=spread).to_string(), "\n")
    rows = [{"groups": groups, "shared variance": within, "spread of the reals": spread}
            | cross_fitted(groups, within=within, spread=spread).round(3).to_dict()
            for groups, (within, spread) in itertools.product((10, 50, 100), DESIGNS)]
    pairs = [{"reals": reals, "fakes": fakes, "shared variance": within,
              "spread of the reals": spread,
              "difference": round(paired(reals, fakes, within=within, spread=spread), 3)}
             for (reals, fakes), (within, spread) in itertools.product(
                 ((10, 10), (10, 100), (20, 20), (100, 100)), DESIGNS)]
    for name, table in (("coverage", pd.DataFrame(rows)), ("coverage_paired", pd.DataFrame(pairs))):
        print(table.to_string(index=False))
        files.atomic_write(files.ROOT / "book" / "_static" / f"{name}.csv",
                           table.to_csv(index=False))


if __name__ == "__main__":
    main()
