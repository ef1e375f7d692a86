"""Find all videos of a corpus in one of the known layouts.

A layout is a function from a root to one row per video. Videos are found by their names alone: no
video is opened or measured, so that a corpus on a network drive is listed in seconds. Links are
followed, hidden files and folders are left out, and .MP4 is the same ending as .mp4.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dfnb import SPLITS, DataError, UserError, files

REAL = "real"
COMPRESSIONS = ("raw", "c23", "c40")
EVERYTHING = ["corpus", "manipulation", "compression", "video", "label", "target", "source", "path",
              "problem"]
DEFAULTS = {"compression": "", "source": None, "problem": ""}
NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters and bytes outside UTF-8
ID = r"[^_\s]+"  # a blank in a name marks a stray copy, such as "000 (1).mp4": it would be a leak
NAMES = {  # (corpus, is it real) -> pattern of a file's stem, and its description
    ("FF++", True): (rf"(?P<target>{ID})", "<id>"),
    ("FF++", False): (rf"(?P<target>{ID})_(?P<source>{ID})", "<target>_<source>"),
    ("DFD", True): (rf"(?P<target>{ID})__\S+", "<actor>__<scene>"),
    ("DFD", False): (rf"(?P<target>{ID})_(?P<source>{ID})__\S+",
                     "<target>_<source>__<scene>__<code>"),
    ("Celeb-DF", True): (r"(?P<target>id\d+)_\d+|\d+", "<person>_<number> or <number>"),
    ("Celeb-DF", False): (r"(?P<target>id\d+)_(?P<source>id\d+)_\d+",
                          "<target>_<source>_<number>"),
}
MANIFEST = ("path", "label", "manipulation", "target", "source", "split", "person")
RENAMED = {"method": "manipulation", "part": "split"}  # columns of a manifest, old -> new
LABELS = {"0": 0, "real": 0, "1": 1, "fake": 1}


@dataclass(frozen=True)
class Found:
    """All videos at a root, in a table with the columns `EVERYTHING` and, if known, split, person.

    `compression` is "" where the layout does not name it. `problem` is "" or a sentence on why the
    row cannot be used. A row of unknown class has the manipulation "". `notes` are sentences on
    oddities that stop nothing.
    """

    root: Path
    layout: str
    videos: pd.DataFrame
    notes: list[str]


def read(root: Path, layout: str | None = None) -> Found:
    """Return everything at `root`, a folder or the CSV file of a manifest.

    The layout is recognised where it is not given. DataError where the corpus is not there or
    cannot be read.
    """
    root = Path(root).resolve()
    layout = recognise(root) if layout is None else layout
    if layout not in LAYOUTS:
        raise UserError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not _fits(root, layout):
        raise DataError(f"no corpus in the layout {layout} at {root}: expected "
                        f"{LAYOUTS[layout].sign} and found {_content(root)}; set corpus.root or "
                        "corpus.layout in the profile")
    notes: list[str] = []
    try:
        videos = pd.DataFrame(map(_texts, LAYOUTS[layout].rows(root, notes)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the corpus at {root} (layout {layout}) cannot be read: {error}") from None
    known = [name for name in ("split", "person") if name in videos]
    return Found(root, layout, videos.reindex(columns=[*EVERYTHING, *known]), notes)


def recognise(root: Path) -> str:
    """Return the name of the layout at `root`.

    DataError names what is at `root`, and a folder nearby that holds a corpus.
    """
    for layout in LAYOUTS:
        if _fits(root, layout):
            return layout
    if not root.exists():
        raise DataError(f"no corpus at {root}: there is no such folder; set corpus.root in the "
                        "profile to your copy, or make one to try with `dfnb demo FOLDER`")
    unmistakable = set(LAYOUTS) - {"dfdc", "manifest"}  # their folders have names that others lack
    for near in (*_folders(root), root.parent, root.parent.parent):
        if any(_fits(near, name) for name in unmistakable):
            raise DataError(f"no corpus at {root}: found {_content(root)}; {near} is one: give "
                            "that, as corpus.root in the profile")
    signs = "; ".join(f"{about.sign} ({name})" for name, about in LAYOUTS.items())
    raise DataError(f"no corpus at {root}: found {_content(root)}; a corpus has one of: {signs}; "
                    "set corpus.root in the profile")


def _fits(root: Path, layout: str) -> bool:
    try:
        return root.exists() and LAYOUTS[layout].fits(root)
    except PermissionError:
        return False


# ------------------------------------------------------------------- FaceForensics++
def _official(root: Path, notes: list[str]) -> Iterator[dict]:
    """Yield the videos below {original,manipulated}_sequences/NAME/<compression>/videos.

    NAME is youtube, actors or a manipulation. Masks are left out.
    """
    for place in sorted(root.glob("*_sequences/*/*/videos")):
        above, name, compression = place.parts[-4:-1]
        manipulation = {"original_sequences": REAL, "manipulated_sequences": name}.get(above)
        if compression in COMPRESSIONS and manipulation and not name.startswith("."):
            yield from _folder(place, _ff(root, name), manipulation, compression)


def _flat(root: Path, notes: list[str]) -> Iterator[dict]:
    """Yield the videos of <original, actors or manipulation>/*.mp4, a widely used form of copy."""
    for place in _folders(root):
        manipulation = REAL if place.name in ("original", "actors") else place.name
        yield from _folder(place, _ff(root, place.name), manipulation)


def _ff(root: Path, name: str) -> str:
    """Return the corpus of a folder: DeepFakeDetection has other reals and ids than FF++."""
    if name in ("actors", "DeepFakeDetection"):
        return "DFD"
    return "demo" if (root / "corpus.json").is_file() else "FF++"


# ------------------------------------------------------------------- Celeb-DF
def _celeb(root: Path, notes: list[str]) -> Iterator[dict]:
    """Yield Celeb-real/id0_0000, YouTube-real/00000, Celeb-synthesis/id0_id1_0000.

    Their ids are persons, not videos.
    """
    listed = _testing(root / "List_of_testing_videos.txt")
    for folder in ("Celeb-real", "YouTube-real", "Celeb-synthesis"):
        manipulation = "Celeb-synthesis" if folder == "Celeb-synthesis" else REAL
        for row in _folder(root / folder, "Celeb-DF", manipulation):
            if listed is not None:
                label = listed.pop(f"{folder}/{row['video']}", None)
                row["split"] = "train" if label is None else "test"
                if label not in (None, row["label"]):
                    row["problem"] = (f"List_of_testing_videos.txt says label {label} of "
                                      f"{row['path']}; correct one of them")
            yield row
    if listed:
        notes.append(f"{len(listed)} videos of List_of_testing_videos.txt are not there, such as "
                     f"{min(listed)}")


def _testing(file: Path) -> dict[str, int] | None:
    """Return the label of each official test video; a leading 1 in the file means real."""
    if not file.is_file():
        return None
    lines = [line.split(maxsplit=1) for line in file.read_text().splitlines() if line.strip()]
    if bad := [line for line in lines if len(line) != 2 or line[0] not in ("0", "1")]:
        raise DataError(f'{file} has the line {" ".join(bad[0])!r}; a line is '
                        '"1 Celeb-real/id0_0000.mp4", 1 for real')
    return {os.path.splitext(name.strip())[0]: 1 - int(real) for real, name in lines}


# ------------------------------------------------------------------- DFDC
def _dfdc(root: Path, notes: list[str]) -> Iterator[dict]:
    """Yield the entries of metadata.json in the root or in its folders.

    An entry is "a.mp4": {"label": "FAKE", "original": "b.mp4"}.
    """
    for file in _metadata(root):
        there = set(os.listdir(file.parent))
        for name, about in read_json(file).items():
            about = about if isinstance(about, dict) else {}
            label = {"REAL": 0, "FAKE": 1}.get(about.get("label"))
            problem = ""
            if label is None:
                problem = f"{file} names {name} with a label other than REAL and FAKE; correct it"
            elif name not in there:
                problem = f"{file} names {name}, which is not there; fetch it or take its entry out"
            original = os.path.splitext((label and about.get("original")) or name)[0]
            row = dict(corpus="DFDC", manipulation={0: REAL, 1: "DFDC"}.get(label, ""),
                       video=os.path.splitext(name)[0], label=label, target=original,
                       path=f"{file.parent}/{name}", problem=problem)
            if label is not None and about.get("split") in SPLITS:
                row["split"] = about["split"]
            yield row


def _metadata(root: Path) -> list[Path]:
    paths = [folder / "metadata.json" for folder in (root, *_folders(root))]
    return [path for path in paths if path.is_file()]


def read_json(file: Path) -> dict:
    """Return the object in a JSON file that came with a corpus; DataError where it is broken."""
    try:
        return files.read_json(file)
    except UserError as error:
        raise DataError(f"{error}; fetch it again") from None


# ------------------------------------------------------------------- a manifest
def _manifest(root: Path, notes: list[str]) -> Iterator[dict]:
    """Yield the rows of a CSV with the columns `MANIFEST`, of which path and label are needed.

    Ids are texts: 007 stays 007.
    """
    file = root if root.is_file() else root / "manifest.csv"
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        _check_columns(file, set(reader.fieldnames or ()))
        rows = [_entry(file, reader.line_num, entry) for entry in reader]
    alone = [row["video"] for row in rows if row["label"] and row["target"] is None]
    names = [(row["manipulation"], row["video"].rpartition("/")[2]) for row in rows]
    count = Counter(names)
    for row, name in zip(rows, names, strict=True):
        if count[name] == 1:  # two files of one name keep their folders
            row["video"] = name[1]
        row["target"] = row["target"] or row["video"]
        yield row
    if alone:
        notes.append(f"{len(alone)} fakes name no target, such as {alone[0]}: a split cannot keep "
                     "them with their real")


def _check_columns(file: Path, columns: set[str]) -> None:
    for old, new in RENAMED.items():
        if old in columns and new not in columns:
            raise DataError(f"{file} has the column {old}, which is now called {new}; rename it in "
                            "the first line")
    if lacking := {"path", "label"} - columns:
        raise DataError(f"{file} lacks the column {' and '.join(sorted(lacking))}; its first line "
                        f"names the columns: path,label and, where known, {','.join(MANIFEST[2:])}")


def _entry(file: Path, line: int, entry: Mapping[str, str]) -> dict:
    """Return one line of a manifest; its video is named by the path without ending."""
    given = {name: (entry.get(name) or "").strip() for name in MANIFEST}
    label = LABELS.get(given["label"].lower())
    path = file.parent / given["path"]
    mistake = _mistake(given, label, path)
    row = dict(
        corpus=file.parent.name if file.stem == "manifest" else file.stem,
        manipulation={None: "", 0: REAL, 1: given["manipulation"] or "fake"}[label],
        video=os.path.splitext(given["path"])[0], label=label, target=given["target"] or None,
        source=given["source"] or None, path=str(path),
        problem=mistake and f"row {line} of {file}: {mistake}; correct it")
    return row | {name: given[name] or None for name in ("split", "person") if name in entry}


def _mistake(given: Mapping[str, str], label: int | None, path: Path) -> str:
    """Return what is wrong with a line of a manifest, or ""."""
    manipulation, split = given["manipulation"], given["split"]
    if label is None:
        return f"the label is {given['label']!r}, but must be 0 or real, 1 or fake"
    if not given["path"] or not path.is_file():
        return f"there is no file {path}"
    if split not in ("", *SPLITS):
        return f"the split is {split!r}, but must be one of {', '.join(SPLITS)} or empty"
    if label and manipulation == REAL:
        return "a fake cannot have the manipulation real"
    if not re.fullmatch(r"[A-Za-z0-9_-]*", manipulation):
        return f"the manipulation is {manipulation!r}, but may hold letters, digits, - and _ only"
    return ""


# ------------------------------------------------------------------- what layouts share
def _folder(folder: Path, corpus: str, manipulation: str, compression: str = "") -> Iterator[dict]:
    """Yield one row for each .mp4 of a folder, by name."""
    pattern, form = NAMES["FF++" if corpus == "demo" else corpus, manipulation == REAL]
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        stem, ending = os.path.splitext(name)
        if ending.lower() != ".mp4" or name.startswith("."):
            continue
        match, path = re.fullmatch(pattern, stem), f"{folder}/{name}"
        ids = match.groupdict() if match else {}
        problem = "" if match else f"{path} is not named {form}.mp4; rename or remove it"
        if NO_TEXT.search(name):  # it is printed, hashed and stored as text
            problem = f"the name of the video {path!r} is no text; rename or remove it"
        yield dict(corpus=corpus, manipulation=manipulation, compression=compression, video=stem,
                   label=int(manipulation != REAL), target=ids.get("target") or stem,
                   source=ids.get("source"), path=path, problem=problem)


def _texts(row: dict) -> dict:
    """Return a row with all its columns, and with escaped bytes in names that are no text."""
    return {name: value.encode(errors="backslashreplace").decode() if isinstance(value, str)
            else value for name, value in (DEFAULTS | row).items()}


def _folders(above: Path) -> list[Path]:
    if not above.is_dir():
        return []
    inside = [path for path in above.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in inside if path.is_dir())


def _content(root: Path) -> str:
    """Return the first folders at `root` as words."""
    names = ", ".join(path.name for path in _folders(root)[:8])
    return names or ("a file" if root.is_file() else "nothing")


def first_names(names: Sequence[str], most: int) -> str:
    """Return the first `most` names and the number of the others as words."""
    others = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + others


def _is_manifest(root: Path) -> bool:
    return (root / "manifest.csv").is_file() or (root.is_file() and root.suffix == ".csv")


@dataclass(frozen=True)
class Layout:
    """How a layout is recognised, described and read, and what its manipulations do."""

    fits: Callable[[Path], bool]
    sign: str
    rows: Callable[[Path, list[str]], Iterator[dict]]
    kinds: Mapping[str, str] = field(default_factory=dict)  # manipulation -> swap or reenactment


FFPP = dict.fromkeys(("Deepfakes", "FaceSwap", "FaceShifter", "DeepFakeDetection"), "swap")
FFPP |= dict.fromkeys(("Face2Face", "NeuralTextures"), "reenactment")
LAYOUTS = {
    "ffpp": Layout(lambda root: (root / "original_sequences").is_dir(),
                   "original_sequences/youtube", _official, FFPP),
    "ffpp-flat": Layout(lambda root: (root / "original").is_dir(),
                        "original/ beside FaceSwap/ and others", _flat, FFPP),
    "celeb-df": Layout(lambda root: (root / "Celeb-synthesis").is_dir(), "Celeb-synthesis/",
                       _celeb, {"Celeb-synthesis": "swap"}),
    "manifest": Layout(_is_manifest, "manifest.csv, or the path of a .csv file", _manifest),
    "dfdc": Layout(lambda root: bool(_metadata(root)), "metadata.json", _dfdc),
}
KINDS = {name: kind for layout in LAYOUTS.values() for name, kind in layout.kinds.items()}
