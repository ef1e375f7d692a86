"""Read evenly spaced frames of one video file, with their exact indices.

A separate process decodes under limits of time and memory. A file that fails is rejected with a
reason, whatever it does to that process.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dfnb import UserError, files

PROGRAM = ["-P", "-m", "dfnb.data.decoder"]  # -P: Python imports no module of the current folder
START = 60  # seconds in which a decoder must be ready, also on a busy machine with a slow disk
GRACE = 5  # seconds after its own alarm in which a decoder must have ended
HEADER, TRAITS = 0, -1  # counts of frames that stand for two other requests
LIMITED = ("too large", "too long", "timed out", "crashed", "out of memory")  # depend on the limits
MACHINES = ("timed out", "crashed", "out of memory", "refused by the system")  # and on the machine


class Rejected(Exception):
    """A file that gives no frames; the message is `kind: detail` or `kind`.

    `passing` is true where another attempt may succeed although the file has not changed (it
    vanished, access is denied). Such a reason is not stored.
    """

    def __init__(self, reason: str, passing: bool = False):
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class Limits:
    """The resources that one video may take. A small file can claim any size."""

    pixels: int = 2**24  # of a frame: two of 4K, half of what ruins a machine in a few frames
    frames: int = 30_000  # 20 minutes at 25 a second: all are decoded, 5 to 25 ms each
    seconds: int = 3600  # that the header promises
    timeout: int = 120  # seconds on the clock; 1080p decodes 300 frames in one second
    memory: int = 4 * 2**30  # bytes of address space: 101 frames of 4K take 2.5 GB, the decoder 0.5


@dataclass(frozen=True)
class Clip:
    """Frames of one file, uint8 RGB (n, h, w, 3), their indices (n,) and times (n,) in seconds."""

    frames: np.ndarray
    indices: np.ndarray
    pts: np.ndarray
    total: int  # frames in the file
    bits: float | None = None  # per pixel of the compressed stream, for `traits` only


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Return `count` indices evenly spaced over 0 .. total - 1, both ends included.

    All indices are returned where there are fewer. A single index is the middle one.
    """
    if count == 1:
        return np.array([(total - 1) // 2])
    return np.round(np.linspace(0, total - 1, min(count, total))).astype(int)


def read(path: Path, count: int, *, limits: Limits | None = None) -> Clip:
    """Decode the whole file in order and keep `evenly_spaced(total, count)` of its frames, upright.

    Decoding in order is exact where seeking is not, and only it shows that a file is cut short. One
    process decodes one file after another. A file that hangs or kills the process is rejected, and
    the next file gets a new process. Raises Rejected.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return _ask(path, count, limits)


def declared(path: Path) -> int:
    """Return the number of frames that a file's header promises. Raises Rejected."""
    return _ask(path, HEADER).total


def traits(path: Path) -> dict[str, float]:
    """Return width, height, frames and bits per pixel of a video stream, without decoding it.

    Raises Rejected.
    """
    clip = _ask(path, TRAITS)
    height, width = clip.frames.shape[1:3]
    return {"width": width, "height": height, "frames": clip.total, "bits": clip.bits}


class _Died(Rejected):
    """The decoder ended before it answered."""


class _Decoder:
    """A process that runs `dfnb.data.decoder`; it ends when this end of its socket is closed."""

    def __init__(self):
        self.owner = os.getpid()  # a fork inherits the socket, and must not use it
        self.socket, theirs = socket.socketpair()
        self.answers = self.socket.makefile("rb")
        path = os.pathsep.join(filter(None, [str(files.ROOT), os.environ.get("PYTHONPATH")]))
        narrow = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}  # save address space
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(
            [sys.executable, *PROGRAM, str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=null, stdout=null, stderr=null, env=os.environ | narrow | {"PYTHONPATH": path})
        theirs.close()
        try:
            self._receive(START)
        except (EOFError, OSError, ValueError):
            self.stop()
            raise UserError(
                f"the process that decodes videos does not start (exit code "
                f"{self.process.returncode}); run `python {' '.join(PROGRAM)} 0` in {files.ROOT} "
                "to see the reason") from None
        except BaseException:
            self.stop()
            raise

    def ask(self, request: dict, limits: Limits) -> Clip:
        """Return the decoder's frames; Rejected where it rejects the file, is late or dies."""
        try:
            self.socket.sendall(json.dumps(request).encode() + b"\n")
            answer = self._receive(limits.timeout + GRACE)
            frames = np.empty((*answer.get("shape", []), 3), np.uint8)
            if "shape" in answer and self.answers.readinto(frames.reshape(-1)) != frames.nbytes:
                raise EOFError
        except (EOFError, OSError, ValueError) as error:
            raise self._death(isinstance(error, TimeoutError), limits) from None
        except BaseException:  # Ctrl-C: its answer would be taken for the next video's
            self.stop()
            raise
        if "rejected" in answer:
            raise Rejected(answer["rejected"], answer["passing"])
        indices, pts = np.array(answer["indices"]), np.array(answer["pts"])
        return Clip(frames, indices, pts, answer["total"], answer.get("bits"))

    def _receive(self, seconds: float) -> dict:
        self.socket.settimeout(seconds)
        return json.loads(self.answers.readline())

    def _death(self, late: bool, limits: Limits) -> Rejected:
        """Stop a decoder that did not answer, and return the reason."""
        if not late:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        code = self.process.poll()
        self.stop()
        if late or code == -signal.SIGALRM:
            return Rejected(f"timed out: decoding took more than {limits.timeout} s")
        if code is None:
            return _Died("crashed: the answer of the decoder cannot be read")
        if code < 0:
            return _Died(f"crashed: the decoder was killed by {signal.Signals(-code).name}")
        return _Died(f"crashed: the decoder ended with exit code {code}")

    def stop(self) -> None:
        """End the process, in whatever state it is."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs on a dead disk
            self.process.wait(GRACE)
        self.answers.close()
        self.socket.close()


_lock = threading.Lock()
_current: _Decoder | None = None


def _ask(path: Path, count: int, limits: Limits | None = None) -> Clip:
    """Ask this process's decoder, and a new one where it has ended or ends now."""
    global _current
    limits = limits or Limits()
    request = {"path": os.path.abspath(path), "count": count, "limits": asdict(limits)}
    with _lock:
        if _current and _current.owner == os.getpid() and not _current.answers.closed:
            with contextlib.suppress(_Died):  # an earlier file may have damaged this process
                return _current.ask(request, limits)
        _current = _Decoder()
        return _current.ask(request, limits)
