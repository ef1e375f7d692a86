"""Many runs as a resumable batch over any `concurrent.futures.Executor`: sweeps, and the chapters of a study.

The executor only does work; what is done is read from the run folders. So a sweep can be killed, started
twice, or moved to other machines on the same files, and no run is repeated or lost.
"""

import contextlib
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfnb import UserError, config, files
from dfnb.runs import notebooks, pool, study
from dfnb.runs import state as run_state
from dfnb.runs.grid import Cell, counts, expand, fate, of_chapters, row

PASSING = {"kernel died", "out of memory", "timeout"}  # failures that another attempt need not meet
MOST_LOSSES = 3  # how often the process that does a run may vanish before the run counts as failed
MOST_IN_VAIN = 10  # losses in a row after which nothing seems to work at all
TINY, LARGE = 2 * 2**30, 8 * 2**30  # bytes that a run takes at most: on the tiny CLIP, on one of the published sizes
POLL = 0.5  # seconds between looks at runs that other processes have
INTERRUPTED = "stopping after the running cells, Ctrl-C again stops at once"

Say = Callable[[str], None]


class SweepFailed(UserError):
    """Some runs of a sweep are not done."""

    exit_code = 1


def run(
    profile: str, only: Sequence[str] | None = None, *, workers: int | None = None, threads: int | None = None,
    scheduler: str | None = None, executor: Executor | None = None, retry_failed: bool = False,
    progress: Say | None = None,
) -> list[dict[str, Any]]:
    """Run what is not done of a profile's sweeps and return `table`; a failed run stops no other.

    `workers` runs are under way at a time, in processes of this machine by default, on the workers of a Dask
    `scheduler`, or in any `executor`; each kernel may use `threads` (by default the cores over the workers,
    on a scheduler what its workers' environment says). Runs that failed before are left alone unless
    `retry_failed`. Runs that other processes have under way are waited for. Raises KeyboardInterrupt after
    Ctrl-C: the first lets the running cells end, the second stops at once. Raises SweepFailed on a full disk.
    """
    settings = config.load(profile)
    cells = expand(settings, only)
    where = {"workers": workers, "threads": threads, "scheduler": scheduler, "executor": executor}
    _do(settings, cells, progress or (lambda line: None), retry_failed=retry_failed, **where)
    return [row(cell) for cell in cells]


def together(profile: str, names: Sequence[str], *, force: bool = False, workers: int | None = None,
             threads: int | None = None, progress: Say | None = None) -> list[str]:
    """Run what is not done of some chapters and of the sweeps that they read, so much at a time as fits.

    A chapter begins when the chapters and sweeps that it reads have ended; runs of a sweep that fail leave gaps in it.
    Returns the chapters that were done here. Left to the caller are those that are to be repeated (`force`), and a
    single one, which can have all cores. Raises SweepFailed when a chapter fails, else as `run` does.
    """
    settings, say = config.load(profile), progress or (lambda line: None)
    swept = [name for name, sweep in settings.sweeps.items() if sweep.chapter in names]
    cells = expand(settings, swept) if swept else []
    own = [] if force else [cell for cell in of_chapters(settings, names) if cell.state()[0] != "done"]
    if len(own) < 2:
        own = []
    text = [*(cell.chapter for cell in own), *([f"the runs of {', '.join(swept)}"] if swept else [])]
    if text:
        say("; ".join(text))
    _do(settings, own + cells, say, workers=workers, threads=threads)
    if cells:
        say(f"sweeps: {counts([row(cell) for cell in cells])}")
    return [cell.chapter for cell in own]


def _do(settings: config.Profile, cells: list[Cell], say: Say, *, workers: int | None = None, threads: int | None = None,
        scheduler: str | None = None, executor: Executor | None = None, retry_failed: bool = False) -> None:
    wanted = [cell for cell in cells if fate(cell.state()[0], retry_failed or cell.chapter) in ("run", "wait")]
    if not wanted:
        return
    if not (scheduler or executor):
        each = TINY if settings.clip == "tiny" else LARGE
        workers, threads = pool.shares(workers, threads, _total(settings), each=each)
    options = {"threads": threads, "forked": not (scheduler or executor)}  # a process of the pool does one at a time
    with _engine(workers, scheduler, executor) as engine:
        _Batch(settings.name, engine, options, say, deque(wanted), len(wanted), retry_failed,
               first_alone=not _has_crops(settings)).run()


def _total(settings: config.Profile) -> int:
    """All runs of a profile, of its chapters and of its sweeps."""
    return len(list(notebooks.folder().glob("*.ipynb"))) + len(expand(settings))


def _engine(workers: int | None, scheduler: str | None, executor: Executor | None):
    if scheduler:
        return pool.dask(scheduler, workers)
    return pool.given(executor, workers) if executor else pool.pool(workers)


def _has_crops(profile: config.Profile) -> bool:
    """Whether some run of these settings is done: then the crops that all share have been made."""
    own = files.runs() / profile.name
    folders = [path.parent for pattern in ("*", "*/sweep/*") for path in own.glob(f"{pattern}/DONE.json")]
    return any(run_state.read_json(folder / "config.json").get("settings") == profile.settings for folder in folders)


def _work(notebook: str, profile: str, parameters: dict, options: dict, environment: dict) -> dict[str, str]:
    """Do one run, in whatever process: {state: done | failed | elsewhere, reason, why}. Raises nothing of a run."""
    os.environ.update(environment)  # a worker on a cluster has been started without our folders
    try:
        study.execute(Path(notebook), config.load(profile), parameters, **options)
        return {"state": "done", "reason": "", "why": ""}
    except run_state.Busy as error:
        return {"state": "elsewhere", "reason": "", "why": str(error)}
    except UserError as error:
        return {"state": "failed", "reason": getattr(error, "reason", "bad parameters"), "why": str(error)}


def check_done(rows: list[dict[str, Any]]) -> None:
    """Raise SweepFailed naming the first run that is not done."""
    if left := [row for row in rows if row["state"] != "done"]:
        first, more = left[0], f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise SweepFailed(f"{first['run']}{more} not done ({first['state']}: {first['why']}); "
                          "when the cause is fixed, --retry-failed repeats what failed")


@dataclass
class _Batch:
    """The state of a sweep under way; everything that must outlive it is in the run folders."""

    profile: str
    engine: pool.Engine
    options: dict[str, Any]
    say: Say
    queue: deque[Cell]
    total: int
    retry_failed: bool
    first_alone: bool  # it makes the crops, which the others then share
    running: dict[Future, tuple[Cell, Executor]] = field(default_factory=dict)
    elsewhere: list[Cell] = field(default_factory=list)
    attempts: Counter = field(default_factory=Counter)
    losses: Counter = field(default_factory=Counter)
    in_vain: int = 0
    ended: Counter = field(default_factory=Counter)  # state -> runs
    since: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))  # no chapter ran since
    stopping: str = ""  # why no further run is started

    def run(self) -> None:
        """Until all runs have ended, or the running ones after the first Ctrl-C."""
        with pool.first_interrupt(self._stop):
            text = False
            while self.running or not self.stopping and (self.queue or self.elsewhere):
                self._submit()
                if self.stopping and not text:
                    self.say(f"{self.stopping}; waiting for {len(self.running)} running")
                    text = True
                self._collect()
                self._look_elsewhere()
        if self.stopping == INTERRUPTED:
            raise KeyboardInterrupt
        if self.stopping:
            raise SweepFailed(self.stopping)

    def _stop(self) -> None:
        self.stopping = self.stopping or INTERRUPTED

    def _submit(self) -> None:
        """Start as many runs as there is room for; what meanwhile ended or runs elsewhere is not started."""
        while not self.stopping and (cell := self._next()) and len(self.running) < self._room(cell):
            self.queue.remove(cell)
            state, why = cell.state()
            again = self.retry_failed or cell.chapter or self.attempts[cell]
            if state == "done" or state == "failed" and not again:
                self._end(cell, state, why)  # by another runner
            elif state == "running":
                self.elsewhere.append(cell)
            else:
                self._start(cell)

    def _next(self) -> Cell | None:
        """The first in the queue that waits for nothing; where all wait for each other, the first."""
        under_way = [*(cell for cell, _ in self.running.values()), *self.elsewhere]
        left = {name for cell in [*under_way, *self.queue] for name in cell.sweeps or [cell.chapter]}
        first = self.queue[0] if self.queue and not under_way else None
        return next((cell for cell in self.queue if not cell.needs & left), first)

    def _room(self, cell: Cell) -> int:
        """One at a time for a run whose process vanished before: should it be to blame, it harms no other."""
        frail = [cell, *(other for other, _ in self.running.values())]
        alone = self.first_alone or any(self.losses[cell] > 1 for cell in frail)
        return 1 if alone else self.engine.room()

    def _start(self, cell: Cell) -> None:
        folders = {"DATA": files.data(), "CACHE": files.cache(), "RUNS": files.runs(),
                   "NOTEBOOKS": cell.notebook.parent, "PARAMS": config.folder()}
        environment = {f"DFNB_{name}": str(Path(folder).resolve()) for name, folder in folders.items()}
        options = self.options | {"timeout": cell.timeout, "cores": self.options["threads"]}
        if self.first_alone and options["cores"]:
            options["cores"] *= self.engine.room()
        if cell.chapter:  # of its own: what a forked kernel has imported before would show in its stamp
            self.say(f"{cell.chapter}: running")
            options["forked"] = False
        given = (str(cell.notebook), self.profile, cell.parameters, options)
        executor = self.engine.executor
        try:
            self.running[executor.submit(_work, *given, environment)] = cell, executor
        except BrokenExecutor as error:
            self._lose(cell, executor, error)

    def _collect(self) -> None:
        if not self.running:
            time.sleep(POLL if self.elsewhere and not self.queue else 0)
            return
        for future in wait(self.running, POLL, FIRST_COMPLETED).done:
            cell, executor = self.running.pop(future)
            try:
                result = future.result()
            except Exception as error:  # of the executor: `_work` raises nothing of a run
                self._lose(cell, executor, error)
            else:
                self._judge(cell, **result)

    def _judge(self, cell: Cell, state: str, reason: str, why: str) -> None:
        """Count an attempt's result, or put the cell back: for another attempt, or until another runner ends."""
        self.first_alone, self.in_vain = False, 0
        if state == "elsewhere":
            self.elsewhere.append(cell)
            return
        self.attempts[cell] += 1
        if reason == "disk full":
            self.stopping = why
        if reason in PASSING and self.attempts[cell] <= cell.retries:
            self.say(f"{cell.folder.name}: {why}; one more attempt")
            self.queue.append(cell)
        else:
            self._end(cell, state, why)

    def _lose(self, cell: Cell, executor: Executor, error: Exception) -> None:
        """The process that did the run is gone, or never began: again, but not for ever."""
        if isinstance(error, BrokenExecutor):
            self.engine.renew(executor)
        self.losses[cell] += 1
        self.in_vain += 1
        if self.in_vain > MOST_IN_VAIN:
            raise SweepFailed(f"the processes that should do the runs die at once ({type(error).__name__}: {error}); "
                              "a script that starts a sweep needs `if __name__ == '__main__':`")
        others_are_no_better = len(self.losses) > 1 and not self.attempts
        if self.losses[cell] < MOST_LOSSES or others_are_no_better:
            self.queue.append(cell)
            return
        why = f"the process that did it was lost {MOST_LOSSES} times, last with {type(error).__name__}: {error}"
        with contextlib.suppress(run_state.Busy), run_state.hold(cell.folder):
            if run_state.settled(cell.folder, cell.config)[0] != "done":
                attempt = run_state.clear(cell.folder) + 1
                run_state.fail(cell.folder, "kernel died", " ".join(why.split()), attempt)
        self._end(cell, *cell.state())

    def _look_elsewhere(self) -> None:
        """See what other processes have made of the runs they had; one left unfinished is ours again."""
        waiting, self.elsewhere = self.elsewhere, []
        for cell in waiting:
            state, why = cell.state()
            if state == "running":
                self.elsewhere.append(cell)
            elif state in ("done", "failed"):
                self._end(cell, state, why)
            else:
                self.queue.append(cell)

    def _end(self, cell: Cell, state: str, why: str) -> None:
        """Count a run that has ended; the time that is left is estimated from runs of sweeps, which are alike."""
        self.ended[state] += 1
        count, now = self.ended.total(), time.monotonic()
        if cell.chapter:
            self.since = now, count
        if cell.chapter and state == "failed":
            self.stopping = self.stopping or why
        left, (began, before) = self.total - count, self.since
        others = [*(other for other, _ in self.running.values()), *(other for other in self.queue if not other.needs)]
        eta = ""
        if count > before and left and not any(other.chapter for other in others):
            seconds = (now - began) / (count - before) * left
            eta = f"; about {math.ceil(seconds / 60)} min left" if seconds > 90 else f"; about {seconds:.0f} s left"
        seconds = row(cell)["seconds"] if cell.chapter else None
        text = (f" in {seconds:.0f} s" if seconds else "") + (f": {why}" if why else "")
        self.say(f"{count}/{self.total} {cell.folder.name} {state}{text}{eta}")
