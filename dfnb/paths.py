"""Where things lie, and the one way anything is written: completely or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dfnb import UserError

ROOT = Path(__file__).resolve().parent.parent  # the repository, where the package is not installed apart from it


def of_clone(name: str) -> Path:
    """A folder of the repository that does not come with an installed package; UserError where it is not there."""
    if not (ROOT / name).is_dir():
        raise UserError(f"there is no folder {name}/ in {ROOT}: this command needs a clone of the repository, whose "
                        "notebooks and profiles do not come with the installed package; `git clone` it and call `make "
                        "study` there. demo, corpus, evaluate, score and export work without one")
    return ROOT / name


def data() -> Path:
    """Folder of the corpora (`DFNB_DATA`, else `data/` in the repository)."""
    return Path(os.environ.get("DFNB_DATA") or ROOT / "data").resolve()


def cache() -> Path:
    """Folder of crops and features (`DFNB_CACHE`, else `cache/` in the repository, else the user's); safe to delete."""
    own = ROOT / "cache" if (ROOT / "params").is_dir() else Path("~/.cache/dfnb").expanduser()
    return Path(os.environ.get("DFNB_CACHE") or own).resolve()


def runs() -> Path:
    """Folder of executed notebooks and their results (`DFNB_RUNS`, else `runs/` in the repository)."""
    return Path(os.environ.get("DFNB_RUNS") or ROOT / "runs").resolve()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; on a clean exit it replaces `path`, durably.

    A reader sees the old file or the whole new one, after a crash too: the file is synced before the
    replacement and the folder after it. On an error the temporary file is removed and `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` through `atomic`; text is stored as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
