"""The cores and memory that this process may use, how many workers fit, and pools of workers."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dfnb import UserError

CGROUP = Path("/sys/fs/cgroup")  # Linux, version 2
SHARE = 0.75  # of the memory that workers may fill; the system and the parent process use the rest
TASKS = 64  # processes and threads that one worker may start; `pids.max` counts both
THREADS = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
           "OPENCV_FOR_THREADS_NUM"]


@dataclass(frozen=True)
class Machine:
    """Limits of a process: `cores`, bytes of `memory`, and number of processes plus threads."""

    cores: int
    memory: int
    tasks: int = sys.maxsize

    @property
    def budget(self) -> int:
        """Return the bytes that all workers together may take."""
        return int(self.memory * SHARE)

    def workers(self, wanted: int | None, each: int) -> int:
        """Return `wanted`, or as many workers of `each` bytes as fit, at least one.

        UserError if `wanted` workers need more memory than there is.
        """
        if wanted and wanted > 1 and wanted * each > self.budget:
            raise UserError(
                f"{wanted} workers may take {wanted * each / 1e9:.1f} GB together, more than the "
                f"{self.budget / 1e9:.1f} GB that this machine has for them; "
                f"{max(1, self.budget // each)} fit")
        return wanted or max(1, min(self.cores, self.budget // each, self.tasks // TASKS))


def look(cgroup: Path = CGROUP) -> Machine:
    """Return the limits of this process: of the machine, its control groups, and `DFNB_CORES`.

    `cgroup` is the root of the control groups' file system.
    """
    cores, memory, tasks = processors(), _physical(), sys.maxsize
    for group in _groups(cgroup):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
        memory = min(memory, _number(_read(group / "memory.max")))
        tasks = min(tasks, _number(_read(group / "pids.max")))
    cores = min(cores, _number(os.environ.get("DFNB_CORES", "")))
    return Machine(max(1, cores), memory, tasks)


def processors() -> int:
    """Return the processors that this process may run on, whatever share of their time it gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _physical() -> int:
    """Return the machine's memory in bytes; 8 GiB if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**33


def _groups(root: Path) -> list[Path]:
    """Return the folders of this process's control group and of its ancestors, which bind too."""
    lines = _read(Path("/proc/self/cgroup")).splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::/")), "/")
    path = root / own.strip("/")
    return [path, *(above for above in path.parents if above.is_relative_to(root))]


def _number(text: str) -> int:
    """Return a limit; any text without a number, such as "max", is no limit."""
    return int(text) if text.isdigit() else sys.maxsize


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""


def executor(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, of one thread each, that die with this process."""
    context = multiprocessing.get_context("spawn")  # forking a process with threads can deadlock
    return ProcessPoolExecutor(workers, context, initializer=_start_worker)


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open an `executor` for a block; an exception such as Ctrl-C kills its processes at once."""
    with executor(workers) as processes, killing_children():  # killed before the pool joins them
        yield processes


@contextlib.contextmanager
def killing_children() -> Iterator[None]:
    """Kill the processes that were started in a block when the block ends with an exception."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, use one thread per library, and end when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by libraries that are imported later
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
