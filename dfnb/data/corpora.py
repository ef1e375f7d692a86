"""Choose the videos of a study from a corpus: one row per video, keyed by `dfnb.KEY`."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dfnb import KEY, DataError, UserError
from dfnb.data import layouts
from dfnb.data.layouts import COMPRESSIONS, REAL, Found

COLUMNS = [*KEY, "label", "target", "source", "path"]


def index(root: Path, layout: str | None = None, *, manipulations: list[str] | None = None,
          compression: str = "c23", videos_per_class: int | None = None,
          videos: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return a table with `COLUMNS`, and with split and person where the corpus has them.

    `layout` is one of `layouts.LAYOUTS`, recognised where it is not given. The reals (label 0) come
    first, then the manipulations (label 1) in the order given, or all by name. Within a class the
    videos are sorted by name and limited to the first `videos_per_class`; `videos` sets this limit
    for single manipulations. The reals are those of the corpora that have the manipulations. The
    target of a real is itself or its person, and its source is missing. `compression` is ignored
    where the layout does not name it. Raises DataError where a class is missing, misnamed or there
    twice, and UserError for a wrong argument.
    """
    if compression not in COMPRESSIONS:
        raise UserError(f"compression must be one of {', '.join(COMPRESSIONS)}, "
                        f"got {compression!r}")
    if videos_per_class is not None and videos_per_class < 1:
        raise UserError("videos_per_class must be at least 1 or empty for all, "
                        f"got {videos_per_class}")
    return select(layouts.read(root, layout), manipulations, compression, videos_per_class, videos)


def select(found: Found, manipulations: list[str] | None = None, compression: str = "c23",
           videos_per_class: int | None = None,
           videos: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Choose from the videos at a root, as `index` does."""
    _check(found.videos[found.videos.manipulation == ""])
    if manipulations is None:
        manipulations = sorted(set(found.videos.manipulation) - {REAL, ""})
    if unknown := sorted(set(videos or {}) - {REAL, *manipulations}):
        raise UserError(f"videos limits {', '.join(unknown)}, which is not asked for: the "
                        f"manipulations are {', '.join([REAL, *manipulations])}; set corpus.videos "
                        "in the profile")
    fakes = {name: _class(found, name, compression) for name in manipulations}
    reals = _class(found, REAL, compression)
    if fakes:
        every = pd.concat(fakes.values())
        _check_reals(found.root, every[~every.corpus.isin(reals.corpus)])
        reals = reals[reals.corpus.isin(every.corpus)]
    most = dict.fromkeys([REAL, *manipulations], videos_per_class) | dict(videos or {})
    classes = [*((REAL, rows) for _, rows in reals.groupby("corpus")), *fakes.items()]
    table = pd.concat([rows.sort_values("video")[: most[name]] for name, rows in classes],
                      ignore_index=True)
    return table[[*COLUMNS, *(name for name in ("split", "person") if name in table)]]


def _check_reals(root: Path, alone: pd.DataFrame) -> None:
    """Raise DataError where fakes are `alone`: their corpus has no reals at the root."""
    if len(alone):
        corpus = alone.corpus.iloc[0]
        names = ", ".join(alone.manipulation[alone.corpus == corpus].unique())
        folder = " (original_sequences/actors)" if corpus == "DFD" else ""
        raise DataError(f"no real videos of {corpus} at {root} to set against {names}; fetch "
                        f"them{folder}, or leave {names} out")


def _class(found: Found, manipulation: str, compression: str) -> pd.DataFrame:
    """Return the rows of one class; each is usable and there once."""
    rows = found.videos[found.videos.manipulation == manipulation]
    nothing = f"no videos of {manipulation}"
    if rows.empty and manipulation == REAL:
        raise DataError(f"{nothing} at {found.root}: fetch them or set corpus.root")
    if rows.empty:
        there = ", ".join(sorted(set(found.videos.manipulation) - {REAL, ""})) or "none"
        raise DataError(f"{nothing} at {found.root}: found the manipulations {there}; set "
                        "corpus.manipulations in the profile")
    compressed = rows.compression.isin(["", compression])
    if not compressed.any():
        there = ", ".join(sorted(set(rows.compression)))
        raise DataError(f"{nothing} in compression {compression} at {found.root}: found {there}; "
                        "set corpus.compression in the profile or fetch the missing files")
    rows = rows[compressed]
    _check(rows)
    if (twice := rows.duplicated(KEY, keep=False)).any():
        raise DataError(f"one video lies in two places: {' and '.join(rows.path[twice][:2])}; "
                        "remove one of them")
    return rows.astype({"label": int})


def _check(rows: pd.DataFrame) -> None:
    """Raise DataError with the first problem and the number of the others."""
    if problems := [problem for problem in rows.problem if problem]:
        more = f" ({len(problems) - 1} more such files)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}")
