"""Read a score file that any detector wrote (CSV, TSV, Parquet) into the `scores` table.

Columns: video, score, label, and where present manipulation, corpus, frame, split, group, in
several spellings. An error names the row of the file.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb import KEY, UserError
from dfnb.data import identity, layouts

COLUMNS = ["corpus", "manipulation", "video", "group", "split", "frame", "label", "score"]
FFPP_NAME = r"^(\d{3})(?:_(\d{3}))?(?:\.\w+)?$"  # 000, 000_003, 000_003.mp4
LABELS = {"0": 0, "0.0": 0, "real": 0, "false": 0, "original": 0, "pristine": 0}
LABELS |= {"1": 1, "1.0": 1, "fake": 1, "true": 1, "manipulated": 1, "synthetic": 1}
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("validation", "val", "valid", "dev"), "validation")


def _text(column: pd.Series) -> pd.Series:
    text = column.astype(str).str.strip()  # numbers of Parquet become their digits
    return text.where(column.notna() & (text != ""))


def _number(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce").astype(float)


def _whole(column: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers.where(numbers % 1 == 0)


def _one_of(meaning: dict) -> Callable[[pd.Series], pd.Series]:
    return lambda column: column.astype(str).str.strip().str.lower().map(meaning)


class Column(NamedTuple):
    """Hold how a column may be spelled, how it is read, and the refusal of what is read as NaN."""

    spellings: str
    read: Callable[[pd.Series], pd.Series]
    refusal: str


READ = {
    "video": Column("video video_id videoid video_name clip clip_id filename file path name id",
                    _text, "has no video"),
    "score": Column("score prob probability p_fake prob_fake fake_prob fake_probability fake_score"
                    " prediction pred y_score y_prob logit",
                    _number, "has a score that is no number"),
    "label": Column("label y y_true true_label ground_truth gt is_fake fake class",
                    _one_of(LABELS), "has a label that is none of 0 or real, 1 or fake"),
    "split": Column("split part subset set",
                    _one_of(SPLITS), "has a split that is none of train, validation, test"),
    "corpus": Column("corpus dataset", _text, "has no corpus"),
    "manipulation": Column("manipulation method manipulation_method forgery",
                           _text, "has no manipulation"),
    "frame": Column("frame frame_id frame_idx frame_index frame_number frame_num",
                    _whole, "has a frame that is no whole number"),
    "group": Column("group identity identity_group person cluster", _text, "has no group"),
}


def read_scores(path: Path, *, score: str | None = None, label: str | None = None,
                logits: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Return the `scores` table of a file (COLUMNS) and notes on how it was read.

    `score` and `label` name columns; `logits` allows any finite score and maps it to a probability.
    Without a split column all rows are test; without frames each row of a video is one. Raises
    UserError naming the first bad row.
    """
    path = Path(path)
    raw, table = _renamed(_raw(path), path, {"score": score, "label": label}), {}
    for name, column in READ.items():
        if name in raw:
            table[name] = column.read(raw[name])
            _refuse(table[name].isna(), raw[name], column.refusal)
    table["score"] = _probabilities(table["score"], raw["score"], logits)
    defaults = {"split": "test", "corpus": "scores", "manipulation": _manipulations(table)}
    table = pd.DataFrame(defaults | table)
    _check(table)
    if "frame" not in table:
        table["frame"] = table.groupby([*KEY, "split"]).cumcount()
    table["group"], note = _groups(table)
    table = table.astype({"frame": int, "label": int})
    return table[COLUMNS].reset_index(drop=True), [f"{len(table)} rows read from {path.name}", note]


def _raw(path: Path) -> pd.DataFrame:
    """Return the table, as text where it came as text; its index names the rows for a message."""
    if not path.is_file():
        raise UserError(f"there is no score file {path}")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            raw = pd.read_parquet(path)
            return raw.set_axis([f"row {at}" for at in range(1, len(raw) + 1)])
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        options = {"keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
        raw = pd.read_csv(path, sep=separator, dtype=str, index_col=False, **options).fillna("")
    except (ValueError, OSError) as error:  # pandas and pyarrow raise kinds of these
        raise UserError(f"{path} is no readable CSV or Parquet table: {str(error).strip()}"
                        ) from error
    raw.index = [f"row {at} (line {at + 1})" for at in range(1, len(raw) + 1)]
    return raw[(raw != "").any(axis=1)]  # blank lines go after they were counted


def _renamed(raw: pd.DataFrame, path: Path, named: dict[str, str | None]) -> pd.DataFrame:
    """Return the columns under our names; columns that the user names go before known spellings."""
    there = ", ".join(map(str, raw))
    found = {ours: name for ours, name in named.items() if name is not None}
    for ours, name in found.items():
        if name not in raw:
            raise UserError(f"{path.name} has no column {name!r} for the {ours}; it has {there}")
    plain = {re.sub(r"[\s-]+", "_", str(name).strip().lower()): name for name in raw
             if name not in found.values()}
    for ours, column in READ.items():
        known = [plain[spelling] for spelling in column.spellings.split() if spelling in plain]
        if known:
            found.setdefault(ours, known[0])
    if missing := [name for name in ("video", "score", "label") if name not in found]:
        raise UserError(f"{path.name} needs a column for {' and '.join(missing)}; it has {there} "
                        "(name the score and label columns by option)")
    if raw.empty:
        raise UserError(f"{path.name} has a header and no rows")
    return pd.DataFrame({ours: raw[name] for ours, name in found.items()})


def _probabilities(numbers: pd.Series, raw: pd.Series, logits: bool) -> pd.Series:
    _refuse(np.isinf(numbers), raw, "has an infinite score")
    if logits:
        return pd.Series(expit(numbers.to_numpy()), index=numbers.index)
    _refuse((numbers < 0) | (numbers > 1), raw,
            "has a score outside [0, 1]; if the scores are logits, say so by option")
    return numbers


def _manipulations(table: dict[str, pd.Series]) -> pd.Series:
    """Name the manipulation by a folder of the video's path that is one, else by the label."""
    known = "|".join(sorted(layouts.KINDS))
    named = table["video"].str.extract(rf"(?:^|[/\\])({known})[/\\]", expand=False)
    by_label = table["label"].map({0: "real", 1: "fake"})
    return named.where(named.notna() & (table["label"] == 1), by_label)


def _check(table: pd.DataFrame) -> None:
    """Raise UserError for a video of two labels, a frame given twice, and a file of one class."""
    first = table.groupby(KEY)["label"].transform("first")
    _refuse(table["label"] != first, table["video"], "gives a video a second label")
    if "frame" in table:
        twice = table.duplicated([*KEY, "split", "frame"])
        _refuse(twice, table["video"], "repeats a frame of a video")
    if table["label"].nunique() == 1:
        only = "fake" if table["label"].iloc[0] == 1 else "real"
        raise UserError(f"all rows, {table.index[0]} to {table.index[-1]}, are {only}: a ranking "
                        "needs real and fake videos")


def _groups(table: pd.DataFrame) -> tuple[pd.Series, str]:
    """Return the file's groups, else those of FF++ names, else one per name; and a note on them."""
    if "group" in table:
        return table["group"], "identity groups are those of the file"
    stems = table["video"].str.replace("\\", "/").str.rsplit("/", n=1).str[-1]
    ids = stems.str.extract(FFPP_NAME)  # columns 0 (target) and 1 (source)
    videos = ids.set_axis(["target", "source"], axis=1).assign(corpus=table["corpus"])
    groups = identity.identity_groups(videos.fillna({"target": stems})).astype(str)
    note = "identity groups were derived from names of FaceForensics++ (target_source)"
    if unknown := int(ids[0].isna().sum()):
        note = (f"{unknown} rows have names that show no identities: each such video counts as one "
                "group, and intervals may be too narrow (add a column group)")
    return groups, note


def _refuse(bad: pd.Series, values: pd.Series, what: str) -> None:
    """Raise UserError naming the first bad row, its value, and the number of further bad rows."""
    if bad.any():
        first, more = bad.index[bad.to_numpy()][0], int(bad.sum()) - 1
        others = f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
        raise UserError(f"{first} {what}: {str(values.loc[first])!r}{others}")
