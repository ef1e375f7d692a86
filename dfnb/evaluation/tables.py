"""Scores of several models on several splits -> the tables of the chapters."""

from collections.abc import Sequence

import pandas as pd

from dfnb import UserError
from dfnb.evaluation import comparison, metrics, report

CONSTANT = 'always "fake"'
CHOSEN = "threshold from validation"
MEASURES = ["ACC", "F1", "balanced", "EER", "AUC"]


def by_split(scores: pd.DataFrame, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """One row per model, split, level (frame, video) and answer: `evaluate.report` of each model on each split.

    `scores` has the columns of a score table, and model and split; test and validation parts.
    """
    found = [report.report(rows, level=level, seed=seed)["table"].assign(model=model, split=split)
             for (model, split), rows in scores.groupby(["model", "split"], sort=False)]
    table = pd.concat(found, ignore_index=True)
    return table[["model", "split", *table.columns.drop(["model", "split"])]]


def chosen(per_split: pd.DataFrame, level: str) -> pd.DataFrame:
    """The rows of one level at the threshold from validation."""
    return per_split[(per_split.level == level) & (per_split.answer == CHOSEN)]


def over_splits(per_split: pd.DataFrame, answer: str = CHOSEN) -> pd.DataFrame:
    """The study's table: mean of every measure over the splits, by level and model, the constant answer last.

    `lowest` and `highest` are the AUCs of single splits (spread by split); `low` and `high` are the bounds of one
    split's interval (sampling of test videos), averaged over the splits.
    """
    constant = per_split[per_split.answer == CONSTANT].assign(model=CONSTANT)
    rows = pd.concat([per_split[per_split.answer == answer], constant])
    grouped = rows.groupby(["level", "model"], sort=False)
    table = grouped[[*MEASURES, "low", "high"]].mean()
    table.insert(5, "lowest", grouped.AUC.min())
    table.insert(6, "highest", grouped.AUC.max())
    return table.assign(splits=grouped.split.nunique()).loc[["frame", "video"]].round(3)


def by_method(scores: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The table of `over_splits` for some manipulations by themselves: the test part's reals against each one's fakes."""
    tables = {}
    for method in methods:
        rows = scores[(scores.part != "test") | scores.method.isin(["real", method])]
        tables[method] = over_splits(by_split(rows))
    return pd.concat(tables, names=["tested on"]) if tables else pd.DataFrame()


def across(scores: pd.DataFrame, home: pd.DataFrame) -> pd.DataFrame:
    """One row per corpus and model: how a detector does on a corpus it was not fitted on, videos as the unit.

    `scores` are those of `workbench.across`. `home` holds the scores of the same models and splits on their own corpus;
    its validation part gives the threshold.
    """
    found = []
    for (tested, model, split), rows in scores.groupby(["tested", "model", "split"], sort=False):
        own = home[(home.model == model) & (home.split == split) & (home.part == "validation")]
        both = pd.concat([own, rows.drop(columns="tested")], ignore_index=True)
        videos = rows.drop_duplicates(metrics.VIDEO).label
        found.append(chosen(by_split(both), "video").assign(
            tested=tested, reals=int((videos == 0).sum()), fakes=int((videos == 1).sum())))
    return pd.concat(found, ignore_index=True)[["tested", "model", "reals", "fakes", *MEASURES, "low", "high"]]


def paired(scores: pd.DataFrame, first: str, second: str, *, level: float = 0.95, draws: int = 2000,
           seed: int = 0) -> pd.DataFrame:
    """Compare two models on the same test videos, split by split: one row of `compare.compare` each."""
    test = scores[scores.part == "test"]
    if missing := {first, second} - set(test.model):
        raise UserError(f"there are no scores of {', '.join(sorted(missing))}, only of {', '.join(test.model.unique())}")
    videos = metrics.to_videos(test[test.model == first]), metrics.to_videos(test[test.model == second])
    both = videos[0].merge(videos[1], on=[*metrics.VIDEO, "split"], suffixes=("", "_other"), validate="one_to_one")
    return pd.DataFrame([
        {"split": split} | comparison.compare(rows.label, rows.score, rows.score_other, rows.group,
                                           level=level, draws=draws, seed=seed)
        for split, rows in both.groupby("split")])
