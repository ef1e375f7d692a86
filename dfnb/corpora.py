"""From a folder of videos to the `videos` table: one row per clip, keyed by (corpus, method, video)."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dfnb import UserError

REAL = "real"
COMPRESSIONS = ("raw", "c23", "c40")
COLUMNS = ["corpus", "method", "video", "label", "target", "source", "path"]


def index(
    root: Path, *, methods: list[str], compression: str = "c23", videos_per_class: int | None = None,
    videos: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """The videos of a folder in the official layout of FaceForensics++, as a table with `COLUMNS`.

    Rows: the reals first (label 0), then the methods (label 1) in the order given; in each class the videos
    by name, the first `videos_per_class` of them if it is set; of a method in `videos` the first so many. A fake
    is named `<target>_<source>`; a real is its own target and has no source (missing value). `path` is absolute.
    The corpus is called "demo" where the demo's `corpus.json` lies in the root, else "FF++". Raises UserError
    where something asked for is missing.
    """
    root = Path(root).resolve()
    if compression not in COMPRESSIONS:
        raise UserError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
    if videos_per_class is not None and videos_per_class < 1:
        raise UserError(f"videos_per_class must be at least 1 or empty for all, got {videos_per_class}")
    videos = dict(videos or {})
    if unknown := sorted(set(videos) - {REAL, *methods}):
        raise UserError(f"videos counts {', '.join(unknown)}, which is not asked for: the methods are "
                        f"{', '.join([REAL, *methods])}; set corpus.videos in the profile")
    _check_root(root)
    corpus = "demo" if (root / "corpus.json").is_file() else "FF++"
    classes = {REAL: root / "original_sequences" / "youtube"}
    classes |= {method: _method_folder(root, method) for method in methods}
    rows = []
    for method, folder in classes.items():
        files = _video_files(folder, method, compression)[: videos.get(method, videos_per_class)]
        rows += [[corpus, method, *_names(file, method), str(file)] for file in files]
    return pd.DataFrame(rows, columns=COLUMNS)


def _check_root(root: Path) -> None:
    way_out = f"make the demo corpus with `dfnb demo {root}`, or set corpus.root in the profile"
    if not root.is_dir():
        raise UserError(f"no corpus at {root}: there is no such folder; {way_out}")
    if not (root / "original_sequences" / "youtube").is_dir():
        found = ", ".join(_folders(root)[:8]) or "nothing"
        raise UserError(
            f"no corpus at {root}: expected original_sequences/youtube (the layout of FaceForensics++) "
            f"and found {found}; {way_out}"
        )


def _method_folder(root: Path, method: str) -> Path:
    """The folder of one method; the name must be one that lies there, so that it cannot lead elsewhere."""
    above = root / "manipulated_sequences"
    there = _folders(above)
    if method not in there:
        found = ", ".join(there) or "none"
        raise UserError(f"no method {method!r} in {above}: found {found}; set corpus.methods in the profile")
    return above / method


def _video_files(folder: Path, method: str, compression: str) -> list[Path]:
    there = [name for name in COMPRESSIONS if (folder / name / "videos").is_dir()]
    if compression not in there:
        raise UserError(
            f"no videos of {method} in compression {compression} at {folder}: found "
            f"{', '.join(there) or 'none'}; set corpus.compression in the profile or fetch the missing files"
        )
    place = folder / compression / "videos"
    files = sorted(path for path in place.glob("*.mp4") if not path.name.startswith("."))
    if not files:
        raise UserError(f"no videos of {method}: {place} holds no .mp4 file; fetch them or set corpus.root")
    return files


def _names(file: Path, method: str) -> tuple[str, int, str, str | None]:
    """Name, label, target and source of one file."""
    if method == REAL:
        return file.stem, 0, file.stem, None
    target, separator, source = file.stem.partition("_")
    if not (target and separator and source):
        raise UserError(f"{file} is not named <target>_<source>.mp4, as a fake is; rename or remove it")
    return file.stem, 1, target, source


def _folders(above: Path) -> list[str]:
    return sorted(path.name for path in above.iterdir() if path.is_dir()) if above.is_dir() else []
