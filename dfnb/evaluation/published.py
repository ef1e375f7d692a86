"""The results that the study reports on FaceForensics++, and what follows from them by arithmetic.

Nothing here was measured by this project. A table shows these rows beside measured ones only with
their `source`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from dfnb.evaluation import intervals, metrics

REPORTED = Path(__file__).with_name("reported")  # tables as CSV
SOURCE = ("reported by the study on FaceForensics++ "
          "(real and FaceSwap in training, NeuralTextures in test)")
TEST_VIDEOS = {"positives": 100, "negatives": 10}  # fakes, reals
FRAMES = 101  # of each video
GRID_SETTINGS = 27  # combinations of rank, alpha and dropout
DECIMALS = 4


def related() -> pd.DataFrame:
    """Return what others report: model, paper, trained_on, tested_on, unit, AUC.

    The AUC is missing where we noted none.
    """
    table = pd.read_csv(REPORTED / "papers.csv", keep_default_na=False)
    return table.assign(AUC=pd.to_numeric(table["AUC"]).astype(object))  # a blank may replace NaN


def models() -> pd.DataFrame:
    """Return the reported table of the models: unit, model, ACC, F1, EER, AUC, run_time, source."""
    return pd.read_csv(REPORTED / "models.csv").assign(run_time="about 2 min", source=SOURCE)


def grid() -> pd.DataFrame:
    """Return the reported video-level rows of the LoRA grid, with rank, alpha, dropout, source."""
    return pd.read_csv(REPORTED / "grid.csv").assign(source=SOURCE)


def confusion_from(*, ACC: float, F1: float, positives: int, negatives: int,
                   decimals: int = DECIMALS) -> pd.DataFrame:
    """Return every confusion matrix (TP, FP, FN, TN; fake is positive) that rounds to ACC and F1.

    On few videos there is exactly one; none means that the numbers do not belong together.
    """
    FN, FP = np.meshgrid(np.arange(positives + 1), np.arange(negatives + 1), indexing="ij")
    TP, TN = positives - FN, negatives - FP
    half = 0.5 * 10.0**-decimals + 1e-9  # rounded to the nearest; 1e-9 for binary fractions
    accuracy = (TP + TN) / (positives + negatives)
    with np.errstate(invalid="ignore"):
        f1 = 2 * TP / (2 * TP + FP + FN)
    fits = (np.abs(accuracy - ACC) <= half) & (np.abs(f1 - F1) <= half)
    return pd.DataFrame({"TP": TP[fits], "FP": FP[fits], "FN": FN[fits], "TN": TN[fits]})


def decoded(confidence: float = 0.95) -> pd.DataFrame:
    """Return the reported video rows with what follows by arithmetic, and the constant answer.

    Columns: row, reported AUC with Newcombe's interval (low, high), ACC, F1, balanced, MCC, TP, FP,
    FN, TN, and matrices: how many confusion matrices fit. The counts are given where it is one.
    """
    probe = models().query("unit == 'video' and model == 'probe'").assign(row="linear_probe")
    rows = [_decode(row, confidence) for row in pd.concat([grid(), probe]).to_dict("records")]
    labels = np.repeat([1, 0], list(TEST_VIDEOS.values()))
    constant = metrics.constant_answer(labels) | {"row": "constant_answer_fake", "matrices": 1}
    counts = ["TP", "FP", "FN", "TN"]
    order = ["row", "AUC", "low", "high", "ACC", "F1", "balanced", "MCC", *counts, "matrices"]
    return pd.DataFrame([*rows, constant])[order].astype(dict.fromkeys(counts, "Int64"))


def decoded_frames() -> pd.DataFrame:
    """Return what the reported frame rows leave possible, by model, and the constant answer.

    Several confusion matrices round to the same ACC and F1. Columns: model, ACC, F1, matrices (how
    many fit), and the lowest and highest true-negative rate and balanced accuracy among them.
    """
    size = {name: count * FRAMES for name, count in TEST_VIDEOS.items()}
    rows = []
    for row in models().query("unit == 'frame'").to_dict("records"):
        found = confusion_from(ACC=row["ACC"], F1=row["F1"], **size)
        rate = found["TN"] / size["negatives"]
        balanced = (rate + found["TP"] / size["positives"]) / 2
        rows.append({"model": row["model"], "ACC": row["ACC"], "F1": row["F1"],
                     "matrices": len(found), "TNR lowest": rate.min(), "TNR highest": rate.max(),
                     "balanced lowest": balanced.min(), "balanced highest": balanced.max()})
    answer = metrics.constant_answer(np.repeat([1, 0], list(size.values())))
    constant = {"model": metrics.CONSTANT, "ACC": answer["ACC"], "F1": answer["F1"], "matrices": 1,
                "TNR lowest": 0.0, "TNR highest": 0.0, "balanced lowest": answer["balanced"],
                "balanced highest": answer["balanced"]}
    return pd.DataFrame([*rows, constant])


def _decode(row: dict, confidence: float) -> dict:
    """Return one row of `decoded` from a reported row with row, ACC, F1 and AUC."""
    found = confusion_from(ACC=row["ACC"], F1=row["F1"], **TEST_VIDEOS)
    low, high = intervals.newcombe(row["AUC"], **TEST_VIDEOS, confidence=confidence)
    known = {"row": row["row"], "AUC": row["AUC"], "low": low, "high": high, "matrices": len(found)}
    if len(found) != 1:
        return known | {"ACC": row["ACC"], "F1": row["F1"]}
    return metrics.from_counts(**found.iloc[0].to_dict()) | known
