"""Evenly spaced frames of one video file with their exact indices; a guarded process decodes, and what fails says why."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from dfnb import UserError, files

PROGRAM = ["-P", "-m", "dfnb.data.decoder"]  # -P: no module of the current folder is imported
START = 60  # seconds in which a decoder must be ready, on a busy machine and a slow disk too
GRACE = 5  # seconds after its own alarm in which a decoder must have ended
LIMITED = ("too large", "too long", "timed out", "crashed", "out of memory")  # kinds that other limits may change
MACHINES = ("timed out", "crashed", "out of memory", "refused by the system")  # kinds that another machine may not have


class Rejected(Exception):
    """A file that gives no frames; the message is `kind: detail` or `kind`, for the table of frames.

    `passing` is true where another attempt may succeed although the file stays the same (it vanished, access
    is denied); such a reason is not worth remembering.
    """

    def __init__(self, reason: str, passing: bool = False):
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class Limits:
    """What one video may cost. A small file can claim any size; a video that means well stays far below."""

    pixels: int = 2**24  # of a frame: two of 4K, half of what ruins a machine in a few frames
    frames: int = 30_000  # 20 minutes at 25 a second: all are decoded, 5 to 25 ms each
    seconds: int = 3600  # that the header promises
    timeout: int = 120  # seconds on the clock until the decoder is killed; 1080p decodes 300 frames in one
    memory: int = 4 * 2**30  # bytes of address space: 101 frames of 4K take 2.5 GB, the decoder's own 0.5

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not value > 0:
                raise UserError(f"the limit {name} of a video must be positive, got {value!r}")


@dataclass(frozen=True)
class Clip:
    """Frames of one file: `frames` uint8 RGB (n, h, w, 3), `indices` (n,) in the file, `pts` (n,) seconds."""

    frames: np.ndarray
    indices: np.ndarray
    pts: np.ndarray
    total: int  # frames in the file
    bits: float | None = None  # per pixel of the compressed stream, where `traits` asks for them


def spread(total: int, count: int) -> np.ndarray:
    """`count` indices evenly spaced over 0 .. total - 1, both ends included; all of them if there are fewer.

    One frame alone is the middle one.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if count == 1:
        return np.array([(total - 1) // 2])
    return np.round(np.linspace(0, total - 1, min(count, total))).astype(int)


def read(path: Path, count: int, *, threads: int = 1, limits: Limits | None = None) -> Clip:
    """Decode the whole file in order and keep `spread(total, count)` of its frames, turned upright.

    Decoding in order is exact where seeking is not, and it is the only way to see that a file is cut short. It
    happens in a process of its own, which serves one file after another: a file that hangs or kills it is
    rejected and the next one gets a new process. The pixels do not depend on `threads`. Raises Rejected.
    """
    for name, value in (("count", count), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return _ask(path, count, threads, limits or Limits())


def declared(path: Path, *, limits: Limits | None = None) -> int:
    """The number of frames that a file's header promises; nothing is decoded. Raises Rejected."""
    return _ask(path, 0, 1, limits or Limits()).total


def traits(path: Path, *, limits: Limits | None = None) -> dict[str, float]:
    """Width, height, frames of a file's video stream, and its bits per pixel; nothing is decoded. Raises Rejected."""
    found = _ask(path, -1, 1, limits or Limits())
    height, width = found.frames.shape[1:3]
    return {"width": width, "height": height, "frames": found.total, "bits": found.bits}


def _ask(path: Path, count: int, threads: int, limits: Limits) -> Clip:
    request = {"path": os.path.abspath(path), "count": count, "threads": threads, "limits": asdict(limits)}
    with _lock:
        decoder, started = _running()
        try:
            return decoder.ask(request, limits)
        except _Died:
            if started:
                raise
        return _running()[0].ask(request, limits)  # the files before may have spoilt the old process


class _Died(Rejected):
    """The decoder ended before it answered."""


class _Decoder:
    """A process that runs `dfnb.data.decoder`: a line of JSON for each video, pixels through an unnamed file."""

    def __init__(self):
        self.owner = os.getpid()  # a fork has the pipes too, and must not use them
        self.pixels = os.fdopen(os.memfd_create("frames"), "rb") if hasattr(os, "memfd_create") else (
            tempfile.TemporaryFile())  # noqa: SIM115
        shared = self.pixels.fileno()
        inherited = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(files.ROOT), *([inherited] if inherited else [])]),
            "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}  # else each thread reserves address space
        self.process = subprocess.Popen(
            [sys.executable, *PROGRAM, str(shared)], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, pass_fds=[shared], env=environment)
        try:
            self._line(START)
        except (EOFError, TimeoutError, ValueError):
            self.stop()
            raise UserError(f"the process that decodes videos does not start (exit code {self.process.returncode}); "
                            f"`python {' '.join(PROGRAM)} 1` in {files.ROOT} says why") from None
        except BaseException:
            self.stop()
            raise

    def ask(self, request: dict, limits: Limits) -> Clip:
        """The frames that the decoder gives; Rejected where it says so, is late or dies."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            answer = self._line(limits.timeout + GRACE)
            if "rejected" in answer:
                raise Rejected(answer["rejected"], answer["passing"])
            frames = np.empty((*answer["shape"], 3), np.uint8)
            self.pixels.seek(0)
            if frames.size and self.pixels.readinto(memoryview(frames).cast("B")) != frames.nbytes:
                raise EOFError
            return Clip(frames, np.array(answer["indices"]), np.array(answer["pts"]), answer["total"], answer.get("bits"))
        except (EOFError, OSError, ValueError, KeyError, TypeError) as error:  # TimeoutError is an OSError
            raise self._death(isinstance(error, TimeoutError), limits) from None
        except Rejected:
            raise
        except BaseException:  # Ctrl-C: its answer would be taken for the next video's
            self.stop()
            raise

    def _line(self, seconds: float) -> dict:
        end, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            if not wait([self.process.stdout], max(0.0, end - time.monotonic())):
                raise TimeoutError
            piece = self.process.stdout.read(1 << 16)
            if not piece:
                raise EOFError
            line += piece
        return json.loads(line)

    def _death(self, late: bool, limits: Limits) -> Rejected:
        """Why a decoder did not answer; it is gone afterwards."""
        if not late:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        code = self.process.poll()
        self.stop()
        if late or code in (-signal.SIGALRM, -signal.SIGXCPU):
            return Rejected(f"timed out: decoding took more than {limits.timeout} s")
        if code is None:
            return _Died("crashed: the decoder talks nonsense")
        told = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return _Died(f"crashed: the decoder {told}")

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a read of a dead disk: left behind
                self.process.wait(GRACE)
        for pipe in (self.process.stdin, self.process.stdout, self.pixels):
            pipe.close()


_lock = threading.Lock()
_current: _Decoder | None = None


def _running() -> tuple[_Decoder, bool]:
    """This process's decoder, and whether it was started just now."""
    global _current
    if _current and _current.owner == os.getpid() and not _current.pixels.closed:
        return _current, False
    _current = _Decoder()
    return _current, True


def _stop() -> None:
    if _current and _current.owner == os.getpid():
        _current.stop()


atexit.register(_stop)
