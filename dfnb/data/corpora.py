"""From a folder of videos to the `videos` table: one row per clip, keyed by (corpus, manipulation, video)."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dfnb import KEY, UserError
from dfnb.data import layouts
from dfnb.data.layouts import COMPRESSIONS, REAL, Found

COLUMNS = ["corpus", "manipulation", "video", "label", "target", "source", "path"]


def index(
    root: Path, layout: str | None = None, *, manipulations: list[str] | None = None, compression: str = "c23",
    videos_per_class: int | None = None, videos: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """The videos of a corpus as a table with `COLUMNS`, and with split and person where the corpus tells them.

    `layout` is one of `layouts.LAYOUTS`, recognised where it is not given. Rows: the reals first (label 0), then the
    manipulations (label 1) in the order given, or all by name; in each class the videos by name, the first
    `videos_per_class` of them if it is set, of a manipulation in `videos` as many as it says. Reals are those of the corpora
    that the manipulations belong to. A real is its own target, or its person's, and has no source (missing value).
    `compression` counts where the layout tells it. Raises UserError where something asked for is missing, misnamed,
    or there twice.
    """
    if compression not in COMPRESSIONS:
        raise UserError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
    if videos_per_class is not None and videos_per_class < 1:
        raise UserError(f"videos_per_class must be at least 1 or empty for all, got {videos_per_class}")
    return select(layouts.read(root, layout), manipulations, compression, videos_per_class, videos)


def select(
    found: Found, manipulations: list[str] | None = None, compression: str = "c23", videos_per_class: int | None = None,
    videos: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Choose from what was found at a root, as `index` does."""
    _check(found.videos[found.videos.manipulation == ""])
    if manipulations is None:
        manipulations = sorted(set(found.videos.manipulation) - {REAL, ""})
    if unknown := sorted(set(videos or {}) - {REAL, *manipulations}):
        raise UserError(f"videos counts {', '.join(unknown)}, which is not asked for: the manipulations are "
                        f"{', '.join([REAL, *manipulations])}; set corpus.videos in the profile")
    fakes = [_of(found, manipulation, compression) for manipulation in manipulations]
    reals = _of(found, REAL, compression)
    for corpus in (corpora := {name: None for rows in fakes for name in rows.corpus}):  # in the order of the manipulations
        if corpus not in set(reals.corpus):
            named = ", ".join(manipulation for manipulation, rows in zip(manipulations, fakes, strict=True) if corpus in set(rows.corpus))
            raise UserError(f"no real videos of {corpus} at {found.root} to set against {named}; fetch them"
                            f"{' (original_sequences/actors)' if corpus == 'DFD' else ''}, or leave {named} out")
    if corpora:
        reals = reals[reals.corpus.isin(corpora)]
    most = dict.fromkeys([REAL, *manipulations], videos_per_class) | dict(videos or {})
    classes = [*((REAL, rows) for _, rows in reals.groupby("corpus")), *zip(manipulations, fakes, strict=True)]
    table = pd.concat([rows.sort_values("video")[: most[name]] for name, rows in classes], ignore_index=True)
    return table[[*COLUMNS, *(name for name in ("split", "person") if name in table)]]


def _of(found: Found, manipulation: str, compression: str) -> pd.DataFrame:
    """The rows of one class, all usable and each there once."""
    rows, setting = found.videos[found.videos.manipulation == manipulation], "corpus.manipulations"
    if rows.empty and manipulation == REAL:
        raise UserError(f"no videos of {REAL} at {found.root}: fetch them or set corpus.root")
    if rows.empty:
        there = ", ".join(sorted(set(found.videos.manipulation) - {REAL, ""})) or "none"
        raise UserError(f"no videos of {manipulation} at {found.root}: found the manipulations {there}; set {setting} in the profile")
    text = rows.compression.isin(["", compression])
    if not text.any():
        there = ", ".join(sorted(set(rows.compression)))
        raise UserError(f"no videos of {manipulation} in compression {compression} at {found.root}: found {there}; "
                        "set corpus.compression in the profile or fetch the missing files")
    rows = rows[text]
    _check(rows)
    if (twice := rows.duplicated(KEY, keep=False)).any():
        raise UserError(f"one video lies in two places: {' and '.join(rows.path[twice][:2])}; remove one of them")
    return rows.astype({"label": int})


def _check(rows: pd.DataFrame) -> None:
    if problems := [problem for problem in rows.problem if problem]:
        more = f" ({len(problems) - 1} more such files)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}")
