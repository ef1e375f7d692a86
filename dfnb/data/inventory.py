"""List what a corpus holds and lacks: counts, partners, copies, and the splits that it allows."""

import hashlib
import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dfnb import SPLITS, DataError, UserError
from dfnb.data import corpora, identity, layouts, splits, video
from dfnb.data.layouts import REAL, Found, first_names

FIRST = 2**20  # bytes of a file that are compared where two files have the same size
STUDY = {"train_manipulation": "FaceSwap", "test_manipulations": ["NeuralTextures"]}
PER_CLASS = 100  # videos per class in the study
CLASS = ["corpus", "manipulation", "compression"]
TITLES = {
    "study": f"the study's split (first {PER_CLASS} videos a class)",
    "identity": "an identity-disjoint split",
    "official": "the official split",
}


@dataclass(frozen=True)
class Inventory:
    """The result of `take`: tables with one row per class, and lists of sentences on faults."""

    found: Found
    compression: str  # that of partners, splits and official; "" where the layout has none
    counts: pd.DataFrame  # corpus, manipulation, compression, videos, bytes (`deep`: frames)
    partners: pd.DataFrame  # manipulation, videos, without_{target,source,reverse}: lists of names
    unusable: list[str]  # misnamed, or listed but not there
    unreadable: list[str]  # empty, broken links, no permission; with `deep` also bad headers
    copies: list[str]
    splits: dict[str, pd.DataFrame | str]  # protocol -> videos by split and manipulation, or error
    official: pd.DataFrame | None  # split, manipulation, there, listed, missing (names)


def take(root: Path, layout: str | None = None, *, compression: str | None = None,
         lists: Path | None = None, deep: bool = False) -> Inventory:
    """Look through a corpus; `deep` also reads the header of every video.

    `lists` is a folder of official lists. Partners and splits are those of one `compression`, by
    default c23 or else the first that is there. DataError where no corpus lies at `root`, or a list
    cannot be read.
    """
    known = identity.read_known(lists)
    if lists is not None and "lists" not in known:
        raise DataError(f"{lists} holds no official lists: {', '.join(identity.LISTS.values())}")
    found = layouts.read(root, layout)
    problems = [problem for problem in found.videos.problem if problem]
    usable = found.videos[found.videos.problem == ""]
    usable = usable.sort_values(["label", *CLASS[1:], "video"], ignore_index=True)
    if usable.empty:
        raise DataError(f"{found.root} has the layout {found.layout}, but holds no usable video; "
                        f"{problems[0] if problems else 'its folders are empty'}")
    there = [name for name in layouts.COMPRESSIONS if name in set(usable.compression)]
    compression = compression or ("c23" if "c23" in there else [*there, "c23"][0])
    here = usable[usable.compression.isin(["", compression])]
    if here.empty:
        raise DataError(f"no videos in compression {compression} at {found.root}: found "
                        f"{', '.join(sorted(there))}")
    measured = _measure(usable, deep)
    unreadable = measured[measured.why != ""]
    return Inventory(
        found, compression if there else "", _count(measured, deep), _partners(here), problems,
        list(unreadable.path + ": " + unreadable.why), _copies(measured),
        _splits(found, compression, known), _official(here, known.get("lists")))


def _measure(videos: pd.DataFrame, deep: bool) -> pd.DataFrame:
    """Add bytes, frames (0 where not read) and why a file cannot be read ("" where it can)."""
    with ThreadPoolExecutor(8) as pool:  # threads wait for the disk, not for the processor
        rows = list(pool.map(_look_deep if deep else _look, videos.path))
    return videos.join(pd.DataFrame(rows, columns=["bytes", "frames", "why"]))


def _look(path: str) -> tuple[int, int, str]:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return 0, 0, "a link to a file that is not there"
    except OSError as error:
        return 0, 0, f"unreadable: {error.strerror}"
    if not os.path.isfile(path):
        return 0, 0, "not a file: a folder has this name"
    if not size:
        return 0, 0, "empty: the file has zero bytes"
    return size, 0, "" if os.access(path, os.R_OK) else "no permission to read it"


def _look_deep(path: str) -> tuple[int, int, str]:
    size, frames, why = _look(path)
    try:
        return size, frames if why else video.declared(Path(path)), why
    except video.Rejected as error:
        return size, 0, str(error)


def _count(measured: pd.DataFrame, deep: bool) -> pd.DataFrame:
    """Return the number of videos, their bytes and, with `deep`, their frames of each class."""
    counts = measured.groupby(CLASS, sort=False).agg(
        videos=("video", "size"), bytes=("bytes", "sum"), frames=("frames", "sum"))
    return counts.reset_index().drop(columns=[] if deep else "frames")


def _partners(videos: pd.DataFrame) -> pd.DataFrame:
    """Return the fakes that lack the real of their target, of their source, or their reverse."""
    reals, rows = videos[videos.label == 0], []
    groups = videos[videos.label == 1].groupby(["corpus", "manipulation"], sort=False)
    for (corpus, manipulation), fakes in groups:
        there = reals.target[reals.corpus == corpus]
        swaps = fakes[fakes.source.notna()]
        pairs = pd.MultiIndex.from_frame(swaps[["target", "source"]])
        alone = ~pairs.isin(pairs.swaplevel())
        rows.append((manipulation, len(fakes), list(fakes.video[~fakes.target.isin(there)]),
                     list(swaps.video[~swaps.source.isin(there)]), list(swaps.video[alone])))
    lacking = ["without_target", "without_source", "without_reverse"]
    return pd.DataFrame(rows, columns=["manipulation", "videos", *lacking])


def _copies(measured: pd.DataFrame) -> list[str]:
    """Return the videos that are there twice: by one name, or by one size and one first MB."""
    key = [*CLASS, "video"]
    twice = measured[measured.duplicated(key, keep=False)]
    copies = [f"{' and '.join(rows.path)} have one name" for _, rows in twice.groupby(key)]
    alike = measured[(measured.why == "") & measured.duplicated("bytes", keep=False)]
    with ThreadPoolExecutor(8) as pool:
        alike = alike.assign(first=list(pool.map(_first, alike.path)))
    for _, rows in alike.groupby(["bytes", "first"], sort=False):
        if len(rows) > 1:
            copies.append(f"{len(rows)} files have one content: {first_names(list(rows.path), 2)}")
    return copies


def _first(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(FIRST)).hexdigest()


def _splits(found: Found, compression: str, known: dict) -> dict[str, pd.DataFrame | str]:
    """Return the videos by split and manipulation of each protocol, or why it is impossible."""
    joined = {name: value for name, value in known.items() if name != "lists"}
    studied = [STUDY["train_manipulation"], *STUDY["test_manipulations"]]
    wanted = {"study": (studied, PER_CLASS, STUDY), "identity": (None, None, joined)}
    if "lists" in known:
        wanted["official"] = (None, None, known)
    tables = {}
    for protocol, (manipulations, most, options) in wanted.items():
        try:
            videos = corpora.select(found, manipulations, compression, most)
            split_table = splits.split(videos, protocol, **options)
        except UserError as error:
            tables[protocol] = str(error)
        else:
            counts = pd.crosstab(split_table.split, split_table.manipulation)
            names = list(videos.manipulation.unique())
            tables[protocol] = counts.reindex(index=SPLITS, columns=names, fill_value=0)
    return tables


def _official(videos: pd.DataFrame, lists: dict | None) -> pd.DataFrame | None:
    """Compare the official lists with the reals and with the fakes of each manipulation."""
    if lists is None:
        return None
    rows = []
    for split, pairs in lists.items():
        ids = [name for pair in pairs for name in pair]
        fakes = [f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])]
        for manipulation, there in videos.groupby("manipulation", sort=False).video:
            listed, there = ids if manipulation == REAL else fakes, set(there)
            missing = [name for name in listed if name not in there]
            rows.append((split, manipulation, len(listed) - len(missing), len(listed), missing))
    return pd.DataFrame(rows, columns=["split", "manipulation", "there", "listed", "missing"])


# ------------------------------------------------------------------- the report
def text(inventory: Inventory) -> str:
    """Return an inventory in words and tables, for a terminal."""
    found, counts = inventory.found, inventory.counts
    lines = [f"{found.root}: layout {found.layout}; {counts.videos.sum()} videos, "
             f"{_size(counts.bytes.sum())}", *_table(counts.assign(bytes=counts.bytes.map(_size)))]
    if "frames" not in counts:
        lines.append("  frames not counted; --deep reads the header of every video")
    lines += [f"note: {note}" for note in found.notes]
    for name in ("unusable", "unreadable", "copies"):
        faults = getattr(inventory, name)
        lines += [f"{name}: {len(faults) or 'none'}", *(f"  {fault}" for fault in faults[:5])]
        lines += [f"  and {len(faults) - 5} more"] if len(faults) > 5 else []
    of = f" ({inventory.compression})" if inventory.compression else ""
    lines += [f"fakes without a partner{of}:", *_table(inventory.partners)]
    for protocol, table in inventory.splits.items():
        if isinstance(table, str):
            lines.append(f"{TITLES[protocol]} cannot be made: {table}")
        else:
            lines += [f"{TITLES[protocol]}:", *_table(table.reset_index())]
    if "split" in found.videos:
        own = pd.crosstab(found.videos.split, found.videos.label.map({0: "real", 1: "fake"}))
        lines += ["the corpus's own splits:", *_table(own.reset_index())]
    if inventory.official is not None:
        lines += ["of the official lists there are:", *_table(inventory.official)]
    return "\n".join(lines)


def _table(table: pd.DataFrame) -> list[str]:
    """Return the lines of a table, indented; a list of names is shortened to the first two."""
    words = table.map(lambda value: (first_names(value, 2) or "none") if isinstance(value, list)
                      else value)
    return textwrap.indent(words.to_string(index=False), "  ").splitlines()


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
