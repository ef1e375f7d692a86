"""Where the runs of a sweep are done: processes of this machine, a Dask cluster, or any executor that is given."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from dfnb import UserError, machine

RETRIES = 3  # of Dask, for a task that raised


@dataclass
class Engine:
    """An executor, how many runs it has room for now, and how to get a new one when it broke."""

    executor: Executor
    room: Callable[[], int]
    renew: Callable[[Executor], None] = lambda broken: None


def shares(workers: int | None, threads: int | None, runs: int, *, each: int, host: machine.Machine | None = None
           ) -> tuple[int, int]:
    """Processes for `runs` runs that take up to `each` bytes, and threads for each: the cores divided among them.

    By default one process a core, fewer where memory is short, and one where there is a GPU. `runs` are all that the
    profile has: the number of threads decides over the last digits of a sum, so it does not depend on how many are
    left. UserError for more workers than there is memory for, and for several on a GPU.
    """
    host = host or machine.look()
    if on_gpu():
        if workers and workers > 1:
            raise UserError(f"one run at a time has the GPU to itself, {workers} workers would share its memory; leave "
                            "--workers out, or hide the GPU (CUDA_VISIBLE_DEVICES=) to run on the CPU")
        workers = 1
    workers = min(host.workers(workers, each), runs)
    return workers, threads or max(1, host.cores // workers)


def on_gpu() -> bool:
    """Whether runs would compute on a GPU."""
    import torch

    return torch.cuda.is_available()


def given(executor: Executor, workers: int | None) -> contextlib.AbstractContextManager[Engine]:
    """Any executor; who made it closes it."""
    return contextlib.nullcontext(Engine(executor, lambda: workers or machine.look().cores))


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Engine]:
    """Processes of this machine; they end with this one, however it ends, and their kernels with them."""

    def renew(broken: Executor | None) -> None:
        if engine.executor is broken:  # all of its runs say that it broke: the first of them counts
            engine.executor = machine.executor(workers)

    engine = Engine(None, lambda: workers, renew)
    renew(None)
    with machine.ending():
        yield engine
        engine.executor.shutdown()


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
        text = f"no Dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`"
        raise UserError(text) from None
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
