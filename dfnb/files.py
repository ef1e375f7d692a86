"""Folders, JSON, digests and cached arrays; every file is written completely or not at all."""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dfnb import UserError

ROOT = Path(__file__).resolve().parent.parent  # the repository, unless dfnb is installed elsewhere
DIGEST = hashlib.sha256().digest_size  # bytes at the end of a cached array
_intact_files: set[tuple] = set()  # (path, inode, size, time) of files that passed `_is_intact`


def repository_folder(name: str) -> Path:
    """Return a folder that the installed package lacks; UserError outside of a clone."""
    if not (ROOT / name).is_dir():
        raise UserError(
            f"there is no folder {name}/ in {ROOT}: this command needs a clone of the repository, "
            "whose notebooks and profiles the installed package lacks; `git clone` it and call "
            "`make study` there. demo, corpus, evaluate, score and export work without one")
    return ROOT / name


def data() -> Path:
    """Return the folder of the corpora (`DFNB_DATA`, else `data/` in the repository)."""
    return Path(os.environ.get("DFNB_DATA") or ROOT / "data").resolve()


def cache() -> Path:
    """Return the folder of crops and features, which is safe to delete.

    It is `DFNB_CACHE`, else `cache/` in the repository, else `~/.cache/dfnb`.
    """
    own = ROOT / "cache" if (ROOT / "params").is_dir() else Path("~/.cache/dfnb").expanduser()
    return Path(os.environ.get("DFNB_CACHE") or own).resolve()


def runs() -> Path:
    """Return the folder of executed notebooks (`DFNB_RUNS`, else `runs/` in the repository)."""
    return Path(os.environ.get("DFNB_RUNS") or ROOT / "runs").resolve()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; on a clean exit it replaces `path`, durably.

    A reader sees the old file or the whole new one, even after a crash: the file is synced before
    the replacement and the folder after it. After an error the temporary file is removed and `path`
    is untouched.
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


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; UserError if the file is missing or broken."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as JSON: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings by name, not {str(content)[:50]}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON with an indent of one; the keys keep their order."""
    atomic_write(path, json.dumps(content, indent=1) + "\n")


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, floats by repr, and null for NaN and infinity."""
    return json.dumps(plain(value), sort_keys=True, indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Return `value` in JSON's types: lists and numbers for NumPy, None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cached_array(path: Path, shape: tuple[int, ...], build: Callable[[np.ndarray], None]
                 ) -> np.ndarray:
    """Return the float32 array at `path`, memory-mapped read-only; `build` fills a missing one.

    A damaged array is built again. The file is a plain .npy followed by the SHA-256 of its bytes.
    One replacement publishes both, so two processes that build the same array cannot mix theirs.
    `path` must identify the content.
    """
    if not _is_intact(path, shape):
        with atomic(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            build(array)
            array.flush()
            digest = hashlib.sha256(np.memmap(temporary, np.uint8, "r")).digest()
            with temporary.open("ab") as file:
                file.write(digest)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _is_intact(path: Path, shape: tuple[int, ...]) -> bool:
    """Return whether shape, type and digest are right; a process checks each digest once."""
    if not path.is_file() or path.stat().st_size <= DIGEST:
        return False
    facts = path.stat()
    key = (path, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if key not in _intact_files:
        content = np.memmap(path, np.uint8, "r")  # read piece by piece, so that memory stays flat
        if content[-DIGEST:].tobytes() != hashlib.sha256(content[:-DIGEST]).digest():
            return False
        _intact_files.add(key)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape == shape and array.dtype == np.float32
