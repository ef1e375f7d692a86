"""What this machine, or the container around this process, has; how many workers that is enough for; and their pool."""

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

CGROUP = Path("/sys/fs/cgroup")  # of Linux, version 2
SHARE = 0.75  # of the memory that workers may fill; the rest is for the system and for the process that started them
TASKS = 64  # processes and threads that one worker may start: a limit of them counts both
THREADS = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"]


@dataclass(frozen=True)
class Machine:
    """What a process may use: `cores`, bytes of `memory`, and how many processes and threads (`tasks`) at a time."""

    cores: int
    memory: int
    tasks: int = sys.maxsize

    @property
    def budget(self) -> int:
        """Bytes that all workers together may take."""
        return int(self.memory * SHARE)

    def room(self, each: int) -> int:
        """Return the workers that cores and memory allow when each takes `each` bytes; at least one."""
        return max(1, min(self.cores, self.budget // each, self.tasks // TASKS))

    def workers(self, wanted: int | None, each: int) -> int:
        """Return the wanted number of workers, by default `room`; UserError where memory is short."""
        if wanted and wanted > 1 and wanted * each > self.budget:
            raise UserError(f"{wanted} workers may take {wanted * each / 1e9:.1f} GB together, more than the "
                            f"{self.budget / 1e9:.1f} GB that this machine has for them; {max(1, self.budget // each)} fit")
        return wanted or self.room(each)


def look(cgroup: Path = CGROUP) -> Machine:
    """The machine as this process may use it: its affinity, the limits of its control groups (`cgroup`, the root of
    their file system), and `DFNB_CORES` where that says fewer cores.
    """
    cores = processors()
    memory, tasks = _physical(), sys.maxsize
    for group in _groups(cgroup):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
        memory = min(memory, _number(group / "memory.max"))
        tasks = min(tasks, _number(group / "pids.max"))
    said = os.environ.get("DFNB_CORES", "")
    return Machine(max(1, min(cores, int(said) if said.isdigit() else cores)), memory, tasks)


def processors() -> int:
    """The processors that this process may run on, whatever share of their time it gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _physical() -> int:
    """Bytes of memory of the machine; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**33


def _groups(root: Path) -> list[Path]:
    """The folders of this process's control group and of those above it, whose limits hold for it too."""
    own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::/")), "/")
    path = root / own.strip("/")
    return [path, *(above for above in path.parents if above.is_relative_to(root))]


def _number(path: Path) -> int:
    text = _read(path)  # "max" where there is no limit
    return int(text) if text.isdigit() else sys.maxsize


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""


def executor(workers: int) -> ProcessPoolExecutor:
    """Fresh processes, of one thread each, that end with this one, however it ends."""
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as torch's, can hang
    return ProcessPoolExecutor(workers, context, initializer=_begin)


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """An `executor` for a block; an exception, such as Ctrl-C, ends its processes at once, whatever they do."""
    with executor(workers) as made, ending():  # killed before the executor waits for them
        yield made


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Kill the processes that were started in a block when it ends with an exception."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise


def _begin() -> None:
    """The parent alone handles Ctrl-C; libraries that are not imported yet keep to one thread; no parent, no worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(THREADS, "1"))
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
