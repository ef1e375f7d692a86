"""What the arms of the leak experiment show: the AUC of each, the paired gap to the reference, who shifted.

The folds test different videos with different models, so an AUC is the mean of the folds' AUCs. The intervals
draw whole identity groups, the same ones for all arms.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from dfnb import KEY
from dfnb.data import splits
from dfnb.data.identity import shown
from dfnb.data.leak_splits import ARMS, REFERENCE
from dfnb.evaluation import intervals, metrics
from dfnb.evaluation.intervals import DEFAULT, Bootstrap

NAN = float("nan")
ROW = ["split_seed", *KEY, "group", "label"]


def trials(experiment, designs: Mapping[int, Mapping], manipulation: str, *, seed: int, among: Sequence[str] = tuple(ARMS),
           **options) -> dict[tuple[str, int], object]:
    """Fit one manipulation in each arm of each fold: (arm, fold) -> `Trial`. `designs`: fold -> `arms.design`."""
    return {(arm, fold): experiment.trial(manipulation, design[arm], seed=seed + fold, describe=False, **options)
            for fold, design in designs.items() for arm in among}


def planted(worlds: Mapping[str, object], protocols: Sequence[str], *, seeds: Sequence[int], model,
            **options) -> dict[str, dict[tuple[str, int], object]]:
    """Fit a linear probe in each world under each protocol and seed, on the frames that all worlds kept.

    Returns protocol, marked where it is leaky -> {(world, seed): `Trial`}: to `collect`, and to `gaps` between worlds.
    """
    kept = [world.crops.frames[[*KEY, "frame"]] for world in worlds.values()]
    common = reduce(lambda left, right: left.merge(right, on=[*KEY, "frame"]), kept)
    found = {}
    for protocol, seed in product(protocols, seeds):
        for name, world in worlds.items():
            split_table = world.split(protocol, seed=seed, frames=common)
            split_table = split_table.merge(common)  # adds the frame where a protocol splits videos
            trial = world.trial("probe", split_table, seed=seed, model=model, describe=False, **options)
            found.setdefault(splits.mark(protocol), {})[name, seed] = trial
    return found


def collect(models: Mapping[str, Mapping[tuple[str, int], object]]) -> pd.DataFrame:
    """Join the scores of the trials of several models into one table with the columns model and arm."""
    return pd.concat([trial.scores.assign(model=model, arm=arm) for model, trials in models.items()
                      for (arm, _), trial in trials.items()], ignore_index=True)


def gaps(scores: pd.DataFrame, fakes: str, bootstrap: Bootstrap = DEFAULT, *,
         reference: str = REFERENCE) -> pd.DataFrame:
    """One row per model and arm: video AUC of reals against `fakes`, and its gap to the reference arm.

    `scores`: a score table with model, arm and split (the fold). low, high: Newcombe's interval, the classes counted
    in identity groups; gap_low, gap_high: paired cluster bootstrap; by_split: the gap of each fold.
    """
    rows = []
    for model, wide in _wide(scores[scores["manipulation"].isin(["real", fakes])], "mean"):
        weights = _weights(wide.index.get_level_values("group"), bootstrap)
        aucs = _aucs(wide, np.ones((1, len(wide))))[0]  # (splits, arms)
        drawn = _over_splits(_aucs(wide, weights))  # (draws, arms)
        base = list(wide).index(reference)
        counts = intervals.groups_per_class(*(wide.index.get_level_values(name) for name in ("label", "group")))
        for at, arm in enumerate(wide):
            gap = aucs[:, at] - aucs[:, base]
            value = float(aucs[:, at].mean())
            low, high = intervals.newcombe(value, counts[1], counts[0], bootstrap.confidence)
            apart = _spread(drawn[:, at] - drawn[:, base], bootstrap.confidence)
            rows.append({"model": model, "arm": arm, "fakes": fakes, "AUC": value, "low": low, "high": high,
                         "gap": float(gap.mean()), "gap_low": apart[0], "gap_high": apart[1],
                         "by_split": gap.tolist(), "groups": sum(counts)})
    return pd.DataFrame(rows)


def shifts(scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """One row per model, leaky arm and manipulation: by how much its videos' mean logits moved from the reference arm.

    The unit is the standard deviation of the arm's logits of the validation videos, and their mean is 0: these videos
    are clean and the same in all arms, so a detector that is merely bolder or leans to one side does not shift.
    """
    rows = []
    checked = dict(_wide(scores, "logit", "validation"))
    for model, wide in _wide(scores, "logit"):
        clean = _logits(checked[model]).groupby("split_seed")
        moved = (_logits(wide) - clean.mean().reindex(wide.index, level="split_seed")) / clean.std().reindex(
            wide.index, level="split_seed")
        moved = moved.sub(moved[REFERENCE], axis=0).drop(columns=REFERENCE)
        for arm in moved:
            for manipulation, values in moved[arm].groupby("manipulation", sort=False):
                groups = values.index.get_level_values("group")
                low, high = mean_interval(values, groups, bootstrap)
                rows.append({"model": model, "arm": arm, "manipulation": manipulation, "shift": float(values.mean()),
                             "low": low, "high": high, "videos": len(values)})
    return pd.DataFrame(rows)


def side_by_side(gaps: pd.DataFrame) -> pd.DataFrame:
    """The gaps as a table to read: a row per model and marked arm, the fakes side by side."""
    values = ["AUC", "low", "high", "gap", "gap_low", "gap_high"]
    order = pd.MultiIndex.from_frame(gaps[["model", "arm"]].drop_duplicates())
    wide = gaps.pivot(index=["model", "arm"], columns="fakes", values=values).swaplevel(axis=1)
    return wide[gaps["fakes"].unique()].loc[order].rename(index=splits.mark, level="arm")


def lowered(gaps: pd.DataFrame, shifts: pd.DataFrame) -> pd.DataFrame:
    """The arms with a lower AUC than the reference, `clear` where the interval says so, and the shift of each class."""
    moved = shifts.set_index(["model", "arm", "manipulation"])["shift"]
    fell = gaps[gaps["gap"] < 0].drop(columns=["low", "high", "by_split"])
    for name, manipulations in (("reals", ["real"] * len(fell)), ("its_fakes", fell["fakes"])):
        keys = zip(fell["model"], fell["arm"], manipulations, strict=True)
        fell[name] = [moved[key] for key in keys]
    fell = fell.assign(clear=fell["gap_high"] < 0, arm=fell["arm"].map(splits.mark))
    return fell.set_index(["fakes", "model", "arm"])[["gap", "clear", "reals", "its_fakes"]]


def naming(detector, view, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """How often a linear classifier on `detector.features` names the right person; `view` holds reals and their swaps.

    It learns the people on every other frame of the real videos. It is asked about the other frames of these, and
    about the fakes: for the person of the scene (target) and for the person whose face is shown.
    """
    frames, features = view.frames, np.asarray(detector.features(view), np.float64)
    person, real = frames["target"].to_numpy(str), view.labels == 0
    learn = real & (frames.groupby(KEY).cumcount().to_numpy() % 2 == 1)
    features = (features - features[learn].mean(axis=0)) / np.maximum(features[learn].std(axis=0), 1e-8)
    named = LogisticRegression(max_iter=1000).fit(features[learn], person[learn]).predict(features)
    questions = {"same video, other frames": (real & ~learn, person), "scene of a fake": (~real, person),
                 "face in a fake": (~real, shown(frames).to_numpy(str))}
    rows = []
    for question, (asked, truth) in questions.items():
        right = (named == truth)[asked].astype(float)
        low, high = mean_interval(right, frames["group"][asked], bootstrap)
        rows.append({"question": question, "accuracy": float(right.mean()), "low": low, "high": high,
                     "chance": 1 / len(set(person[learn])), "frames": int(asked.sum())})
    return pd.DataFrame(rows)


def says(table: pd.DataFrame) -> str:
    """Word the gaps: which leaks raise the AUC, which lower it, and what these videos cannot tell."""
    leaky = table[table["arm"] != REFERENCE]
    lines = []
    for verb, rows in (("raises", leaky[leaky["gap_low"] > 0]), ("lowers", leaky[leaky["gap_high"] < 0])):
        text = [f"{row.model}, {splits.mark(row.arm)}, {row.fakes}: {row.gap:+.3f} ({row.gap_low:+.3f} to "
                f"{row.gap_high:+.3f})" for row in rows.itertuples()]
        lines.append(f"- The leak {verb} the AUC, interval clear of zero: " + ("; ".join(text) or "nowhere") + ".")
    unclear = leaky[~((leaky["gap_low"] > 0) | (leaky["gap_high"] < 0))]  # an interval that is undefined is unclear too
    lower = int((unclear["gap"] < 0).sum())
    lines.append(f"- Not told apart from no leak: {len(unclear)} of {len(leaky)} gaps, {lower} of them below zero.")
    return "\n".join(lines)


def finds(rise: pd.DataFrame, reference: str = "cue off") -> str:
    """Word what a planted cue does: a line per protocol with the gap between the worlds and whether it is clear of zero."""
    lines = []
    for row in rise[rise["arm"] != reference].itertuples():
        clear = "raised" if row.gap_low > 0 else "lowered" if row.gap_high < 0 else "not told apart from no change"
        lines.append(f"- {row.model}: {clear}, {row.gap:+.3f} ({row.gap_low:+.3f} to {row.gap_high:+.3f}).")
    return "\n".join(lines)


def mean_interval(values: Sequence[float], groups: Sequence,
                  bootstrap: Bootstrap = DEFAULT) -> tuple[float, float]:
    """Return (low, high) of a mean over draws of whole groups; NaN where the draws do not spread."""
    values, weights = np.asarray(values, float), _weights(groups, bootstrap)
    return _spread(weights @ values / weights.sum(axis=1), bootstrap.confidence)


def _wide(scores: pd.DataFrame, how: str, split: str = "test"):
    """Yield each model with its videos of a split: rows (split, video, group, label), a column of scores per arm."""
    for model, rows in scores[scores["split"] == split].groupby("model", sort=False):
        videos = {arm: metrics.to_videos(of, how).set_index(ROW)["score"]
                  for arm, of in rows.groupby("arm", sort=False)}
        wide = pd.DataFrame(videos)
        if wide.isna().any(axis=None):
            raise ValueError("the arms of a model must test the same videos")
        yield model, wide


def _logits(wide: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(logit(wide.to_numpy()), wide.index, wide.columns)


def _weights(groups: Sequence, bootstrap: Bootstrap) -> np.ndarray:
    """How often each row is drawn when whole groups are, (draws, rows)."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng, share = np.random.default_rng(bootstrap.seed), np.full(len(names), 1 / len(names))
    return rng.multinomial(len(names), share, bootstrap.draws)[:, member].astype(float)


def _aucs(wide: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """AUC (draws, splits, arms) under weights (draws, rows); NaN where a split lacks a class in a draw."""
    labels, split_seed = (wide.index.get_level_values(name).to_numpy() for name in ("label", "split_seed"))
    return np.stack([
        np.stack([intervals.weighted_auc(labels[split_seed == one], wide[arm].to_numpy()[split_seed == one])(weights[:, split_seed == one])
                  for arm in wide], axis=1)
        for one in np.unique(split_seed)], axis=1)


def _over_splits(aucs: np.ndarray) -> np.ndarray:
    """Mean over the splits that a draw has, (draws, arms); draws without any are left out."""
    return np.nanmean(aucs[~np.isnan(aucs).all(axis=(1, 2))], axis=1)


def _spread(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    return intervals.percentiles(drawn, confidence) if len(drawn) and np.ptp(drawn) > 0 else (NAN, NAN)
