"""Where the runs of a sweep are done: processes of this machine, a Dask cluster, or any executor that is given."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from concurrent.futures.process import ProcessPoolExecutor
from dataclasses import dataclass

from dfnb import UserError

MOST_WORKERS = 8  # by default: each is a kernel with torch in it
MEMORY = 2 * 2**30  # bytes that a run of the demo world takes at most
RETRIES = 3  # of Dask, for a task that raised


@dataclass
class Engine:
    """An executor, how many runs it has room for now, and how to get a new one when it broke."""

    executor: Executor
    room: Callable[[], int]
    renew: Callable[[Executor], None] = lambda broken: None


def shares(workers: int | None, threads: int | None, runs: int) -> tuple[int, int]:
    """Processes for so many runs, and threads for each: the cores of this machine, divided among them.

    By default one process a core, fewer where memory is short, and one where there is a GPU, which they would share.
    The number of threads decides over the last digits of a sum, so it does not depend on how many runs are left.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or _default_workers(cores)
    return min(workers, runs), threads or max(1, cores // workers)


def _default_workers(cores: int) -> int:
    import torch

    if torch.cuda.is_available():
        return 1
    return max(1, min(cores, MOST_WORKERS, _memory() // MEMORY))


def _memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return MOST_WORKERS * MEMORY


def given(executor: Executor, workers: int | None) -> contextlib.AbstractContextManager[Engine]:
    """Any executor; who made it closes it."""
    return contextlib.nullcontext(Engine(executor, lambda: workers or MOST_WORKERS))


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Engine]:
    """Processes of this machine; they end with this one, however it ends, and their kernels with them."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang

    def renew(broken: Executor | None) -> None:
        if engine.executor is broken:  # all of its runs say that it broke: the first of them counts
            engine.executor = ProcessPoolExecutor(workers, context, initializer=_start_worker)

    engine = Engine(None, lambda: workers, renew)
    renew(None)
    try:
        yield engine
        engine.executor.shutdown()
    except BaseException:
        engine.executor.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise


def _start_worker() -> None:
    """The parent alone handles Ctrl-C; no worker outlives a killed parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def dask(address: str, workers: int | None) -> Iterator[Engine]:
    """A running Dask scheduler: as many runs at a time as its workers have threads, unless `workers` says."""
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--scheduler needs Dask: pip install 'dfnb[cluster]'") from None
    try:
        client = Client(address, set_as_default=False, timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        told = f"no Dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`"
        raise UserError(told) from None
    with client:
        executor = client.get_executor(pure=False, retries=RETRIES)
        yield Engine(executor, lambda: workers or max(1, sum(client.nthreads().values())))


@contextlib.contextmanager
def first_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`, the second is the usual KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number, frame):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
