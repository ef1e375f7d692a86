"""AUC, rates and differences of cross-fitted detectors, with intervals over identity groups.

The scores of different folds come from different detectors and have offsets, so that they cannot be
ranked together. A statistic is therefore computed within each fold. An AUC is averaged by the
folds' pairs of a real and a fake. The interval draws whole identity groups within the folds and
keeps the fitted detectors: it does not cover another draw of the folds or another training seed,
whose spread is a second number.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy.stats import t as student

from dfnb import KEY, UserError
from dfnb.evaluation import intervals, metrics
from dfnb.evaluation.intervals import DEFAULT, NAN, Bootstrap, Interval

LEAST_FREEDOM = 5  # from here on, `tools.coverage` finds that 93 % or more hold the true value
KIND = "groups within folds"
Statistic = Callable[[np.ndarray], np.ndarray]  # weights (draws, videos) -> values (draws, k)


def to_videos(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per tested video with the mean score of its frames, fold and threshold.

    `scores` is what `Experiment.cross_fit` returns.
    """
    fitted = scores.drop_duplicates(KEY)[[*KEY, "fold", "threshold"]]
    return metrics.to_videos(scores).merge(fitted, on=KEY, validate="one_to_one")


def table(videos: Mapping[str, pd.DataFrame], bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return a row per model and measure (AUC, ACC, F1, balanced) with its interval.

    `videos` maps a model to its `to_videos`. The measure "pooled AUC" ranks the scores of all folds
    together and has no interval; offsets between the folds move it.
    """
    rows = []
    for model, of_model in videos.items():
        of_rates = rates(of_model, bootstrap)
        found = {"AUC": auc(of_model, bootstrap)}
        found |= {name: of_rates[name] for name in ("ACC", "F1", "balanced")}
        pooled = metrics.auc(of_model["label"], of_model["score"])
        found["pooled AUC"] = Interval(pooled, NAN, NAN, "none", "folds are ranked together")
        rows += [{"model": model, "measure": name, "value": one.value, "low": one.low,
                  "high": one.high, "reason": one.reason} for name, one in found.items()]
    return pd.DataFrame(rows)


def shown(one: Interval, signed: bool = False) -> str:
    """Return a value with its interval as text, such as ".80 (.75 to .85)", with 3 decimals."""
    sign = "+" if signed else ""
    if np.isnan(one.low):
        return f"{one.value:{sign}.3f}"
    return f"{one.value:{sign}.3f} ({one.low:{sign}.3f} to {one.high:{sign}.3f})"


def auc(videos: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> Interval:
    """Return the AUC within folds, averaged by real x fake pairs, with its interval.

    `videos` holds one row per tested video with fold, group, label and score.
    """
    return _intervals(videos, _auc(videos, "score"), bootstrap, logit=True)[0]


def difference(first: pd.DataFrame, second: pd.DataFrame, bootstrap: Bootstrap = DEFAULT
               ) -> Interval:
    """Return AUC(first) - AUC(second) of two detectors that were fitted on the same folds.

    Raises UserError where the tables do not hold the same videos in the same folds.
    """
    key = [*KEY, "fold", "group", "label"]
    both = first.merge(second, on=key, suffixes=("", "_other"), validate="one_to_one")
    if not len(both) == len(first) == len(second):
        raise UserError(f"a difference within folds needs the same videos in the same folds; of "
                        f"{len(first)} and {len(second)} videos {len(both)} are in both")
    of_first, of_second = _auc(both, "score"), _auc(both, "score_other")
    return _intervals(both, lambda weights: of_first(weights) - of_second(weights), bootstrap)[0]


def rates(videos: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> dict[str, Interval]:
    """Return each of `metrics.RATES` over all folds, at the threshold of each fold's detector.

    `videos` holds fold, group, label, score and `threshold`, which validation chose.
    """
    labels = videos["label"].to_numpy() == 1
    answers = (videos["score"] >= videos["threshold"]).to_numpy()
    cases = np.stack([answers & labels, answers & ~labels, ~answers & labels, ~answers & ~labels])

    def of(weights: np.ndarray) -> np.ndarray:
        rows = [metrics.from_counts(*counts) for counts in weights @ cases.T.astype(float)]
        return np.array([[row[name] for name in metrics.RATES] for row in rows])

    return dict(zip(metrics.RATES, _intervals(videos, of, bootstrap), strict=True))


def _auc(videos: pd.DataFrame, column: str) -> Statistic:
    """Return the statistic: AUC within each fold, averaged by weighted pairs."""
    labels, scores = videos["label"].to_numpy(), videos[column].to_numpy(float)
    folds = [np.flatnonzero(videos["fold"] == fold) for fold in sorted(set(videos["fold"]))]
    of_fold = [intervals.weighted_auc(labels[rows], scores[rows]) for rows in folds]

    def of(weights: np.ndarray) -> np.ndarray:
        values = np.stack([auc(weights[:, rows])
                           for auc, rows in zip(of_fold, folds, strict=True)])
        pairs = np.stack([weights[:, rows[labels[rows] == 1]].sum(axis=1)
                          * weights[:, rows[labels[rows] == 0]].sum(axis=1) for rows in folds])
        wins = np.where(pairs > 0, np.nan_to_num(values) * pairs, 0.0).sum(axis=0)
        total = pairs.sum(axis=0)  # a fold without a class in a draw has no pairs
        return np.divide(wins, total, out=np.full(len(total), NAN), where=total > 0)[:, None]

    return of


def _intervals(videos: pd.DataFrame, statistic: Statistic, bootstrap: Bootstrap,
               logit: bool = False) -> list[Interval]:
    """Return k statistics with Student's interval on the deviation over draws of whole groups.

    The degrees of freedom are the identity groups of the rarer class less the folds. The interval
    is computed on the logit scale, or else cut off at -1 and 1, where all these statistics end.
    """
    values = statistic(np.ones((1, len(videos))))[0]
    least, folds = min(intervals.groups_per_class(videos["label"], videos["group"])), videos["fold"]
    freedom = least - folds.nunique()
    if freedom < LEAST_FREEDOM or videos.groupby("fold")["group"].nunique().min() < 2:
        reason = (f"{least} identity groups of the rarer class in {folds.nunique()} folds are too "
                  f"few: {LEAST_FREEDOM} more groups than folds are needed, two in a fold")
        return [Interval(float(value), NAN, NAN, KIND, reason) for value in values]
    deviations = np.nanstd(_drawn(videos, statistic, bootstrap), axis=0, ddof=1)
    quantile, found = float(student.ppf((1 + bootstrap.confidence) / 2, freedom)), []
    for value, half in zip(values.tolist(), (quantile * deviations).tolist(), strict=True):
        if not half > 0 or (logit and value in (0, 1)):
            reason = "all draws have the same value, so the bootstrap shows no spread"
            found.append(Interval(value, NAN, NAN, KIND, reason))
        elif logit:
            found.append(Interval(value, *intervals.on_logit_scale(value, half), KIND))
        else:
            found.append(Interval(value, max(value - half, -1.0), min(value + half, 1.0), KIND))
    return found


def _drawn(videos: pd.DataFrame, statistic: Statistic, bootstrap: Bootstrap) -> np.ndarray:
    """Return the statistics (draws, k) of draws that take one group fewer than each fold has."""
    rng, drawn = np.random.default_rng(bootstrap.seed), []
    step = max(1, intervals.CHUNK // len(videos))
    folds = [np.flatnonzero(videos["fold"] == fold) for fold in sorted(set(videos["fold"]))]
    for start in range(0, bootstrap.draws, step):
        weights = np.zeros((min(step, bootstrap.draws - start), len(videos)))
        for rows in folds:
            groups = videos["group"].to_numpy()[rows]
            weights[:, rows] = intervals.group_weights(groups, len(weights), rng, fewer=1)
        drawn.append(statistic(weights))
    return np.concatenate(drawn)
