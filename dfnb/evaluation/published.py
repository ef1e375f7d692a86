"""The results that the study reports on FaceForensics++, as data, and what can be computed from them alone.

Nothing here was measured by this project. A table shows these rows beside measured ones only with their
`source`.
"""

import numpy as np
import pandas as pd

from dfnb.evaluation import intervals, metrics

SOURCE = "reported by the study on FaceForensics++ (real and FaceSwap in training, NeuralTextures in test)"
TEST_VIDEOS = {"positives": 100, "negatives": 10}  # fakes, reals
TEST_FRAMES = {"positives": 10_100, "negatives": 1_010}
GRID_CELLS = 27
DECIMALS = 4

_MODELS = """
unit model ACC F1 EER AUC
frame probe 0.8405 0.9112 0.3525 0.6961
frame lora  0.8898 0.9384 0.1628 0.8829
video probe 0.8182 0.8980 0.3800 0.7030
video lora  0.8909 0.9394 0.1850 0.8860
"""
_GRID = """
row                AUC   EER   F1     ACC    rank alpha dropout
best               0.886 0.185 0.9394 0.8909 8    64    0.05
most_parameters    0.836 0.195 0.8984 0.8273 32   64    0.05
fewest_parameters  0.839 0.180 0.9388 0.8909 8    32    0.05
dropout_0          0.872 0.190 0.9490 0.9091 8    64    0.00
dropout_0.1        0.848 0.210 0.9293 0.8727 8    16    0.10
lowest_AUC         0.786 0.245 0.8229 0.7182 16   64    0.05
median_AUC         0.833 0.190 0.8852 0.8091 32   64    0.00
"""


_PAPERS = """
model                   | paper                     | trained on               | tested on        | unit  | AUC
linear probe, ViT-L/14  | arXiv 2503.19683          | FF++ c23                 | Celeb-DF v2      | video | 0.781
LN-tuning, ViT-L/14     | arXiv 2503.19683          | FF++ c23                 | Celeb-DF v2      | video | 0.949
LN-tuning, full recipe  | arXiv 2503.19683          | FF++ c23                 | Celeb-DF v2      | video | 0.966
Effort                  | ICML 2025                 | FF++ c23                 | Celeb-DF v2      | video | 0.956
ForensicsAdapter        | CVPR 2025                 | FF++ c23                 | Celeb-DF v2      | video | 0.957
SBI                     | CVPR 2022                 | FF++ c23                 | Celeb-DF v2      | video | 0.929
Xception                | DeepfakeBench             | FF++ c23                 | Celeb-DF v2      | frame | 0.737
Xception                | DeepfakeBench             | one FF++ method          | another one      |       | 0.597
linear probe, ViT-B/32  | a published run           | FaceSwap c40             | NeuralTextures   | frame | 0.603
LoRA, ViT-B/32          | a published run           | FaceSwap c40             | NeuralTextures   | frame | 0.866
LoRA, ViT-B/32          | a published run           | FaceSwap c40             | Face2Face        | frame | 0.297
prompt tuning           | Khan, Dang-Nguyen 2024    |                          |                  |       |
reprogramming (RepDFD)  | arXiv 2409.02664          |                          |                  |       |
components (DFD-FCG)    | arXiv 2404.05583          |                          |                  |       |
multimodal, zero-shot   | arXiv 2403.14077          |                          |                  |       |
LoRA, few-shot          | Cappelletti et al. 2024   |                          |                  |       |
"""


def related() -> pd.DataFrame:
    """Return what others report: model, paper, trained_on, tested_on, unit, AUC (missing where we noted none)."""
    header, *rows = ([cell.strip() for cell in line.split("|")] for line in _PAPERS.strip().splitlines())
    table = pd.DataFrame(rows, columns=[name.replace(" ", "_") for name in header])
    return table.assign(AUC=pd.to_numeric(table["AUC"]).astype(object))  # so that a blank can stand for a missing one


def models() -> pd.DataFrame:
    """Return the reported table of the two models: unit, model, ACC, F1, EER, AUC, run_time, source."""
    return _table(_MODELS).assign(run_time="about 2 min", source=SOURCE)


def grid() -> pd.DataFrame:
    """Return the reported video-level rows of the LoRA grid, with rank, alpha, dropout and source."""
    return _table(_GRID).assign(source=SOURCE)


def confusion_from(
    *, ACC: float, F1: float, positives: int, negatives: int, decimals: int = DECIMALS
) -> pd.DataFrame:
    """Return every confusion matrix (TP, FP, FN, TN; fake is positive) that rounds to these ACC and F1.

    On few videos there is exactly one; none means that the numbers do not belong together.
    """
    FN, FP = np.meshgrid(np.arange(positives + 1), np.arange(negatives + 1), indexing="ij")
    TP, TN = positives - FN, negatives - FP
    half = 0.5 * 10.0**-decimals + 1e-9  # a value is rounded to the nearest, 1e-9 for binary fractions
    accuracy = (TP + TN) / (positives + negatives)
    with np.errstate(invalid="ignore"):
        f1 = 2 * TP / (2 * TP + FP + FN)
    fits = (np.abs(accuracy - ACC) <= half) & (np.abs(f1 - F1) <= half)
    return pd.DataFrame({"TP": TP[fits], "FP": FP[fits], "FN": FN[fits], "TN": TN[fits]})


def decoded(confidence: float = 0.95) -> pd.DataFrame:
    """Return the reported video-level rows with what follows by arithmetic, and the constant answer.

    Columns: row, reported AUC with Newcombe's interval (low, high), ACC, F1, balanced, MCC, TP, FP, FN, TN,
    matrices (how many confusion matrices fit; the counts are given where it is one).
    """
    probe = models().query("unit == 'video' and model == 'probe'").assign(row="linear_probe")
    rows = [_decode(row, confidence) for row in pd.concat([grid(), probe]).to_dict("records")]
    labels = np.repeat([1, 0], list(TEST_VIDEOS.values()))
    constant = {"row": "constant_answer_fake", **metrics.constant_answer(labels), "matrices": 1}
    order = ["row", "AUC", "low", "high", "ACC", "F1", "balanced", "MCC", "TP", "FP", "FN", "TN", "matrices"]
    return pd.DataFrame([*rows, constant])[order].astype(dict.fromkeys(["TP", "FP", "FN", "TN"], "Int64"))


def _decode(row: dict, confidence: float) -> dict:
    found = confusion_from(ACC=row["ACC"], F1=row["F1"], **TEST_VIDEOS)
    low, high = intervals.newcombe(row["AUC"], **TEST_VIDEOS, confidence=confidence)
    words = {key: row[key] for key in ("row", "AUC")} | {"low": low, "high": high, "matrices": len(found)}
    if len(found) != 1:
        return {**words, "ACC": row["ACC"], "F1": row["F1"]}
    return {**metrics.from_counts(**{str(name): int(count) for name, count in found.iloc[0].items()}), **words}


def _table(text: str) -> pd.DataFrame:
    header, *lines = (line.split() for line in text.strip().splitlines())
    return pd.DataFrame(lines, columns=header).apply(_numbers)


def _numbers(column: pd.Series) -> pd.Series:
    return column if column.name in ("unit", "model", "row") else pd.to_numeric(column)
