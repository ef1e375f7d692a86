"""Read a score file that any detector wrote (CSV, TSV, Parquet) into the `scores` table.

Columns: video, score, label, and where present manipulation, corpus, frame, split, group, in
several spellings. An error names the row of the file.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb import KEY, UserError
from dfnb.data import identity, layouts

SPELLINGS = {
    "video": "video video_id videoid video_name clip clip_id filename file path name id",
    "score": "score prob probability p_fake prob_fake fake_prob fake_probability fake_score"
             " prediction pred y_score y_prob logit",
    "label": "label y y_true true_label ground_truth gt is_fake fake class",
    "manipulation": "manipulation method manipulation_method forgery",
    "corpus": "corpus dataset",
    "frame": "frame frame_id frame_idx frame_index frame_number frame_num",
    "split": "split part subset set",
    "group": "group identity identity_group person cluster",
}
REQUIRED = ("video", "score", "label")
LABELS = {"0": 0, "0.0": 0, "real": 0, "false": 0, "original": 0, "pristine": 0}
LABELS |= {"1": 1, "1.0": 1, "fake": 1, "true": 1, "manipulated": 1, "synthetic": 1}
SPLIT_SPELLINGS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_SPELLINGS |= dict.fromkeys(("validation", "val", "valid", "dev"), "validation")
COLUMNS = ["corpus", "manipulation", "video", "group", "split", "frame", "label", "score"]
FFPP_NAME = re.compile(r"(\d{3})(?:_(\d{3}))?(?:\.\w+)?$")  # 000, 000_003, 000_003.mp4
RowName = Callable[[int], str]  # index of a row -> how a message calls it


def read_scores(path: Path, *, score: str | None = None, label: str | None = None,
                logits: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Return the `scores` table of a file (COLUMNS) and notes on how it was read.

    `score` and `label` name columns; `logits` allows any finite score and maps it to a probability.
    Without a split column all rows are test; without frames each row of a video is one. Raises
    UserError naming the first bad rows.
    """
    path = Path(path)
    raw, row_name = _read(path)
    raw = _renamed(raw, path, {"score": score, "label": label})
    table = pd.DataFrame({"video": _texts(raw, "video", row_name)}, index=raw.index)
    table["score"] = _probabilities(raw["score"], logits, row_name)
    table["label"] = _mapped(raw["label"], LABELS, "label", "0 or real, 1 or fake", row_name)
    table["split"] = "test"
    if "split" in raw:
        table["split"] = _mapped(raw["split"], SPLIT_SPELLINGS, "split",
                                 "train, validation, test", row_name)
    table["corpus"], table["manipulation"] = "scores", _manipulations(table)
    for name in {"corpus", "manipulation"} & set(raw):
        table[name] = _texts(raw, name, row_name)
    table["frame"] = _frames(raw, table, row_name)
    _check(table, "frame" in raw, row_name)
    table["group"], note = _groups(raw, table, row_name)
    notes = [f"{len(table)} rows read from {path.name}", note]
    return table[COLUMNS].reset_index(drop=True), notes


def _read(path: Path) -> tuple[pd.DataFrame, RowName]:
    """Return the raw table, as text where it came as text, and how a row is called in a message."""
    if not path.is_file():
        raise UserError(f"there is no score file {path}")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            raw = pd.read_parquet(path).reset_index(drop=True)
            return raw, lambda index: f"row {index + 1}"
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        options = {"keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
        raw = pd.read_csv(path, sep=separator, dtype=str, index_col=False, **options).fillna("")
    except (ValueError, OSError) as error:  # pandas and pyarrow raise kinds of these
        raise UserError(f"{path} is no readable CSV or Parquet table: {str(error).strip()}"
                        ) from error
    raw = raw[(raw != "").any(axis=1)]  # blank lines, whose numbers stay counted
    return raw, lambda index: f"row {index + 1} (line {index + 2})"


def _renamed(raw: pd.DataFrame, path: Path, named: dict[str, str | None]) -> pd.DataFrame:
    """Return the columns under our names; columns that the user names go before known spellings."""
    there, found = ", ".join(map(str, raw)), {}
    plain = {re.sub(r"[\s-]+", "_", str(column).strip().lower()): column for column in raw}
    for ours, spellings in SPELLINGS.items():
        wanted = named.get(ours)
        if wanted is not None and wanted not in raw:
            raise UserError(f"{path.name} has no column {wanted!r} for the {ours}; it has {there}")
        known = [plain[name] for name in spellings.split()
                 if name in plain and plain[name] not in named.values()]
        if wanted is not None or known:
            found[ours] = wanted if wanted is not None else known[0]
    if missing := [name for name in REQUIRED if name not in found]:
        raise UserError(f"{path.name} needs a column for {' and '.join(missing)}; it has {there} "
                        "(name the score and label columns by option)")
    if raw.empty:
        raise UserError(f"{path.name} has a header and no rows")
    return pd.DataFrame({ours: raw[column] for ours, column in found.items()})


def _texts(raw: pd.DataFrame, column: str, row_name: RowName) -> pd.Series:
    """Return a column as text, leading zeros kept; numbers of Parquet become their digits."""
    texts = raw[column].astype(str).str.strip().where(raw[column].notna(), "")
    _refuse(texts == "", texts, f"has no {column}", row_name)
    return texts


def _probabilities(column: pd.Series, logits: bool, row_name: RowName) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    _refuse(numbers.isna(), column, "has a score that is no number", row_name)
    _refuse(np.isinf(numbers), column, "has an infinite score", row_name)
    if logits:
        return pd.Series(expit(numbers.to_numpy()), index=column.index)
    _refuse((numbers < 0) | (numbers > 1), column,
            "has a score outside [0, 1]; if the scores are logits, say so by option", row_name)
    return numbers


def _mapped(column: pd.Series, meaning: dict, name: str, allowed: str, row_name: RowName
            ) -> pd.Series:
    known = column.astype(str).str.strip().str.lower().map(meaning)
    _refuse(known.isna(), column, f"has a {name} that is none of {allowed}", row_name)
    return known.astype(type(next(iter(meaning.values()))))


def _manipulations(table: pd.DataFrame) -> pd.Series:
    """Name the manipulation by a folder of the video's path that is one, else by the label."""
    known = "|".join(sorted(layouts.KINDS))
    named = table["video"].str.extract(rf"(?:^|[/\\])({known})[/\\]", expand=False)
    by_label = table["label"].map({0: "real", 1: "fake"})
    return named.where(named.notna() & (table["label"] == 1), by_label)


def _frames(raw: pd.DataFrame, table: pd.DataFrame, row_name: RowName) -> pd.Series:
    if "frame" not in raw:
        return table.groupby([*KEY, "split"]).cumcount()
    numbers = pd.to_numeric(raw["frame"], errors="coerce")
    broken = numbers.isna() | (numbers % 1 != 0)
    _refuse(broken, raw["frame"], "has a frame that is no whole number", row_name)
    return numbers.astype(int)


def _check(table: pd.DataFrame, has_frames: bool, row_name: RowName) -> None:
    first = table.groupby(KEY)["label"].transform("first")
    _refuse(table["label"] != first, table["video"], "gives a video a second label", row_name)
    if has_frames:
        twice = table.duplicated([*KEY, "split", "frame"])
        _refuse(twice, table["video"], "repeats a frame of a video", row_name)
    if table["label"].nunique() == 1:
        only = "fake" if table["label"].iloc[0] == 1 else "real"
        ends = f"{row_name(table.index[0])} to {row_name(table.index[-1])}"
        raise UserError(f"all rows, {ends}, are {only}: a ranking needs real and fake videos")


def _groups(raw: pd.DataFrame, table: pd.DataFrame, row_name: RowName) -> tuple[pd.Series, str]:
    """Return the file's identity groups, else those of FF++ names, else one per video name."""
    if "group" in raw:
        return _texts(raw, "group", row_name), "identity groups are those of the file"
    stems = table["video"].str.replace("\\", "/").str.rsplit("/", n=1).str[-1]
    ids = stems.str.extract(FFPP_NAME).where(stems.str.match(FFPP_NAME), None)
    looks = ids[0].notna()
    videos = pd.DataFrame({"corpus": table["corpus"], "target": ids[0].where(looks, stems),
                           "source": ids[1]})
    groups = identity.identity_groups(videos).astype(str)
    if looks.all():
        return groups, ("identity groups were derived from names of FaceForensics++ "
                        "(target_source)")
    return groups, (f"{int((~looks).sum())} rows have names that show no identities: each such "
                    "video counts as one group, and intervals may be too narrow (add a column "
                    "group)")


def _refuse(bad: pd.Series, values: pd.Series, what: str, row_name: RowName) -> None:
    """Raise UserError naming the first bad row, its value, and how many more there are."""
    if not bad.any():
        return
    first, more = bad.index[bad.to_numpy()][0], int(bad.sum()) - 1
    others = f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
    raise UserError(f"{row_name(first)} {what}: {str(values.loc[first])!r}{others}")
