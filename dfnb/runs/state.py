"""The state of a run's folder, read from what lies in it, why a run failed, and the lock on it."""

import contextlib
import errno
import fcntl
import json
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

REASONS = {  # class of a failure -> what "kind: message" of its exception looks like
    "disk full": r"\[Errno (28|122)\]|[Nn]o space left",
    "out of memory": r"^\w*(MemoryError|OutOfMemoryError)|can't allocate|[Nn]ot enough memory|\[Errno 12\]",
    "kernel died": r"^DeadKernelError|Kernel died",
    "timeout": r"^CellTimeoutError|Kernel didn't respond",
    "diverged": r"^Diverged:",
    "no gradient": r"^NoGradient:",
}
SENTENCES = {
    "disk full": "no space is left on the device; free some and run the same command again",
    "kernel died": "its kernel was killed, often for want of memory",
    "timeout": "it took longer than it may",
}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # IPython colours its tracebacks


class Busy(UserError):
    """Another process has the run."""


class Full(UserError):
    """There is no space for even the record of a failure; what was complete before is intact."""

    exit_code, reason = 1, "disk full"


class StudyFailed(UserError):
    """A chapter or the book did not reach its end; the study stops there with exit code 1."""

    exit_code = 1

    def __init__(self, message: str, reason: str = "error"):
        super().__init__(message)
        self.reason = reason  # class of the failure, as in FAILED.json


def state(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """(missing | running | interrupted | failed | done | stale, why) of the run that `config` describes."""
    if lock_is_held(folder):
        return "running", _holder(folder)
    return settled(folder, config)


def settled(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """The state but for the lock: for the one who holds it."""
    if done := read_json(folder / "DONE.json"):
        if damage := _damage(folder, done):
            return "interrupted", damage
        changed = differences(read_json(folder / "config.json"), config) + _inputs_changed(folder, done)
        return ("stale", "; ".join(changed[:3])) if changed else ("done", "")
    if failed := read_json(folder / "FAILED.json"):
        known = read_json(folder / "config.json")
        if changed := differences(known, config) if known else []:
            return "stale", f"it failed ({failed.get('reason')}), but since then {'; '.join(changed[:3])}"
        return "failed", f"{failed.get('reason')}: {failed.get('message')}"
    if (folder / "config.json").exists():
        return "interrupted", "started, but neither done nor failed"
    return "missing", "never run"


def differences(old: dict[str, Any], new: dict[str, Any], above: str = "") -> list[str]:
    """Fields in which two configurations differ, in words; what one of them does not know is not compared."""
    found = []
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{above}{name}.")
        elif name == "code" and a != b:
            found.append("the code of the package or of the notebook has changed")
        elif name in ("sources", "data"):
            found += ["the files of the corpus have changed"] if None not in (a, b) and a != b else []
        elif a != b:
            found.append(f"{above}{name} was {a!r}, is {b!r}")
    return found


def _damage(folder: Path, done: dict[str, Any]) -> str:
    for name, digest in done.get("artefacts", {}).items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != digest:
            return f"{name} is not as it was saved"
    return "" if done.get("artefacts") else "DONE.json lists no artefact"


def _inputs_changed(folder: Path, done: dict[str, Any]) -> list[str]:
    """Runs whose numbers this run had read, or found to be absent, and which have others now."""
    chapters = folder.parent if folder.parent.name != "sweep" else folder.parents[2]
    return [f"the result of {name} has changed" for name, digest in done.get("inputs", {}).items()
            if digest_of_result(chapters / name) != digest]


def digest_of_result(folder: Path) -> str | None:
    """SHA-256 of the numbers of a run; None while it has none or is not done."""
    metrics = folder / "metrics.json"
    return sha256(metrics) if (folder / "DONE.json").is_file() and metrics.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where there is none or it is not readable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def clear(folder: Path) -> int:
    """Empty a run's folder but for sweep/ and the lock, DONE.json first. Returns how many attempts failed."""
    attempts = read_json(folder / "FAILED.json").get("attempt", 0)
    (folder / "DONE.json").unlink(missing_ok=True)
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.name in ("lock", "sweep"):
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return attempts


def fail(folder: Path, reason: str, message: str, attempt: int) -> None:
    """Write FAILED.json: the reason's class, one sentence, and which attempt it was."""
    files.atomic_write(folder / "FAILED.json", canonical(
        {"reason": reason, "message": message, "attempt": attempt, "finished": now()}))


def explain(error: Exception, log: Path) -> tuple[str, str]:
    """Reason class and sentence of a failed execution; papermill's own record of it is not to be trusted."""
    kind = getattr(error, "ename", type(error).__name__)  # papermill wraps the exception of a cell
    text = " ".join(str(getattr(error, "evalue", error)).split())
    for reason, pattern in REASONS.items():
        if re.search(pattern, f"{kind}: {text}"):
            words = text if reason in ("diverged", "no gradient") else SENTENCES.get(reason, f"{kind}: {text}")
            return reason, f"{words} (see {log})" if words != text else text
    if kind in ("DataError", "UserError"):
        return "data" if kind == "DataError" else "bad parameters", text
    return "error", text if isinstance(error, UserError) else f"{kind}: {text} (see {log})"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run's lock; Busy naming who else has it. The operating system frees it at any death.

    Raises Full where the block ends in an error for want of disk space.
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
    if folder.resolve() != folder.absolute():  # it is emptied before a run, and a link could empty anything
        raise UserError(f"{folder} lies behind a link to {folder.resolve()}; remove the link, "
                        "or set DFNB_RUNS to where runs shall lie")
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    for _ in range(20):  # whoever merely looks at the state has it for a moment
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.05)
    else:
        os.close(handle)
        raise Busy(f"{folder.name} is being run by {_holder(folder)}; wait for it, or stop that process")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "start": now()}
    with contextlib.suppress(OSError):  # who has it is for a reader; a full disk must not leave it locked
        os.ftruncate(handle, 0)
        os.pwrite(handle, canonical(owner).encode(), 0)
    return handle


def unlock(handle: int) -> None:
    fcntl.flock(handle, fcntl.LOCK_UN)  # explicit: a forked worker may still have the descriptor
    os.close(handle)


def _holder(folder: Path) -> str:
    owner = {"pid": "?", "host": "?", "start": "?"} | read_json(folder / "lock")
    return f"process {owner['pid']} on {owner['host']} since {owner['start']}"


def lock_is_held(folder: Path) -> bool:
    """Whether some process has the run's lock now."""
    try:
        handle = os.open(folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
