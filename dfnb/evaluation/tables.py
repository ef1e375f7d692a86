"""Scores of several models on several splits -> the tables of the chapters."""

from collections.abc import Sequence

import pandas as pd

from dfnb import KEY, UserError
from dfnb.evaluation import comparison, metrics, report
from dfnb.evaluation.intervals import DEFAULT, Bootstrap

CONSTANT = 'always "fake"'
CHOSEN = "threshold from validation"
MEASURES = ["ACC", "F1", "balanced", "EER", "AUC"]


def by_split(scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """One row per model, split, unit (frame, video) and answer: `evaluate.report` of each model on each split.

    `scores` has the columns of a score table, and model and split; test and validation splits.
    """
    found = [report.report(rows, bootstrap=bootstrap)["table"].assign(model=model, split_seed=split_seed)
             for (model, split_seed), rows in scores.groupby(["model", "split_seed"], sort=False)]
    table = pd.concat(found, ignore_index=True)
    return table[["model", "split_seed", *table.columns.drop(["model", "split_seed"])]]


def chosen(per_split: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The rows of one unit at the threshold from validation."""
    return per_split[(per_split.unit == unit) & (per_split.answer == CHOSEN)]


def over_splits(per_split: pd.DataFrame, answer: str = CHOSEN) -> pd.DataFrame:
    """The study's table: mean of every measure over the splits, by unit and model, the constant answer last.

    `lowest` and `highest` are the AUCs of single splits (spread by split); `low` and `high` are the bounds of one
    split's interval (sampling of test videos), averaged over the splits.
    """
    constant = per_split[per_split.answer == CONSTANT].assign(model=CONSTANT)
    rows = pd.concat([per_split[per_split.answer == answer], constant])
    grouped = rows.groupby(["unit", "model"], sort=False)
    table = grouped[[*MEASURES, "low", "high"]].mean()
    table.insert(5, "lowest", grouped.AUC.min())
    table.insert(6, "highest", grouped.AUC.max())
    return table.assign(splits=grouped.split_seed.nunique()).loc[["frame", "video"]].round(3)


def by_manipulation(scores: pd.DataFrame, manipulations: Sequence[str]) -> pd.DataFrame:
    """The table of `over_splits` for some manipulations by themselves: the test split's reals against each one's fakes."""
    tables = {}
    for manipulation in manipulations:
        rows = scores[(scores.split != "test") | scores.manipulation.isin(["real", manipulation])]
        tables[manipulation] = over_splits(by_split(rows))
    return pd.concat(tables, names=["tested on"]) if tables else pd.DataFrame()


def across(scores: pd.DataFrame, home: pd.DataFrame) -> pd.DataFrame:
    """One row per corpus and model: how a detector does on a corpus it was not fitted on, videos as the unit.

    `scores` are those of `experiment.across`. `home` holds the scores of the same models and splits on their own corpus;
    its validation split gives the threshold.
    """
    found = []
    for (tested, model, split_seed), rows in scores.groupby(["tested", "model", "split_seed"], sort=False):
        own = home[(home.model == model) & (home.split_seed == split_seed) & (home.split == "validation")]
        both = pd.concat([own, rows.drop(columns="tested")], ignore_index=True)
        videos = rows.drop_duplicates(KEY).label
        found.append(chosen(by_split(both), "video").assign(
            tested=tested, reals=int((videos == 0).sum()), fakes=int((videos == 1).sum())))
    return pd.concat(found, ignore_index=True)[["tested", "model", "reals", "fakes", *MEASURES, "low", "high"]]


def paired(scores: pd.DataFrame, first: str, second: str,
           bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Compare two models on the same test videos, split by split: one row of `compare.compare` each."""
    test = scores[scores.split == "test"]
    if missing := {first, second} - set(test.model):
        raise UserError(f"there are no scores of {', '.join(sorted(missing))}, only of {', '.join(test.model.unique())}")
    videos = metrics.to_videos(test[test.model == first]), metrics.to_videos(test[test.model == second])
    both = videos[0].merge(videos[1], on=[*KEY, "split_seed"], suffixes=("", "_other"), validate="one_to_one")
    return pd.DataFrame([
        {"split_seed": split_seed} | comparison.compare(rows.label, rows.score, rows.score_other, rows.group,
                                           bootstrap)
        for split_seed, rows in both.groupby("split_seed")])
