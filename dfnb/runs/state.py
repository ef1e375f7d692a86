"""The state of a run, read from what lies in its folder; the class of a failure; the run's lock."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dfnb import UserError, files
from dfnb.files import canonical, sha256

SWEEP = "sweep"  # folder inside a chapter's, of its runs with other parameters
APART = {"lock", SWEEP, "DONE.json", "FAILED.json", "notebook.log"}  # in the folder, no artefacts
REASONS = {  # class of a failure -> what "type: message" of its exception looks like
    "disk full": r"\[Errno (28|122)\]|[Nn]o space left",
    "out of memory": r"^\w*(MemoryError|OutOfMemoryError)|can't allocate|[Nn]ot enough memory"
                     r"|\[Errno 12\]",
    "kernel died": r"^DeadKernelError|Kernel died",
    "timeout": r"^CellTimeoutError|Kernel didn't respond",
    "diverged": r"^Diverged:",
    "no gradient": r"^NoGradient:",
    "data": r"^DataError:",
    "bad parameters": r"^UserError:",
}
OURS = {"diverged", "no gradient", "data", "bad parameters"}  # their message says all
SENTENCES = {
    "disk full": "no space is left on the device; free some and run the same command again",
    "kernel died": "its kernel was killed, often for want of memory",
    "timeout": "it took longer than it may",
}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # IPython colours its tracebacks


class Busy(UserError):
    """Another process has the run."""


class Full(UserError):
    """The disk has no space for the record of a failure; what was complete before is intact."""

    exit_code, reason = 1, "disk full"


class StudyFailed(UserError):
    """A chapter or the book did not reach its end; the study stops there with exit code 1."""

    exit_code = 1

    def __init__(self, message: str, reason: str = "error"):
        super().__init__(message)
        self.reason = reason  # class of the failure, as in FAILED.json


def state(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Return the state of the run that `config` describes, and why it is in that state.

    The states are missing, running, interrupted, failed, done and stale.
    """
    if lock_is_held(folder):
        return "running", _holder(folder)
    return settled(folder, config)


def settled(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Return the state without a look at the lock, for the process that holds it."""
    changed = differences(known, config) if (known := read_json(folder / "config.json")) else []
    if done := read_json(folder / "DONE.json"):
        if damage := _damage(folder, done):
            return "interrupted", damage
        changed += _inputs_changed(folder, done)
        return ("stale", "; ".join(changed[:3])) if changed else ("done", "")
    if failed := read_json(folder / "FAILED.json"):
        reason = failed.get("reason")
        if changed:
            return "stale", f"it failed ({reason}), but since then {'; '.join(changed[:3])}"
        return "failed", f"{reason}: {failed.get('message')}"
    if (folder / "config.json").exists():
        return "interrupted", "started, but neither done nor failed"
    return "missing", "never run"


def differences(old: dict[str, Any], new: dict[str, Any], above: str = "") -> list[str]:
    """Return one phrase for each field in which two configurations differ.

    `sources` are not compared where one of the two had no corpus at hand.
    """
    changes = []
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            changes += differences(a, b, f"{above}{name}.")
        elif a == b or name == "sources" and None in (a, b):
            continue
        elif name == "code":
            changes.append("the code of the package or of the notebook has changed")
        elif name == "sources":
            changes.append("the files of the corpus have changed")
        else:
            changes.append(f"{above}{name} was {a!r}, is {b!r}")
    return changes


def _damage(folder: Path, done: dict[str, Any]) -> str:
    for name, digest in done.get("artefacts", {}).items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != digest:
            return f"{name} has changed since it was saved"
    return "" if done.get("artefacts") else "DONE.json lists no artefact"


def _inputs_changed(folder: Path, done: dict[str, Any]) -> list[str]:
    """Return a phrase for each run whose result has changed or appeared since it was read."""
    above = folder_of_profile(folder)
    return [f"the result of {name} has changed" for name, digest in done.get("inputs", {}).items()
            if digest_of_result(above / name) != digest]


def folder_of_profile(folder: Path) -> Path:
    """Return the folder of all runs of the profile that a run's folder belongs to."""
    return folder.parents[2] if folder.parent.name == SWEEP else folder.parent


def digest_of_result(folder: Path) -> str | None:
    """Return the SHA-256 of a run's metrics; None where the run is not done."""
    metrics = folder / "metrics.json"
    return sha256(metrics) if (folder / "DONE.json").is_file() and metrics.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty dict where it is missing or broken."""
    with contextlib.suppress(UserError):
        return files.read_json(path)
    return {}


def clear(folder: Path) -> int:
    """Empty a run's folder but for sweep/ and the lock; return how many attempts have failed.

    DONE.json goes first, so that a death meanwhile leaves no false proof.
    """
    attempts = read_json(folder / "FAILED.json").get("attempt", 0)
    (folder / "DONE.json").unlink(missing_ok=True)
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.name in ("lock", SWEEP):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return attempts


def fail(folder: Path, reason: str, message: str, attempt: int) -> None:
    """Write FAILED.json: the class of the failure, one sentence, and the attempt's number."""
    record = {"reason": reason, "message": message, "attempt": attempt, "finished": now()}
    files.atomic_write(folder / "FAILED.json", canonical(record))


def explain(error: Exception, log: Path) -> tuple[str, str]:
    """Return the class of a failed execution, by the exception's type, and a sentence."""
    kind = getattr(error, "ename", type(error).__name__)  # papermill wraps a cell's exception
    text = " ".join(str(getattr(error, "evalue", error)).split())
    whole = f"{kind}: {text}"
    reason = next((name for name, pattern in REASONS.items() if re.search(pattern, whole)), "error")
    if reason in OURS or reason == "error" and isinstance(error, UserError):
        return reason, text
    return reason, f"{SENTENCES.get(reason, whole)} (see {log})"


# ------------------------------------------------------------------- the lock
@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run's lock, which the operating system frees when the process dies.

    Raises Busy where another process has it, and Full where the block ends for want of disk space.
    """
    try:
        handle = lock(folder)
        try:
            yield
        finally:
            unlock(handle)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Full(f"{folder.name}: {SENTENCES['disk full']}") from None


def lock(folder: Path) -> int:
    """Take a run's lock and return its descriptor; raise Busy that names who has it.

    Raises UserError for a folder behind a link: a run's folder is emptied, and a link could lead
    anywhere.
    """
    if folder.resolve() != folder.absolute():
        raise UserError(f"{folder} lies behind a link to {folder.resolve()}; remove the link, "
                        "or set DFNB_RUNS to the folder that shall hold the runs")
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    for _ in range(20):  # a process that looks at the state has the lock for a moment
        if _take(handle, fcntl.LOCK_EX):
            break
        time.sleep(0.05)
    else:
        os.close(handle)
        raise Busy(f"{folder.name} is being run by {_holder(folder)}; wait for it, "
                   "or stop that process")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "start": now()}
    with contextlib.suppress(OSError):  # readers alone need it; a full disk must not keep the lock
        os.ftruncate(handle, 0)
        os.pwrite(handle, canonical(owner).encode(), 0)
    return handle


def unlock(handle: int) -> None:
    """Free a lock, also where a forked process has inherited its descriptor."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _take(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(folder: Path) -> str:
    owner = {"pid": "?", "host": "?", "start": "?"} | read_json(folder / "lock")
    return f"process {owner['pid']} on {owner['host']} since {owner['start']}"


def lock_is_held(folder: Path) -> bool:
    """Return whether some process has the run's lock now; two processes may look at once."""
    try:
        handle = os.open(folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _take(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
