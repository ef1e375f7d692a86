"""Evaluate the scores of any detector: tables, intervals, thresholds, comparison, plots; no model.

`report` works on the table of `score_files`; `write` puts tables, JSON and plots into a folder.
"""

import json
import math
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from dfnb import KEY, UserError, files
from dfnb.evaluation import comparison, intervals, metrics, plots
from dfnb.evaluation.intervals import DEFAULT, Bootstrap
from dfnb.evaluation.metrics import CHOSEN, CONSTANT, COUNTS, FIXED, RATES
from dfnb.evaluation.score_files import read_scores

TABLES = ("table", "intervals", "counts", "manipulations", "averages", "comparison", "videos")
MEASURES = ["AUC", "low", "high", "EER", *RATES, "threshold"]  # HTER, ACC, ... at the threshold
ROW = ["unit", "answer", *MEASURES, *COUNTS, "interval", "reason"]


def evaluate(path: Path, out: Path, *, other: Path | None = None, score: str | None = None,
             label: str | None = None, logits: bool = False, bootstrap: Bootstrap = DEFAULT
             ) -> dict:
    """Read a score file (and a second one to compare with), write the report into `out`, return it.

    See `report` for its content and `summary` for a short text of it.
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


def report(scores: pd.DataFrame, other: pd.DataFrame | None = None, bootstrap: Bootstrap = DEFAULT
           ) -> dict:
    """Return the report of a `scores` table, on its split "test", as a dict of tables.

    table: metrics per unit (frame, video) and threshold (0.5, and from validation), with the
    interval of the AUC, and the constant answer. intervals: every kind of interval. counts: videos,
    groups and frames per manipulation. manipulations: the AUC of each manipulation against all
    reals. averages: other ways from frames to a video. comparison: the paired comparison with
    `other`, or None. videos: the video scores. notes: sentences. confidence: of all intervals.
    """
    measured, test = table(scores, bootstrap), scores[scores["split"] == "test"]
    videos, validation = metrics.to_videos(test), scores[scores["split"] == "validation"]
    primary = measured.loc[measured["unit"] == "video", "interval"].iloc[0]
    return {
        "table": measured,
        "intervals": _intervals(videos, primary, bootstrap),
        "counts": _counts(test),
        "manipulations": _manipulations(videos, bootstrap),
        "averages": _averages(test),
        "comparison": None if other is None else _comparison(videos, other, bootstrap),
        "videos": videos,
        "notes": _notes(test, videos, validation),
        "confidence": bootstrap.confidence,
    }


def table(scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return the table of `report` alone: a row (`ROW`) per unit and answer."""
    test, validation = (scores[scores["split"] == name] for name in ("test", "validation"))
    if test.empty:
        raise UserError("there are no rows of the split test, only "
                        f"{', '.join(sorted(set(scores['split'])))}")
    videos, rows = metrics.to_videos(test), []
    if len(videos) < len(test):
        rows += _rows("frame", test, validation, bootstrap)
    rows += _rows("video", videos, metrics.to_videos(validation), bootstrap)
    return pd.DataFrame(rows, columns=ROW)


def summary(found: dict) -> str:
    """Return the report as a short text for a terminal."""
    measured = found["table"][["unit", "answer", *MEASURES]]
    lines = [*found["notes"], "",
             measured.to_string(index=False, float_format="{:.4f}".format, na_rep="-"),
             "", found["counts"].to_string(index=False)]
    if found["comparison"] is not None:
        lines += ["", found["comparison"]["says"].iloc[0]]
    if "folder" in found:
        lines += ["", f"tables and plots: {found['folder']}"]
    return "\n".join(lines)


def write(found: dict, folder: Path) -> None:
    """Write the tables as CSV, all but the video scores as report.json, and the plots."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; the report needs a folder")
    tables = {name: found[name] for name in TABLES if found[name] is not None}
    for name, rows in tables.items():
        files.atomic_write(folder / f"{name}.csv", rows.to_csv(index=False))
    content = {name: json.loads(rows.to_json(orient="records", double_precision=15))
               for name, rows in tables.items() if name != "videos"}  # what is undefined is null
    content |= {"notes": found["notes"], "confidence": found["confidence"]}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files.atomic_write(folder / "report.json", text)
    for name, figure in _figures(found).items():
        with files.atomic(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=100, metadata={"Software": None})


def _rows(unit: str, rows: pd.DataFrame, validation: pd.DataFrame, bootstrap: Bootstrap
          ) -> list[dict]:
    """Return the table's rows of one unit; frames are resampled by identity group."""
    bounds = intervals.interval if unit == "video" else intervals.cluster_bootstrap
    ranking = intervals.auc_row(rows, bootstrap, bounds)
    thresholds = {FIXED: 0.5}
    if len(validation):
        chosen = metrics.best_threshold(validation["label"], validation["score"])
        thresholds |= {} if math.isnan(chosen) else {CHOSEN: chosen}
    answers = [ranking | metrics.at_threshold(rows["label"], rows["score"], at)
               | {"answer": name, "threshold": at} for name, at in thresholds.items()]
    constant = metrics.constant_answer(rows["label"]) | {"answer": CONSTANT}
    return [{"unit": unit} | row for row in [*answers, constant]]


def _intervals(videos: pd.DataFrame, primary: str, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return every kind of interval of the video AUC, the primary one marked."""
    labels, scores, groups = (videos[column].to_numpy() for column in ("label", "score", "group"))
    found = [intervals.newcombe_of(labels, scores, bootstrap.confidence),
             intervals.cluster_bootstrap(labels, scores, groups, bootstrap),
             intervals.delong(labels, scores, bootstrap.confidence),
             intervals.delong(labels, scores, bootstrap.confidence, logit=True)]
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
        rows.append(intervals.auc_row(both, bootstrap) | {"manipulation": manipulation})
    columns = ["manipulation", "fakes", "reals", "AUC", "low", "high", "EER", "interval", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Return AUC and EER for every way to average frames; the mean is the study's."""
    found = []
    for how in metrics.AVERAGES:
        videos = metrics.to_videos(rows, how)
        labels, scores = videos["label"], videos["score"]
        found.append({"average": how, "AUC": metrics.auc(labels, scores),
                      "EER": metrics.eer(labels, scores)})
    return pd.DataFrame(found)


def _comparison(videos: pd.DataFrame, other: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the paired comparison on the test videos of both files, as a table of one row."""
    theirs = metrics.to_videos(other[other["split"] == "test"])
    compared = comparison.table(videos, theirs, bootstrap)
    both = compared["reals"] + compared["fakes"]
    return compared.assign(videos=both, left_out=len(videos) + len(theirs) - 2 * both)


def _notes(test: pd.DataFrame, videos: pd.DataFrame, validation: pd.DataFrame) -> list[str]:
    reals, fakes = (int((videos["label"] == label).sum()) for label in (0, 1))
    notes = [f"test: {reals} real and {fakes} fake videos in {videos['group'].nunique()} identity "
             "groups"]
    if len(videos) == len(test):
        notes.append("there is one row per video: nothing is said about frames")
    if validation.empty:
        notes.append("no validation split: the threshold is 0.5, and nothing chose it")
    elif reason := metrics.undefined(validation["label"], validation["score"]):
        notes.append(f"no threshold from validation: {reason}")
    if reason := metrics.undefined(videos["label"], videos["score"]):
        notes.append(f"AUC and EER are undefined: {reason}")
    return notes


def _figures(found: dict) -> dict[str, Figure]:
    """Return the ROC (where both classes are there) and the histogram of the video scores."""
    videos, figures = found["videos"], {}
    if not metrics.undefined(videos["label"], videos["score"]):
        figures["roc"] = Figure(figsize=(4.5, 4.5), layout="constrained")
        plots.roc({"videos": videos}, figures["roc"].subplots())
    figures["scores"] = Figure(figsize=(6, 3.5), layout="constrained")
    wanted = (found["table"].answer == CHOSEN) & (found["table"].unit == "video")
    threshold = next(iter(found["table"].threshold[wanted]), None)
    plots.score_histogram(videos, figures["scores"].subplots(), threshold=threshold)
    return figures
