"""Where runs execute: in processes of this machine, on a Dask cluster, or in a given executor."""

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
    """An executor, the number of runs it can hold now, and a way to replace it when it broke."""

    executor: Executor
    slots: Callable[[], int]
    renew: Callable[[Executor], None] = lambda broken: None


def shares(workers: int | None, threads: int | None, runs: int, *, each: int,
           host: machine.Machine | None = None) -> tuple[int, int]:
    """Return the number of worker processes, and of threads that each may use.

    By default there is one process per core, fewer if memory is short for runs of `each` bytes, and
    one on a GPU. `runs` counts all runs of the profile, done or not: the number of threads affects
    the last digits of a sum, so it must not depend on how many runs are left.
    Raises UserError for more workers than fit into memory, and for several on a GPU.
    """
    host = host or machine.look()
    if on_gpu():
        if workers and workers > 1:
            raise UserError(
                f"one run at a time has the GPU to itself, {workers} workers would share its "
                "memory; leave --workers out, or hide the GPU (CUDA_VISIBLE_DEVICES=) to run on "
                "the CPU")
        workers = 1
    workers = min(host.workers(workers, each), runs)
    return workers, threads or max(1, host.cores // workers)


def on_gpu() -> bool:
    """Return whether runs would compute on a GPU."""
    import torch

    return torch.cuda.is_available()


def open_engine(workers: int | None, scheduler: str | None, executor: Executor | None
                ) -> contextlib.AbstractContextManager[Engine]:
    """Open the engine for a block; the caller closes a given `executor`."""
    if scheduler:
        return _dask(scheduler, workers)
    if executor:
        slots = workers or machine.look().cores
        return contextlib.nullcontext(Engine(executor, lambda: slots))
    return _processes(workers or 1)


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Engine]:
    """Use processes of this machine; they and their kernels die with this process."""

    def renew(broken: Executor) -> None:
        if engine.executor is broken:  # each of its runs reports the break; the first one counts
            engine.executor = machine.executor(workers)

    engine = Engine(machine.executor(workers), lambda: workers, renew)
    with machine.killing_children():
        yield engine
        engine.executor.shutdown()


@contextlib.contextmanager
def _dask(address: str, workers: int | None) -> Iterator[Engine]:
    """Use a running Dask scheduler: as many runs as its workers have threads, or `workers`."""
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--scheduler needs Dask: pip install 'dfnb[cluster]'") from None
    try:
        client = Client(address, set_as_default=False, timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {address!r} ({error}); "
                        "start one with `dask scheduler`") from None
    with client:
        executor = client.get_executor(pure=False, retries=RETRIES)
        yield Engine(executor, lambda: workers or max(1, sum(client.nthreads().values())))


@contextlib.contextmanager
def first_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first Ctrl-C of a block; the second raises KeyboardInterrupt as usual."""
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
