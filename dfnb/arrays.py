"""Arrays that are computed once, kept on disk, checked when read and rebuilt when damaged."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dfnb import paths

_whole: set[tuple] = set()  # files whose digest this process has checked, as they were then


def kept(path: Path, shape: tuple[int, ...], build: Callable[[np.ndarray], None]) -> np.ndarray:
    """The float32 array at `path`, memory-mapped read-only; `build` fills it when it is missing or damaged.

    The file is a plain .npy followed by the SHA-256 of all before it, so one replacement publishes both and
    two processes that build the same array cannot mix theirs. `path` must name the content.
    """
    if not _intact(path, shape):
        with paths.atomic(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            build(array)
            array.flush()
            del array
            digest = _digest(temporary, temporary.stat().st_size)
            with temporary.open("ab") as file:
                file.write(digest)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _intact(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether the file is whole: the right shape and type, and a digest that fits its bytes; checked once a process."""
    if not path.is_file() or (body := path.stat().st_size - hashlib.sha256().digest_size) <= 0:
        return False
    facts = path.stat()
    if (seen := (path, facts.st_ino, facts.st_size, facts.st_mtime_ns)) not in _whole:
        with path.open("rb") as file:
            file.seek(body)
            if file.read() != _digest(path, body):
                return False
        _whole.add(seen)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape == shape and array.dtype == np.float32


def _digest(path: Path, length: int) -> bytes:
    """SHA-256 of the first `length` bytes, read in pieces so that memory stays flat."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (piece := file.read(min(length, 1 << 22))):
            total.update(piece)
            length -= len(piece)
    return total.digest()
