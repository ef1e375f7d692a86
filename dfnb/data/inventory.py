"""What a corpus holds and lacks, before anything is made of it: counts, partners, copies, what the splits can take."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dfnb import SPLITS, UserError
from dfnb.data import corpora, identity, layouts, splits, video
from dfnb.data.layouts import REAL, Found

FIRST = 2**20  # bytes of a file that are compared where two have one size
STUDY = {"train_manipulation": "FaceSwap", "test_manipulations": ["NeuralTextures"]}
PER_CLASS = 100  # videos a class of the study


@dataclass(frozen=True)
class Inventory:
    """What `take` found. Tables have one row a class; the lists hold sentences, empty where nothing is wrong."""

    found: Found
    compression: str  # that of the tables `partners`, `splits` and `official`, "" where the layout does not tell it
    counts: pd.DataFrame  # corpus, manipulation, compression, videos, bytes, and frames where headers were read
    partners: pd.DataFrame  # manipulation, without_target, without_source, without_reverse (names)
    unusable: list[str]  # misnamed, listed but not there
    unreadable: list[str]  # empty, broken links, no permission; with `deep` also headers that promise no frames
    copies: list[str]
    splits: dict[str, pd.DataFrame | str]  # protocol -> videos by split (rows) and manipulation, or why it cannot be made
    official: pd.DataFrame | None  # split, manipulation, there, listed, missing (names)


def take(root: Path, layout: str | None = None, *, compression: str | None = None, lists: Path | None = None,
         deep: bool = False) -> Inventory:
    """Look through a corpus; `deep` also reads the header of every video, `lists` is a folder of official lists.

    Partners and splits are those of one `compression`: c23 where it is there, else the first that is. UserError
    where no corpus lies at `root`, or a list cannot be read.
    """
    known = identity.read_known(lists) if lists is not None else {}
    if lists is not None and "lists" not in known:
        raise UserError(f"{lists} holds no official lists: {', '.join(identity.LISTS.values())}")
    found = layouts.read(root, layout)
    order = ["label", "manipulation", "compression", "video"]
    usable = found.videos[found.videos.problem == ""].sort_values(order, ignore_index=True)
    if usable.empty:
        raise UserError(f"{found.root} has the layout {found.layout}, but holds no usable video; "
                        + next(iter(found.videos.problem), "its folders are empty"))
    measured = usable.assign(**dict(zip(("bytes", "frames", "why"), _measure(usable.path, deep), strict=True)))
    compression = compression or _usual(usable)
    here = usable[usable.compression.isin(["", compression])]
    if here.empty:
        raise UserError(f"no videos in compression {compression} at {found.root}: found "
                        f"{', '.join(sorted(set(usable.compression)))}")
    counts = measured.groupby(["corpus", "manipulation", "compression"], sort=False).agg(
        videos=("video", "size"), bytes=("bytes", "sum"), **({"frames": ("frames", "sum")} if deep else {})).reset_index()
    return Inventory(
        found, compression if usable.compression.any() else "", counts, _partners(here),
        [problem for problem in found.videos.problem if problem],
        [f"{path}: {why}" for path, why in zip(measured.path, measured.why, strict=True) if why],
        _copies(measured), _splits(found, compression, known), _official(here, known.get("lists")))


def _usual(videos: pd.DataFrame) -> str:
    there = [name for name in ("c23", *layouts.COMPRESSIONS) if name in set(videos.compression)]
    return there[0] if there else "c23"


def _measure(files: Sequence[str], deep: bool) -> tuple[list, list, list]:
    """Bytes, frames (0 where not read) and why it cannot be read (or "") of each file."""
    with ThreadPoolExecutor(8) as pool:  # it waits for the disk, not for the processor
        rows = list(pool.map(_look_deep if deep else _look, files))
    return tuple(map(list, zip(*rows, strict=True)))


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


def _partners(videos: pd.DataFrame) -> pd.DataFrame:
    """For each manipulation the fakes without the real of their target, of their source, and without their reverse."""
    reals = {corpus: set(rows.target) for corpus, rows in videos[videos.label == 0].groupby("corpus")}
    rows = []
    for (corpus, manipulation), fakes in videos[videos.label == 1].groupby(["corpus", "manipulation"], sort=False):
        there, swaps = reals.get(corpus, set()), fakes[fakes.source.notna()]
        pairs = set(zip(swaps.target, swaps.source, strict=True))
        alone = [pair[::-1] not in pairs for pair in zip(swaps.target, swaps.source, strict=True)]
        rows.append({"manipulation": manipulation, "videos": len(fakes), "without_target": list(fakes.video[~fakes.target.isin(there)]),
                     "without_source": list(swaps.video[~swaps.source.isin(there)]),
                     "without_reverse": list(swaps.video[alone])})
    columns = ["manipulation", "videos", "without_target", "without_source", "without_reverse"]
    return pd.DataFrame(rows, columns=columns)


def _copies(measured: pd.DataFrame) -> list[str]:
    """Videos that are there twice: under one name, or with one size and one first MB."""
    key = ["corpus", "manipulation", "compression", "video"]
    twice = measured[measured.duplicated(key, keep=False)]
    words = [f"{' and '.join(rows.path)} have one name" for _, rows in twice.groupby(key)]
    alike = measured[(measured.why == "") & measured.duplicated("bytes", keep=False)]
    with ThreadPoolExecutor(8) as pool:
        alike = alike.assign(first=list(pool.map(_first, alike.path)))
    for _, rows in alike[alike.duplicated(["bytes", "first"], keep=False)].groupby(["bytes", "first"], sort=False):
        words.append(f"{len(rows)} files have one content: {_some(list(rows.path), 2)}")
    return words


def _first(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(FIRST)).hexdigest()


def _splits(found: Found, compression: str, known: dict) -> dict[str, pd.DataFrame | str]:
    """Videos by split and manipulation of the study's split and of the identity split, or why there is none."""
    options = {name: value for name, value in known.items() if name != "lists"}
    wanted = {"study": lambda: (corpora.select(found, ["FaceSwap", "NeuralTextures"], compression, PER_CLASS), STUDY),
              "identity": lambda: (corpora.select(found, None, compression), options)}
    if "lists" in known:
        wanted["official"] = lambda: (corpora.select(found, None, compression), known)
    return {protocol: _counted(protocol, videos) for protocol, videos in wanted.items()}


def _counted(protocol: str, of: Callable[[], tuple[pd.DataFrame, dict]]) -> pd.DataFrame | str:
    try:
        videos, options = of()
        split_table = splits.split(videos, protocol, **options)
    except UserError as error:
        return str(error)
    table = split_table.groupby(["split", "manipulation"]).size().unstack(fill_value=0)
    return table.reindex(index=SPLITS, columns=list(videos.manipulation.unique()), fill_value=0)


def _official(videos: pd.DataFrame, lists: dict | None) -> pd.DataFrame | None:
    """Return which videos of the official lists exist: reals of each split, fakes of each kind."""
    if lists is None:
        return None
    there = {manipulation: set(rows.video) for manipulation, rows in videos.groupby("manipulation", sort=False)}
    rows = []
    for split, pairs in lists.items():
        for manipulation, names in there.items():
            wanted = [name for a, b in pairs for name in ((a, b) if manipulation == REAL else (f"{a}_{b}", f"{b}_{a}"))]
            missing = [name for name in wanted if name not in names]
            rows.append({"split": split, "manipulation": manipulation, "there": len(wanted) - len(missing), "listed": len(wanted),
                         "missing": missing})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------- the report
def text(inventory: Inventory) -> str:
    """An inventory in words, for a terminal."""
    return "\n".join([*_head(inventory), *_lacks(inventory), *_takes(inventory)])


def _head(inventory: Inventory) -> list[str]:
    found, counts = inventory.found, inventory.counts
    lines = [f"{found.root}: layout {found.layout}; {counts.videos.sum()} videos, {_size(counts.bytes.sum())}"]
    for row in counts.itertuples():
        frames = f"{row.frames:>10} frames" if "frames" in counts else ""
        name = f"{row.corpus:<10}{row.manipulation:<20}{row.compression or '-':<6}"
        lines.append(f"  {name}{row.videos:>7} videos{_size(row.bytes):>10}{frames}")
    if "frames" not in counts:
        lines.append("  frames not counted; --deep reads the header of every video")
    return lines


def _lacks(inventory: Inventory) -> list[str]:
    lines = [f"note: {note}" for note in inventory.found.notes]
    for name in ("unusable", "unreadable", "copies"):
        words = getattr(inventory, name)
        lines.append(f"{name}: {len(words) or 'none'}")
        lines += [f"  {line}" for line in words[:5]] + ([f"  and {len(words) - 5} more"] if len(words) > 5 else [])
    of = f" ({inventory.compression})" if inventory.compression else ""
    lines.append(f"partners{of}:")
    for row in inventory.partners.itertuples():
        lacking = {"the real of their target": row.without_target, "the real of their source": row.without_source,
                   "their reverse": row.without_reverse}
        said = [f"{len(names)} lack {what} ({_some(names)})" for what, names in lacking.items() if names]
        lines.append(f"  {row.manipulation:<20}{row.videos:>7} fakes: {'; '.join(said) or 'all partners are there'}")
    return lines


def _takes(inventory: Inventory) -> list[str]:
    said = {"study": f"the study's split (first {PER_CLASS} videos a class)", "identity": "an identity-disjoint split",
            "official": "the official split"}
    lines = []
    for protocol, table in inventory.splits.items():
        if isinstance(table, str):
            lines.append(f"{said[protocol]} cannot be made: {table}")
            continue
        lines.append(f"{said[protocol]}:")
        for split, row in table.iterrows():
            lines.append(f"  {split:<12}" + ", ".join(f"{name} {count}" for name, count in row.items() if count))
    if "split" in inventory.found.videos:
        split_table = inventory.found.videos.groupby("split").label.agg(["size", "sum"])
        lines.append("the corpus's own splits: " + ", ".join(
            f"{split} {row['size'] - row['sum']:.0f} real and {row['sum']:.0f} fake" for split, row in split_table.iterrows()))
    if inventory.official is not None:
        lines.append("of the official lists there are:")
        for split, rows in inventory.official.groupby("split", sort=False):
            lines.append(f"  {split:<12}" + ", ".join(
                f"{row.manipulation} {row.there} of {row.listed}" + (f" (missing {_some(row.missing)})" if row.missing else "")
                for row in rows.itertuples()))
    return lines


def _some(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
