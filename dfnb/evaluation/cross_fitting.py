"""AUC, rates and differences of cross-fitted detectors, with intervals over identity groups.

The scores of different folds come from different detectors and have offsets, so that they cannot be
ranked together. A statistic is therefore computed within each fold. An AUC or EER is averaged by
the folds' pairs of a real and a fake. The interval draws whole identity groups within the folds and
keeps the fitted detectors: it does not cover another draw of the folds or another training seed,
whose spread is a second number.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import t as student

from dfnb import KEY, UserError
from dfnb.evaluation import intervals, metrics
from dfnb.evaluation.intervals import DEFAULT, NAN, Bootstrap, Interval

LEAST_FREEDOM = 5  # from here on, `tools.coverage` finds 93 % or more (EER: 92 %) to hold the truth
KIND = "groups within folds"
Statistic = Callable[[np.ndarray], np.ndarray]  # weights (draws, videos) -> values (draws, k)


def to_videos(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per tested video with the mean score of its frames, fold and threshold.

    `scores` is what `Experiment.cross_fit` returns.
    """
    fitted = scores.drop_duplicates(KEY)[[*KEY, "fold", "threshold"]]
    return metrics.to_videos(scores).merge(fitted, on=KEY, validate="one_to_one")


def against(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the rows of the reals and of the fakes of one manipulation."""
    return scores[scores["manipulation"].isin(["real", kind])]


def of_models(scores: pd.DataFrame, kind: str, bootstrap: Bootstrap = DEFAULT, *,
              unit: str = "video") -> pd.DataFrame:
    """Return `table` of the first draw of the folds and the first seed, on one manipulation.

    `scores` holds the rows of `Experiment.cross_fit` with the column `model`. The threshold of
    frames is that of videos.
    """
    head = against(first(scores), kind)
    return table({model: rows if unit == "frame" else to_videos(rows)
                  for model, rows in head.groupby("model", sort=False)}, bootstrap)


def first(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first draw of the folds and the first training seed."""
    return scores[(scores["draw"] == scores["draw"].min())
                  & (scores["seed"] == scores["seed"].min())]


def spread(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return by model how the AUC of videos moves with the draw of the folds and the seed.

    Columns: draws, seeds, mean, lowest, highest, `sd_draws` (of the means over the seeds), and
    `sd_seeds` (within a draw, NaN for one seed).
    """
    if scores.empty:
        return pd.DataFrame()
    rows = [{"model": model, "draw": draw, "seed": seed, "AUC": _value(to_videos(fit))}
            for (model, draw, seed), fit in against(scores, kind).groupby(
                ["model", "draw", "seed"], sort=False)]
    grouped = pd.DataFrame(rows).groupby("model", sort=False)
    found = grouped["AUC"].agg(mean="mean", lowest="min", highest="max")
    found.insert(0, "draws", grouped["draw"].nunique())
    found.insert(1, "seeds", grouped["seed"].nunique())
    cells = pd.DataFrame(rows).groupby(["model", "draw"], sort=False)["AUC"]
    within = cells.var().groupby("model", sort=False).mean() ** 0.5
    return found.assign(sd_draws=cells.mean().groupby("model", sort=False).std(), sd_seeds=within)


def table(videos: Mapping[str, pd.DataFrame], bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return a row per model and measure (AUC, EER, balanced, ACC, F1) with its interval.

    `videos` maps a model to its `to_videos`, or to its frames. The measure "pooled AUC" ranks the
    scores of all folds together and has no interval; offsets between the folds move it.
    """
    rows = []
    for model, of_model in videos.items():
        of_rates = rates(of_model, bootstrap)
        found = {"AUC": auc(of_model, bootstrap), "EER": eer(of_model, bootstrap)}
        found |= {name: of_rates[name] for name in ("balanced", "ACC", "F1")}
        pooled = metrics.auc(of_model["label"], of_model["score"])
        found["pooled AUC"] = Interval(pooled, NAN, NAN, "none", "folds are ranked together")
        rows += [{"model": model, "measure": name, "value": one.value, "low": one.low,
                  "high": one.high, "reason": one.reason} for name, one in found.items()]
    return pd.DataFrame(rows)


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `table` as text, one row per model and one column per measure."""
    text = [shown(Interval(row.value, row.low, row.high, KIND)) for row in rows.itertuples()]
    cells = rows.assign(text=text).pivot(index="model", columns="measure", values="text")
    return cells.loc[rows["model"].unique(), rows["measure"].unique()].rename_axis(columns=None)


def compare(scores: pd.DataFrame, first: str, second: str, bootstrap: Bootstrap = DEFAULT
            ) -> pd.DataFrame:
    """Return both AUCs of videos and their difference for each draw of the folds and seed.

    `scores` holds the rows of `Experiment.cross_fit` of both models, with the column `model`. A
    model with fewer training seeds (a probe has none) is compared by its first one. Columns: draw,
    seed, the two models, difference, low, high, reason.
    """
    rows, models = [], {name: scores[scores["model"] == name] for name in (first, second)}
    for (draw, seed), ours in models[first].groupby(["draw", "seed"]):
        others = models[second][models[second]["draw"] == draw]
        same = seed if seed in set(others["seed"]) else others["seed"].min()
        both = to_videos(ours), to_videos(others[others["seed"] == same])
        gap = difference(*(one.drop(columns="model") for one in both), bootstrap)
        values = map(_value, both)
        rows.append({"draw": draw, "seed": seed} | dict(zip(models, values, strict=True))
                    | {"difference": gap.value, "low": gap.low, "high": gap.high,
                       "reason": gap.reason})
    return pd.DataFrame(rows)


def levels(scores: pd.DataFrame, kind: str, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return by model the AUC of videos minus that of frames, on the same draws of groups."""
    rows = []
    for model, frames in against(first(scores), kind).groupby("model", sort=False):
        frames = frames.sort_values(KEY, ignore_index=True)
        videos = to_videos(frames).sort_values(KEY, ignore_index=True)
        heads = np.flatnonzero(~frames.duplicated(KEY))  # a video's weight is that of its frames
        of_frames, of_videos = (_within(one, "score", intervals.weighted_auc)
                                for one in (frames, videos))
        gap = _intervals(frames, partial(_minus, of_videos, of_frames, heads), bootstrap)[0]
        rows.append({"model": model, "frame AUC": _value(frames), "video AUC": _value(videos),
                     "video - frame": gap.value, "low": gap.low, "high": gap.high})
    return pd.DataFrame(rows).set_index("model")


def _minus(of_videos: Statistic, of_frames: Statistic, heads: np.ndarray, weights: np.ndarray
           ) -> np.ndarray:
    return of_videos(weights[:, heads]) - of_frames(weights)


def answer(scores: pd.DataFrame, model: str, control: str, kind: str,
           bootstrap: Bootstrap = DEFAULT) -> str:
    """Word how well a model ranks a manipulation, and how it compares with its control."""
    found = auc(to_videos(against(first(scores[scores["model"] == model]), kind)), bootstrap)
    where = {found.low > 0.5: "above one half", found.high < 0.5: "below one half"}.get(
        True, "not told apart from one half")
    compared = compare(against(scores, kind), model, control, bootstrap)
    return (f"On unseen {kind} videos of people never met, the {model} has an AUC of "
            f"{shown(found)}, {where}. {verdict(compared, model, control)}")


def seen_and_unseen(scores: pd.DataFrame, model: str, seen: str, unseen: str,
                    bootstrap: Bootstrap = DEFAULT) -> str:
    """Word the AUC of a model on the manipulation of its training and on an unseen one."""
    one = first(scores[scores["model"] == model])
    known, new = (auc(to_videos(against(one, kind)), bootstrap) for kind in (seen, unseen))
    moves = spread(scores[scores["model"] == model], unseen).iloc[0]
    return (f"On people never met, {model} has an AUC of {shown(known)} on {seen}, the "
            f"manipulation that it was trained on, and of {shown(new)} on unseen {unseen}. Over "
            f"{counted(scores)} the latter goes from {moves.lowest:.3f} to {moves.highest:.3f}. "
            "The summary compares it with the probe.")


def verdict(compared: pd.DataFrame, first: str, second: str) -> str:
    """Word the first row of `compare` with its interval, the spread over all rows, and the order.

    An order is named only where the interval leaves out zero and every row has the same sign.
    """
    gaps, head = compared["difference"], compared.iloc[0]
    gap = Interval(head.difference, head.low, head.high, KIND, head.reason)
    first, second = (name if name[0].isupper() else f"the {name}" for name in (first, second))
    text = (f"The AUC of {first} minus that of {second} is {shown(gap, signed=True)}, for the "
            "fitted detectors of the first draw of the folds.")
    if head.reason:
        text += f" It has no interval: {head.reason}."
    if len(gaps) > 1:
        text += (f" Over {counted(compared)} it goes from {gaps.min():+.3f} to {gaps.max():+.3f}, "
                 f"with the mean {gaps.mean():+.3f}.")
    same_sign = (gaps > 0).all() or (gaps < 0).all()
    if len(gaps) > 1 and same_sign and (head.low > 0 or head.high < 0):
        better, worse = (first, second) if head.difference > 0 else (second, first)
        return f"{text} So {better} ranks these videos better than {worse}."
    return f"{text} This does not decide which of the two is better."


def counted(fits: pd.DataFrame) -> str:
    """Return how many draws of the folds and training seeds there are, as words."""
    draws, seeds = fits["draw"].nunique(), fits["seed"].nunique()
    return (f"{draws} draw{'s' * (draws > 1)} of the folds and {seeds} training "
            f"seed{'s' * (seeds > 1)}")


def shown(one: Interval, signed: bool = False) -> str:
    """Return a value with its interval as text, such as "0.801 (0.752 to 0.843)"."""
    sign = "+" if signed else ""
    if np.isnan(one.low):
        return f"{one.value:{sign}.3f}"
    return intervals.words(one.value, one.low, one.high, sign)


def auc(videos: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> Interval:
    """Return the AUC within folds, averaged by real x fake pairs, with its interval.

    `videos` holds one row per tested video with fold, group, label and score.
    """
    of = _within(videos, "score", intervals.weighted_auc)
    return _intervals(videos, of, bootstrap, logit=True)[0]


def eer(videos: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> Interval:
    """Return the EER within folds, averaged by real x fake pairs, with its interval."""
    return _intervals(videos, _within(videos, "score", weighted_eer), bootstrap)[0]


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
    of_first, of_second = (
        _within(both, column, intervals.weighted_auc) for column in ("score", "score_other"))
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


def weighted_eer(labels: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from weights (draws, n) to the EER (`metrics.eer`) of each draw."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores, which share a point

    def of(weights: np.ndarray) -> np.ndarray:
        rates = []
        for label in (0, 1):
            above = np.cumsum(weights[:, order] * (labels[order] == label), axis=1)
            counts = np.pad(above[:, last], ((0, 0), (1, 0)))
            rates.append(np.divide(counts, counts[:, -1:], where=counts[:, -1:] > 0,
                                   out=np.full(counts.shape, NAN)))
        fpr, tpr = rates
        gap, rows = (1 - tpr) - fpr, np.arange(len(weights))
        after = np.maximum(np.argmax(gap <= 0, axis=1), 1)
        before, behind = gap[rows, after - 1], gap[rows, after]
        step = before / (before - behind)
        return fpr[rows, after - 1] + step * (fpr[rows, after] - fpr[rows, after - 1])

    return of


def _rows_of_folds(videos: pd.DataFrame) -> list[np.ndarray]:
    """Return the numbers of the rows of each fold."""
    return [np.flatnonzero(videos["fold"] == fold) for fold in sorted(set(videos["fold"]))]


def _value(videos: pd.DataFrame) -> float:
    """Return the AUC within folds, without its interval."""
    of = _within(videos, "score", intervals.weighted_auc)
    return float(of(np.ones((1, len(videos))))[0, 0])


def _within(videos: pd.DataFrame, column: str, statistic: Callable) -> Statistic:
    """Return the statistic within each fold (`weighted_auc` or alike), averaged by its pairs."""
    labels, scores = videos["label"].to_numpy(), videos[column].to_numpy(float)
    folds = _rows_of_folds(videos)
    of_fold = [statistic(labels[rows], scores[rows]) for rows in folds]

    def of(weights: np.ndarray) -> np.ndarray:
        values = np.stack([value(weights[:, rows])
                           for value, rows in zip(of_fold, folds, strict=True)])
        pairs = np.stack([weights[:, rows[labels[rows] == 1]].sum(axis=1)
                          * weights[:, rows[labels[rows] == 0]].sum(axis=1) for rows in folds])
        summed = np.where(pairs > 0, np.nan_to_num(values) * pairs, 0.0).sum(axis=0)
        total = pairs.sum(axis=0)  # a fold without a class in a draw has no pairs
        return np.divide(summed, total, out=np.full(len(total), NAN), where=total > 0)[:, None]

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
                  f"few, {LEAST_FREEDOM} more groups than folds are needed and two in each fold")
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
    folds = _rows_of_folds(videos)
    for start in range(0, bootstrap.draws, step):
        weights = np.zeros((min(step, bootstrap.draws - start), len(videos)))
        for rows in folds:
            groups = videos["group"].to_numpy()[rows]
            weights[:, rows] = intervals.group_weights(groups, len(weights), rng, fewer=1)
        drawn.append(statistic(weights))
    return np.concatenate(drawn)
