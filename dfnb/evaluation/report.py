"""Any detector's scores -> the full table, with intervals, thresholds and comparisons, without a model.

`report` works on the `scores` table of `scorefile`; `write` puts tables, JSON and plots into a folder.
"""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dfnb import KEY, UserError, files
from dfnb.evaluation import comparison, intervals, metrics, plots
from dfnb.evaluation.intervals import DEFAULT, Bootstrap
from dfnb.evaluation.score_files import read_scores

KEY = KEY
TABLES = ("table", "intervals", "counts", "manipulations", "averages", "comparison", "videos")


def evaluate(
    path: Path,
    out: Path,
    *,
    other: Path | None = None,
    score: str | None = None,
    label: str | None = None,
    logits: bool = False,
    bootstrap: Bootstrap = DEFAULT,
) -> dict:
    """Read a score file (and a second one to compare with), write the report into `out` and return it.

    See `report` for what it holds and `summary` for a short text of it.
    """
    options = {"score": score, "label": label, "logits": logits}
    scores, notes = read_scores(path, **options)
    second = None
    if other is not None:
        second, second_notes = read_scores(other, **options)
        notes += second_notes
    found = report(scores, second, bootstrap)
    found["notes"] = notes + found["notes"]
    write(found, out)
    return {**found, "folder": str(out)}


def report(
    scores: pd.DataFrame, other: pd.DataFrame | None = None, bootstrap: Bootstrap = DEFAULT
) -> dict:
    """Return the report of a `scores` table, on its split "test", as a dict of tables.

    table: metrics per unit (frame, video) and threshold (0.5, and from validation), with the interval of
    the AUC, and the constant answer; intervals: every kind of interval; counts: videos, groups and frames
    per manipulation; manipulations: AUC of each manipulation against all reals; averages: other ways from frames to a
    video; comparison: the paired comparison with `other`, or None; videos: the video scores; notes:
    sentences; confidence.
    """
    test = scores[scores["split"] == "test"]
    if test.empty:
        raise UserError(f"there are no rows of the split test, only {', '.join(sorted(set(scores['split'])))}")
    videos = metrics.to_videos(test)
    validation = scores[scores["split"] == "validation"]
    rows = [
        *_rows("frame", test, validation, bootstrap),
        *_rows("video", videos, _folded(validation), bootstrap),
    ]
    if len(videos) == len(test):
        rows = [row for row in rows if row["unit"] == "video"]
    return {
        "table": pd.DataFrame(rows),
        "intervals": _intervals(videos, bootstrap),
        "counts": _counts(test),
        "manipulations": _manipulations(videos, bootstrap),
        "averages": _averages(test),
        "comparison": None if other is None else _comparison(videos, other, bootstrap),
        "videos": videos,
        "notes": _notes(test, videos, validation),
        "confidence": bootstrap.confidence,
    }


def summary(found: dict) -> str:
    """Return the report as a short text for a terminal."""
    lines = list(found["notes"])
    columns = [
        "unit",
        "answer",
        "AUC",
        "low",
        "high",
        "EER",
        "HTER",
        "ACC",
        "balanced",
        "F1",
        "MCC",
        "threshold",
    ]
    lines += ["", found["table"][columns].to_string(index=False, float_format="{:.4f}".format, na_rep="-")]
    lines += ["", found["counts"].to_string(index=False)]
    if found["comparison"] is not None:
        lines += ["", found["comparison"]["says"].iloc[0]]
    if "folder" in found:
        lines += ["", f"tables and plots: {found['folder']}"]
    return "\n".join(lines)


def write(found: dict, folder: Path) -> None:
    """Write the tables as CSV, all but the video scores as report.json, and the plots roc and scores."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; the report needs a folder")
    tables = {name: found[name] for name in TABLES if found[name] is not None}
    for name, table in tables.items():
        files.atomic_write(folder / f"{name}.csv", table.to_csv(index=False))
    content = {name: _plain(table) for name, table in tables.items() if name != "videos"}
    content |= {"notes": found["notes"], "confidence": found["confidence"]}
    files.atomic_write(
        folder / "report.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    for name, figure in _figures(found).items():
        with files.atomic(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=100, metadata={"Software": None})


def _folded(rows: pd.DataFrame) -> pd.DataFrame:
    return metrics.to_videos(rows) if len(rows) else rows


def _rows(name: str, rows: pd.DataFrame, validation: pd.DataFrame, bootstrap: Bootstrap) -> list[dict]:
    """Return the table's rows of one unit; frames are resampled by identity group, never as units."""
    labels, scores, groups = (rows[column].to_numpy() for column in ("label", "score", "group"))
    if name == "video":
        found = intervals.interval(labels, scores, groups, bootstrap)
    else:
        found = intervals.cluster_bootstrap(labels, scores, groups, bootstrap)
    text = {"low": found.low, "high": found.high, "interval": found.kind, "reason": found.reason}
    thresholds = {"threshold 0.5": 0.5}
    if len(validation):
        chosen = metrics.best_threshold(validation["label"], validation["score"])
        thresholds |= {"threshold from validation": chosen} if not math.isnan(chosen) else {}
    answers = [
        {"answer": answer, **metrics.row(labels, scores, at), **text} for answer, at in thresholds.items()
    ]
    constant = {"answer": 'always "fake"', **metrics.constant_answer(labels)}
    order = ["AUC", "low", "high", "EER", "HTER", "ACC", "balanced", "F1", "MCC", "threshold"]
    order += ["TP", "FP", "FN", "TN", "interval", "reason"]
    return [
        {"unit": name, "answer": row["answer"], **{key: row.get(key, np.nan) for key in order}}
        for row in [*answers, constant]
    ]


def _intervals(videos: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return every kind of interval of the video AUC, the primary one marked."""
    labels, scores, groups = (videos[column].to_numpy() for column in ("label", "score", "group"))
    primary = intervals.interval(labels, scores, groups, bootstrap).kind
    value = metrics.auc(labels, scores)
    reason = metrics.undefined(labels, scores)
    bounds = intervals.newcombe(value, (labels == 1).sum(), (labels == 0).sum(), bootstrap.confidence)
    found = [
        intervals.Interval(value, *bounds, "Newcombe", reason),
        intervals.cluster_bootstrap(labels, scores, groups, bootstrap),
        intervals.delong(labels, scores, bootstrap.confidence),
        intervals.delong(labels, scores, bootstrap.confidence, logit=True),
    ]
    return pd.DataFrame([{**one._asdict(), "primary": one.kind == primary} for one in found])


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    grouped = rows.groupby(["label", "manipulation"], sort=True)
    counts = grouped.agg(groups=("group", "nunique"), frames=("score", "size"))
    counts.insert(0, "videos", rows.drop_duplicates(KEY).groupby(["label", "manipulation"]).size())
    return counts.reset_index()


def _manipulations(videos: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the AUC of each manipulation against all reals."""
    rows = []
    for manipulation in sorted(set(videos.loc[videos["label"] == 1, "manipulation"])):
        both = videos[(videos["label"] == 0) | (videos["manipulation"] == manipulation)]
        found = intervals.interval(both["label"], both["score"], both["group"], bootstrap)
        fakes = int((both["label"] == 1).sum())
        eer = metrics.eer(both["label"], both["score"])
        text = {"AUC": found.value, "low": found.low, "high": found.high, "EER": eer, "interval": found.kind}
        rows.append(
            {"manipulation": manipulation, "fakes": fakes, "reals": len(both) - fakes, **text, "reason": found.reason}
        )
    columns = ["manipulation", "fakes", "reals", "AUC", "low", "high", "EER", "interval", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Return AUC and EER for every way from frame scores to a video score; the mean is the result."""
    found = []
    for how in metrics.AVERAGES:
        videos = metrics.to_videos(rows, how)
        ranking = {
            name: of(videos["label"], videos["score"])
            for name, of in (("AUC", metrics.auc), ("EER", metrics.eer))
        }
        found.append({"average": how, **ranking})
    return pd.DataFrame(found)


def _comparison(videos: pd.DataFrame, other: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the paired comparison on the test videos that both files have, as a table of one row."""
    theirs = metrics.to_videos(other[other["split"] == "test"])
    both = videos.merge(theirs, on=KEY, suffixes=("", "_other"), validate="one_to_one")
    if both.empty:
        names = [table["video"].iloc[0] if len(table) else "nothing" for table in (videos, theirs)]
        raise UserError(
            f"the two score files have no test video in common (such as {names[0]!r} and {names[1]!r}); "
            "names and manipulations must be spelled alike"
        )
    if (both["label"] != both["label_other"]).any():
        name = both.loc[both["label"] != both["label_other"], "video"].iloc[0]
        raise UserError(f"the two score files give video {name!r} different labels")
    row = comparison.compare(
        both["label"].to_numpy(), both["score"], both["score_other"], both["group"], bootstrap
    )
    left_out = len(videos) + len(theirs) - 2 * len(both)
    return pd.DataFrame([{**row, "videos": len(both), "left_out": left_out}])


def _notes(test: pd.DataFrame, videos: pd.DataFrame, validation: pd.DataFrame) -> list[str]:
    reals, fakes = (int((videos["label"] == label).sum()) for label in (0, 1))
    notes = [f"test: {reals} real and {fakes} fake videos in {videos['group'].nunique()} identity groups"]
    if len(videos) == len(test):
        notes.append("one row per video: there is no frame level")
    if validation.empty:
        notes.append("no validation split: the threshold is 0.5, chosen by nobody")
    elif reason := metrics.undefined(validation["label"], validation["score"]):
        notes.append(f"no threshold from validation: {reason}")
    if reason := metrics.undefined(videos["label"], videos["score"]):
        notes.append(f"AUC and EER are undefined: {reason}")
    return notes


def _figures(found: dict) -> dict[str, Figure]:
    """Return the ROC and the histogram of the video scores; without both classes there is no ROC."""
    videos, figures = found["videos"], {}
    if not metrics.undefined(videos["label"], videos["score"]):
        figures["roc"] = Figure(figsize=(4.5, 4.5), layout="constrained")
        plots.roc({"videos": videos}, figures["roc"].subplots())
    figures["scores"] = Figure(figsize=(6, 3.5), layout="constrained")
    chosen = found["table"].query("answer == 'threshold from validation' and unit == 'video'")["threshold"]
    plots.score_histogram(
        videos, figures["scores"].subplots(), threshold=chosen.iloc[0] if len(chosen) else None
    )
    return figures


def _plain(table: pd.DataFrame) -> list[dict]:
    """Return rows for JSON, where what is undefined is null."""
    return json.loads(table.to_json(orient="records", double_precision=15))
