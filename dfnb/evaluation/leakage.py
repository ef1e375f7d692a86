"""Measure what a leak does: AUC of each design, its gap to the clean one, and which scores moved.

A design of the experiment (`data.leak_splits`) is a training split that leaks in one way. The folds
test different videos with different detectors, so an AUC is the mean of the folds' AUCs. The
intervals draw whole identity groups, the same ones for all designs.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from dfnb import KEY
from dfnb.data import splits
from dfnb.data.identity import shown
from dfnb.data.leak_splits import REFERENCE
from dfnb.evaluation import intervals, metrics
from dfnb.evaluation.intervals import DEFAULT, NAN, Bootstrap

ROW = ["split_seed", *KEY, "group", "label"]


def trials(experiment, designs: Mapping[int, Mapping], detector: str, *, seed: int,
           **options) -> dict[tuple[str, int], object]:
    """Fit a detector in each design of each fold; return (design, fold) -> `Trial`.

    `designs` maps a fold to what `leak_splits.design` returns.
    """
    return {(name, fold): experiment.trial(detector, table, seed=seed + fold, describe=False,
                                           **options)
            for fold, tables in designs.items() for name, table in tables.items()}


def planted(worlds: Mapping[str, object], protocols: Sequence[str], *, seeds: Sequence[int],
            model, **options) -> dict[str, dict[tuple[str, int], object]]:
    """Fit a linear probe in each world under each protocol and seed, on frames that all kept.

    Returns marked protocol -> {(world, seed): `Trial`}, for `collect`, and for `gaps` between the
    worlds.
    """
    kept = [world.crops.frames[[*KEY, "frame"]] for world in worlds.values()]
    common = reduce(lambda left, right: left.merge(right, on=[*KEY, "frame"]), kept)
    found: dict[str, dict] = {}
    for protocol, seed in product(protocols, seeds):
        for name, world in worlds.items():
            split_table = world.split(protocol, seed=seed, frames=common)
            split_table = split_table.merge(common)  # adds the frame where a protocol splits videos
            trial = world.trial("probe", split_table, seed=seed, model=model, describe=False,
                                **options)
            found.setdefault(splits.mark(protocol), {})[name, seed] = trial
    return found


def collect(models: Mapping[str, Mapping[tuple[str, int], object]]) -> pd.DataFrame:
    """Join the scores of the trials of several models into a table with model and design."""
    return pd.concat([trial.scores.assign(model=model, design=design)
                      for model, trials in models.items()
                      for (design, _), trial in trials.items()], ignore_index=True)


def gaps(scores: pd.DataFrame, fakes: str, bootstrap: Bootstrap = DEFAULT, *,
         reference: str = REFERENCE) -> pd.DataFrame:
    """Return for each model and design the video AUC of reals against `fakes` and its gap.

    `scores` is a score table with model, design and split_seed (the fold). The gap is that to the
    reference design. low, high: Newcombe's interval, the classes counted in identity groups.
    gap_low, gap_high: paired cluster bootstrap. by_split: the gap of each fold.
    """
    rows = []
    for model, wide in _wide(scores[scores["manipulation"].isin(["real", fakes])], "mean"):
        label, group = (wide.index.get_level_values(name) for name in ("label", "group"))
        counts = intervals.groups_per_class(label, group)
        aucs = _aucs(wide, np.ones((1, len(wide))))[0]  # (splits, designs)
        drawn = _over_splits(_aucs(wide, _weights(group, bootstrap)))  # (draws, designs)
        base = list(wide).index(reference)
        for at, design in enumerate(wide):
            gap, value = aucs[:, at] - aucs[:, base], float(aucs[:, at].mean())
            low, high = intervals.newcombe(value, counts[1], counts[0], bootstrap.confidence)
            apart = _spread(drawn[:, at] - drawn[:, base], bootstrap.confidence)
            rows.append({"model": model, "design": design, "fakes": fakes,
                         "AUC": value, "low": low, "high": high,
                         "gap": float(gap.mean()), "gap_low": apart[0], "gap_high": apart[1],
                         "by_split": gap.tolist(), "groups": sum(counts)})
    return pd.DataFrame(rows)


def shifts(scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return by how much the videos' mean logits moved from the reference design.

    The table has a row per model, leaky design and manipulation. The unit is the standard deviation
    of the design's logits of the validation videos, and their mean is 0. These videos are clean and
    the same in all designs, so a detector that is only bolder or leans to one side does not shift.
    """
    rows, checked = [], dict(_wide(scores, "logit", "validation"))
    for model, wide in _wide(scores, "logit"):
        clean = _logits(checked[model]).groupby("split_seed")
        mean, std = (table.reindex(wide.index, level="split_seed")
                     for table in (clean.mean(), clean.std()))
        moved = (_logits(wide) - mean) / std
        moved = moved.sub(moved[REFERENCE], axis=0).drop(columns=REFERENCE)
        for design in moved:
            for manipulation, values in moved[design].groupby("manipulation", sort=False):
                groups = values.index.get_level_values("group")
                low, high = mean_interval(values, groups, bootstrap)
                rows.append({"model": model, "design": design, "manipulation": manipulation,
                             "shift": float(values.mean()), "low": low, "high": high,
                             "videos": len(values)})
    return pd.DataFrame(rows)


def side_by_side(gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the gaps with a row per model and marked design, the fakes side by side."""
    values = ["AUC", "low", "high", "gap", "gap_low", "gap_high"]
    order = pd.MultiIndex.from_frame(gaps[["model", "design"]].drop_duplicates())
    wide = gaps.pivot(index=["model", "design"], columns="fakes", values=values)
    wide = wide.swaplevel(axis=1)[gaps["fakes"].unique()].loc[order]
    return wide.rename(index=splits.mark, level="design")


def lowered(gaps: pd.DataFrame, shifts: pd.DataFrame) -> pd.DataFrame:
    """Return the designs with a lower AUC than the reference, and the shift of each class.

    `clear` states whether the interval of the gap lies below zero.
    """
    moved = shifts.set_index(["model", "design", "manipulation"])["shift"]
    fell = gaps[gaps["gap"] < 0].drop(columns=["low", "high", "by_split"])
    for name, manipulations in (("reals", ["real"] * len(fell)), ("its_fakes", fell["fakes"])):
        keys = zip(fell["model"], fell["design"], manipulations, strict=True)
        fell[name] = [moved[key] for key in keys]
    fell = fell.assign(clear=fell["gap_high"] < 0, design=fell["design"].map(splits.mark))
    return fell.set_index(["fakes", "model", "design"])[["gap", "clear", "reals", "its_fakes"]]


def naming(detector, view, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return how often a linear classifier on `detector.features` names the right person.

    `view` holds reals and their swaps. The classifier learns the people on every other frame of the
    real videos. It is tested on the other frames of these, and on the fakes: for the person of the
    scene (target) and for the person whose face is shown.
    """
    frames, features = view.frames, np.asarray(detector.features(view), np.float64)
    person, real = frames["target"].to_numpy(str), view.labels == 0
    learn = real & (frames.groupby(KEY).cumcount().to_numpy() % 2 == 1)
    mean, std = features[learn].mean(axis=0), np.maximum(features[learn].std(axis=0), 1e-8)
    features = (features - mean) / std
    classifier = LogisticRegression(max_iter=1000).fit(features[learn], person[learn])
    named = classifier.predict(features)
    questions = {"same video, other frames": (real & ~learn, person),
                 "scene of a fake": (~real, person),
                 "face in a fake": (~real, shown(frames).to_numpy(str))}
    rows = []
    for question, (asked, truth) in questions.items():
        right = (named == truth)[asked].astype(float)
        low, high = mean_interval(right, frames["group"][asked], bootstrap)
        rows.append({"question": question, "accuracy": float(right.mean()), "low": low,
                     "high": high, "chance": 1 / len(set(person[learn])),
                     "frames": int(asked.sum())})
    return pd.DataFrame(rows)


def describe(table: pd.DataFrame) -> str:
    """Word the gaps: which leaks raise the AUC, which lower it, and which remain unclear."""
    leaky = table[table["design"] != REFERENCE]
    up, down = leaky["gap_low"] > 0, leaky["gap_high"] < 0
    lines = []
    for verb, rows in (("raises", leaky[up]), ("lowers", leaky[down])):
        text = [f"{row.model}, {splits.mark(row.design)}, {row.fakes}: "
                + intervals.words(row.gap, row.gap_low, row.gap_high) for row in rows.itertuples()]
        lines.append(f"- The leak {verb} the AUC, interval clear of zero: "
                     f"{'; '.join(text) or 'nowhere'}.")
    unclear = leaky[~(up | down)]  # among them those whose interval is undefined
    lower = int((unclear["gap"] < 0).sum())
    lines.append(f"- The interval holds zero or is undefined: {len(unclear)} of {len(leaky)} gaps, "
                 f"{lower} of them below zero.")
    return "\n".join(lines)


def answer(table: pd.DataFrame) -> str:
    """Word how many gaps of each leak lie clear of zero, above and below."""
    lines = []
    for design, rows in table[table["design"] != REFERENCE].groupby("design", sort=False):
        up, down = int((rows["gap_low"] > 0).sum()), int((rows["gap_high"] < 0).sum())
        lines.append(f"the design {splits.mark(design)} raises the AUC in {up} and lowers it in "
                     f"{down} of {len(rows)} comparisons")
    return ("Against identity-disjoint training on the same test videos, with intervals clear of "
            f"zero: {'; '.join(lines)}.")


def describe_planted(rise: pd.DataFrame) -> str:
    """Word for each protocol the gap that a planted cue makes, and whether it is clear of zero."""
    lines = []
    for row in rise[rise["design"] != "cue off"].itertuples():
        clear = ("raised" if row.gap_low > 0 else "lowered" if row.gap_high < 0
                 else "no clear change")
        gap = intervals.words(row.gap, row.gap_low, row.gap_high)
        lines.append(f"- {row.model}: {clear}, {gap}.")
    return "\n".join(lines)


def mean_interval(values: Sequence[float], groups: Sequence, bootstrap: Bootstrap = DEFAULT
                  ) -> tuple[float, float]:
    """Return (low, high) of a mean over draws of whole groups; NaN where draws do not spread."""
    values, weights = np.asarray(values, float), _weights(groups, bootstrap)
    return _spread(weights @ values / weights.sum(axis=1), bootstrap.confidence)


def _wide(scores: pd.DataFrame, how: str, split: str = "test"
          ) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each model with its videos of a split (rows `ROW`), a column of scores per design."""
    for model, rows in scores[scores["split"] == split].groupby("model", sort=False):
        videos = {design: metrics.to_videos(of, how).set_index(ROW)["score"]
                  for design, of in rows.groupby("design", sort=False)}
        wide = pd.DataFrame(videos)
        if wide.isna().any(axis=None):
            raise ValueError("the designs of a model must test the same videos")
        yield model, wide


def _logits(wide: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(logit(wide.to_numpy()), wide.index, wide.columns)


def _weights(groups: Sequence, bootstrap: Bootstrap) -> np.ndarray:
    """Return how often each row is drawn when whole groups are, (draws, rows)."""
    rng = np.random.default_rng(bootstrap.seed)
    return intervals.group_weights(groups, bootstrap.draws, rng)


def _aucs(wide: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Return the AUC (draws, splits, designs) under weights (draws, rows).

    It is NaN where a split lacks a class in a draw.
    """
    labels, seeds = (wide.index.get_level_values(name).to_numpy()
                     for name in ("label", "split_seed"))
    aucs = []
    for rows in (seeds == seed for seed in np.unique(seeds)):
        aucs.append(np.stack([intervals.weighted_auc(labels[rows], scores[rows])(weights[:, rows])
                              for scores in wide.to_numpy().T], axis=1))
    return np.stack(aucs, axis=1)


def _over_splits(aucs: np.ndarray) -> np.ndarray:
    """Return the mean over the splits of a draw, (draws, designs); empty draws are left out."""
    return np.nanmean(aucs[~np.isnan(aucs).all(axis=(1, 2))], axis=1)


def _spread(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    defined = len(drawn) and np.ptp(drawn) > 0
    return intervals.percentiles(drawn, confidence) if defined else (NAN, NAN)
