"""Turn the scores of several models on several splits into the tables of the chapters."""

from collections.abc import Sequence

import pandas as pd

from dfnb import KEY, UserError
from dfnb.evaluation import comparison, report
from dfnb.evaluation.intervals import DEFAULT, Bootstrap
from dfnb.evaluation.metrics import CHOSEN, CONSTANT

MEASURES = ["ACC", "F1", "balanced", "EER", "AUC"]


def by_split(scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return `report.table` for each model on each split.

    It has a row per model, split seed, unit (frame, video) and answer. `scores` has the columns of
    a score table, and model and split_seed; its splits are test and validation.
    """
    found = [report.table(rows, bootstrap).assign(model=model, split_seed=seed)
             for (model, seed), rows in scores.groupby(["model", "split_seed"], sort=False)]
    table = pd.concat(found, ignore_index=True)
    return table[["model", "split_seed", *table.columns.drop(["model", "split_seed"])]]


def chosen(per_split: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the rows of one unit at the threshold from validation."""
    return per_split[(per_split.unit == unit) & (per_split.answer == CHOSEN)]


def over_splits(per_split: pd.DataFrame, answer: str = CHOSEN) -> pd.DataFrame:
    """Return the mean of each measure over the fits, by unit and model, the constant answer last.

    A fit has its own draw of the split, or its own training seed where lists fix the split.
    `lowest` and `highest` are the AUCs of single fits, so they show a spread and are no interval.
    """
    constant = per_split[per_split.answer == CONSTANT].assign(model=CONSTANT)
    rows = pd.concat([per_split[per_split.answer == answer], constant])
    grouped = rows.groupby(["unit", "model"], sort=False)
    table = grouped[MEASURES].mean().assign(lowest=grouped.AUC.min(), highest=grouped.AUC.max())
    return table.assign(fits=grouped.split_seed.nunique()).loc[["frame", "video"]].round(3)


def answer(per_split: pd.DataFrame, model: str) -> str:
    """Word the AUC of a model's videos over the draws of the split."""
    rows = chosen(per_split, "video").query("model == @model")
    return (f"The {model} has a video AUC of {rows.AUC.mean():.3f}, the mean of {len(rows)} fits, "
            f"from {rows.AUC.min():.3f} to {rows.AUC.max():.3f}; the interval of one fit is "
            f"{rows.low.mean():.3f} to {rows.high.mean():.3f} (means of its bounds).")


def by_manipulation(scores: pd.DataFrame, manipulations: Sequence[str]) -> pd.DataFrame:
    """Return the table of `over_splits` for the fakes of each manipulation against all reals."""
    tables = {}
    for manipulation in manipulations:
        wanted = (scores.split != "test") | scores.manipulation.isin(["real", manipulation])
        tables[manipulation] = over_splits(by_split(scores[wanted]))
    return pd.concat(tables, names=["tested on"]) if tables else pd.DataFrame()


def across(scores: pd.DataFrame, home: pd.DataFrame) -> pd.DataFrame:
    """Return one row per corpus and model: a detector on a corpus it was not fitted on, by videos.

    `scores` are those of `experiment.across`. `home` holds the scores of the same models and splits
    on the corpus they were fitted on; its validation split gives the threshold.
    """
    found = []
    for (tested, model, seed), rows in scores.groupby(["tested", "model", "split_seed"],
                                                      sort=False):
        own = home[(home.model == model) & (home.split_seed == seed)
                   & (home.split == "validation")]
        both = pd.concat([own, rows.drop(columns="tested")], ignore_index=True)
        labels = rows.drop_duplicates(KEY).label
        found.append(chosen(by_split(both), "video").assign(
            tested=tested, reals=int((labels == 0).sum()), fakes=int((labels == 1).sum())))
    columns = ["tested", "model", "reals", "fakes", *MEASURES, "low", "high"]
    return pd.concat(found, ignore_index=True)[columns]


def paired(scores: pd.DataFrame, first: str, second: str,
           bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Compare two models on the same test videos: one row of `comparison.compare` per split."""
    test = scores[scores.split == "test"]
    if missing := {first, second} - set(test.model):
        raise UserError(f"there are no scores of {', '.join(sorted(missing))}, only of "
                        f"{', '.join(test.model.unique())}")
    of_first, of_second = (test[test.model == model] for model in (first, second))
    return comparison.table(of_first, of_second, bootstrap, by=["split_seed"])
