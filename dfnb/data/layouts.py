"""The layouts that corpora come in: each is a function from a root to one row for everything that lies there.

Files are found by name alone (no file is opened or asked for its size), so that a corpus on a network drive is
listed in seconds. Links are followed; hidden files and folders are left out; .MP4 is .mp4.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dfnb import SPLITS, DataError, UserError

REAL = "real"
COMPRESSIONS = ("raw", "c23", "c40")
EVERYTHING = ["corpus", "manipulation", "compression", "video", "label", "target", "source", "path", "problem"]
NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are no UTF-8
ID = r"[^_\s]+"  # a blank in a name marks a stray copy, such as "000 (1).mp4": it would be a leak
NAMES = {  # (corpus, is it real) -> pattern of a file's stem, and how to say it
    ("FF++", True): (rf"(?P<target>{ID})", "<id>"),
    ("FF++", False): (rf"(?P<target>{ID})_(?P<source>{ID})", "<target>_<source>"),
    ("DFD", True): (rf"(?P<target>{ID})__\S+", "<actor>__<scene>"),
    ("DFD", False): (rf"(?P<target>{ID})_(?P<source>{ID})__\S+", "<target>_<source>__<scene>__<code>"),
    ("Celeb-DF", True): (r"(?P<target>id\d+)_\d+|\d+", "<person>_<number> or <number>"),
    ("Celeb-DF", False): (r"(?P<target>id\d+)_(?P<source>id\d+)_\d+", "<target>_<source>_<number>"),
}


@dataclass(frozen=True)
class Found:
    """What lies at a root: `videos` has the columns `EVERYTHING`, and split and person where they are known.

    compression is "" where the layout does not tell it; problem is "" or a sentence on why the row cannot be used; a
    row whose class is not known has the manipulation "". `notes` are sentences on what is odd and stops nothing.
    """

    root: Path
    layout: str
    videos: pd.DataFrame
    notes: list[str]


def read(root: Path, layout: str | None = None) -> Found:
    """Everything at `root` (a folder, or the file of a manifest), in the layout given or recognised."""
    root = Path(root).resolve()
    layout = recognise(root) if layout is None else layout
    if layout not in LAYOUTS:
        raise UserError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not _fits(root, layout):
        raise DataError(f"no corpus in the layout {layout} at {root}: expected {LAYOUTS[layout].sign} and found "
                        f"{_there(root)}; set corpus.root or corpus.layout in the profile")
    notes: list[str] = []
    try:
        videos = pd.DataFrame(list(LAYOUTS[layout].rows(root, notes)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the corpus at {root} (layout {layout}) cannot be read: {error}") from error
    videos = videos.reindex(columns=[*EVERYTHING, *(name for name in ("split", "person") if name in videos)])
    return Found(root, layout, videos, notes)


def recognise(root: Path) -> str:
    """The name of the layout at `root`; DataError that says what is there, and where a corpus may lie instead."""
    for layout in LAYOUTS:
        if _fits(root, layout):
            return layout
    if not root.exists():
        raise DataError(f"no corpus at {root}: there is no such folder; set corpus.root in the profile to your copy, "
                        "or make one to try with `dfnb demo FOLDER`")
    signed = [name for name in LAYOUTS if name not in ("dfdc", "manifest")]  # by folders that no one else has
    for near in (*_folders(root), root.parent, root.parent.parent):
        if any(_fits(near, name) for name in signed):
            raise DataError(f"no corpus at {root}: found {_there(root)}; {near} is one: give that, as corpus.root in the "
                            "profile")
    signs = "; ".join(f"{about.sign} ({name})" for name, about in LAYOUTS.items())
    raise DataError(f"no corpus at {root}: found {_there(root)}; a corpus has one of: {signs}; set corpus.root in the "
                    "profile")


# ------------------------------------------------------------------- FaceForensics++
def _official(root: Path, notes: list[str]) -> Iterator[dict]:
    """{original,manipulated}_sequences/<youtube, actors or manipulation>/<compression>/videos; masks are left out."""
    for place in sorted(root.glob("*_sequences/*/*/videos")):
        above, name, compression = place.parts[-4:-1]
        manipulation = {"original_sequences": REAL, "manipulated_sequences": name}.get(above)
        if compression in COMPRESSIONS and manipulation and not name.startswith("."):
            yield from _shelf(place, _ff(root, name), manipulation, compression)


def _flat(root: Path, notes: list[str]) -> Iterator[dict]:
    """<original, actors or manipulation>/*.mp4, as widely used copies have it."""
    for place in _folders(root):
        manipulation = REAL if place.name in ("original", "actors") else place.name
        yield from _shelf(place, _ff(root, place.name), manipulation)


def _ff(root: Path, name: str) -> str:
    """The corpus of a folder: the DeepFakeDetection videos have reals and ids of their own."""
    if name in ("actors", "DeepFakeDetection"):
        return "DFD"
    return "demo" if (root / "corpus.json").is_file() else "FF++"


# ------------------------------------------------------------------- Celeb-DF
def _celeb(root: Path, notes: list[str]) -> Iterator[dict]:
    """Celeb-real/id0_0000, YouTube-real/00000, Celeb-synthesis/id0_id1_0000: ids are persons, not videos."""
    listed = _testing(root / "List_of_testing_videos.txt")
    for folder in ("Celeb-real", "YouTube-real", "Celeb-synthesis"):
        manipulation = "Celeb-synthesis" if folder == "Celeb-synthesis" else REAL
        for row in _shelf(root / folder, "Celeb-DF", manipulation):
            if listed is not None:
                label = listed.pop(f"{folder}/{row['video']}", None)
                row["split"] = "train" if label is None else "test"
                if label not in (None, row["label"]):
                    row["problem"] = f"List_of_testing_videos.txt says label {label} of {row['path']}; correct one of them"
            yield row
    if listed:
        notes.append(f"{len(listed)} videos of List_of_testing_videos.txt are not there, such as {min(listed)}")


def _testing(file: Path) -> dict[str, int] | None:
    """"Celeb-real/id0_0000" -> label of the official test videos (in the file, a leading 1 means real)."""
    if not file.is_file():
        return None
    lines = [line.split(maxsplit=1) for line in file.read_text().splitlines() if line.strip()]
    if bad := [line for line in lines if len(line) != 2 or line[0] not in ("0", "1")]:
        raise DataError(f'{file} has the line {" ".join(bad[0])!r}; a line is "1 Celeb-real/id0_0000.mp4", 1 for real')
    return {os.path.splitext(name.strip())[0]: 1 - int(real) for real, name in lines}


# ------------------------------------------------------------------- DFDC
def _dfdc(root: Path, notes: list[str]) -> Iterator[dict]:
    """metadata.json in the root or in its folders: {"a.mp4": {"label": "FAKE", "original": "b.mp4"}, ...}."""
    for file in _metadata(root):
        there = set(os.listdir(file.parent))
        for name, about in _json(file).items():
            label = {"REAL": 0, "FAKE": 1}.get(about.get("label")) if isinstance(about, dict) else None
            where = f"{file} names {name}"
            problem = f"{where} with a label other than REAL and FAKE; correct it" if label is None else ""
            if not problem and name not in there:
                problem = f"{where}, which is not there; fetch it or take its entry out"
            video = os.path.splitext(name)[0]
            original = os.path.splitext((label and about.get("original")) or name)[0]
            manipulation = {0: REAL, 1: "DFDC"}.get(label, "")
            row = _row("DFDC", manipulation, video, label, original, None, file.parent / name, problem)
            yield row | ({"split": about["split"]} if label is not None and about.get("split") in SPLITS else {})


def _metadata(root: Path) -> list[Path]:
    return [path / "metadata.json" for path in (root, *_folders(root)) if (path / "metadata.json").is_file()]


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is no metadata.json of DFDC: {error}; fetch it again") from error


# ------------------------------------------------------------------- a manifest
def _manifest(root: Path, notes: list[str]) -> Iterator[dict]:
    """A CSV of path and label; manipulation, target, source, split, person where known. Ids are texts: 007 stays 007."""
    file = root if root.is_file() else root / "manifest.csv"
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if lacking := {"path", "label"} - set(reader.fieldnames or ()):
            raise DataError(f"{file} lacks the column {' and '.join(sorted(lacking))}; its first line names the columns: "
                            "path,label and, where known, manipulation,target,source,split,person")
        found = [_entry(file, reader.line_num, entry) for entry in reader]
    stems = pd.Series([(row["manipulation"], row["video"].rpartition("/")[2]) for row in found], dtype=object)
    shared = stems.duplicated(keep=False)
    alone = [row["video"] for row in found if row["label"] and row["target"] is None]
    for row, (_, stem), twice in zip(found, stems, shared, strict=True):
        row["video"] = row["video"] if twice else stem  # two files of one name keep their folder
        row["target"] = row["target"] or row["video"]
        yield row
    if alone:
        notes.append(f"{len(alone)} fakes name no target, such as {alone[0]}: a split cannot keep them with their real")


def _entry(file: Path, line: int, entry: dict) -> dict:
    """One line of a manifest, its video named by the path without ending; what is wrong with it is its problem."""
    names = ("path", "label", "manipulation", "target", "source", "split", "person")
    given = {name: (entry.get(name) or "").strip() for name in names}
    label = {"0": 0, "real": 0, "1": 1, "fake": 1}.get(given["label"].lower())
    path = file.parent / given["path"]
    wrong = None
    if label is None:
        wrong = f"the label is {given['label']!r}, but must be 0 or real, 1 or fake"
    elif not given["path"] or not path.is_file():
        wrong = f"there is no file {path}"
    elif given["split"] not in ("", *SPLITS):
        wrong = f"the split is {given['split']!r}, but must be one of {', '.join(SPLITS)} or empty"
    elif label and given["manipulation"] == REAL:
        wrong = "a fake cannot have the manipulation real"
    elif not re.fullmatch(r"[A-Za-z0-9_-]*", given["manipulation"]):
        wrong = f"the manipulation is {given['manipulation']!r}, but may hold letters, digits, - and _ only"
    manipulation = {None: "", 0: REAL, 1: given["manipulation"] or "fake"}[label]
    name = file.parent.name if file.stem == "manifest" else file.stem
    row = _row(name, manipulation, os.path.splitext(given["path"])[0], label, given["target"] or None, given["source"] or None,
               path, f"row {line} of {file}: {wrong}; correct it" if wrong else "")
    return row | {name: given[name] or None for name in ("split", "person") if name in entry}


# ------------------------------------------------------------------- rows
def _shelf(folder: Path, corpus: str, manipulation: str, compression: str = "") -> Iterator[dict]:
    """One row for each .mp4 of a folder, by name."""
    pattern, said = NAMES["FF++" if corpus == "demo" else corpus, manipulation == REAL]
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        stem, ending = os.path.splitext(name)
        if ending.lower() != ".mp4" or name.startswith("."):
            continue
        match, path = re.fullmatch(pattern, stem), f"{folder}/{name}"
        ids = match.groupdict() if match else {}
        problem = "" if match else f"{path} is not named {said}.mp4; rename or remove it"
        if NO_TEXT.search(name):  # it is printed, hashed and stored as text
            problem = f"the name of the video {path!r} is no text; rename or remove it"
        yield _row(corpus, manipulation, stem, int(manipulation != REAL), ids.get("target") or stem, ids.get("source"), path, problem,
                   compression)


def _row(corpus, manipulation, video, label, target, source, path, problem, compression="") -> dict:
    values = (corpus, manipulation, compression, video, label, target, source, str(path), problem)
    return {name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
            for name, value in zip(EVERYTHING, values, strict=True)}  # a table holds no name that is no text


def _folders(above: Path) -> list[Path]:
    if not above.is_dir():
        return []
    return sorted(path for path in above.iterdir() if path.is_dir() and not path.name.startswith("."))


def _there(root: Path) -> str:
    return ", ".join(path.name for path in _folders(root)[:8]) or ("a file" if root.is_file() else "nothing")


@dataclass(frozen=True)
class Layout:
    """How a layout is recognised, said, and read."""

    fits: Callable[[Path], bool]
    sign: str
    rows: Callable[[Path, list[str]], Iterator[dict]]


LAYOUTS = {
    "ffpp": Layout(lambda root: (root / "original_sequences").is_dir(), "original_sequences/youtube", _official),
    "ffpp-flat": Layout(lambda root: (root / "original").is_dir(), "original/ beside FaceSwap/ and others", _flat),
    "celeb-df": Layout(lambda root: (root / "Celeb-synthesis").is_dir(), "Celeb-synthesis/", _celeb),
    "manifest": Layout(lambda root: (root / "manifest.csv").is_file() or (root.is_file() and root.suffix == ".csv"),
                       "manifest.csv, or the path of a .csv file", _manifest),
    "dfdc": Layout(lambda root: bool(_metadata(root)), "metadata.json", _dfdc),
}


def _fits(root: Path, layout: str) -> bool:
    try:
        return root.exists() and LAYOUTS[layout].fits(root)
    except PermissionError:
        return False
