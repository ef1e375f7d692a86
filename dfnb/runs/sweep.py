"""Many runs (of sweeps, and chapters of a study) as a resumable batch on any executor.

The executor only does the work; the run folders record what is done. So a sweep can be killed, be
started twice, or move to other machines on the same files, and no run is repeated or lost.
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
from dfnb.runs.grid import PlannedRun, action, counts, expand, plan_chapters, row

PASSING = {"kernel died", "out of memory", "timeout"}  # failures that another attempt may avoid
MAX_LOSSES = 3  # times that the process of a run may vanish before the run counts as failed
MAX_LOSSES_IN_A_ROW = 10  # after these the whole setting, not a run, is at fault
TINY, LARGE = 2 * 2**30, 8 * 2**30  # bytes for a run: on the tiny CLIP, on a published size
POLL = 0.5  # seconds between looks at runs that other processes execute
INTERRUPTED = "stopping after the current runs, Ctrl-C again stops at once"

Say = Callable[[str], None]


class SweepFailed(UserError):
    """Some runs of a sweep are not done."""

    exit_code = 1


def run(profile: str, only: Sequence[str] | None = None, *, workers: int | None = None,
        threads: int | None = None, scheduler: str | None = None, executor: Executor | None = None,
        retry_failed: bool = False, progress: Say | None = None) -> list[dict[str, Any]]:
    """Execute all runs of a profile's sweeps that are not done; return the rows of `grid.table`.

    A failed run stops no other. `workers` runs are active at a time: by default in processes of
    this machine, or on the workers of a Dask `scheduler`, or in any `executor`. Each kernel may use
    `threads`: by default cores / workers; on a scheduler, what its workers' environment says.
    Runs that failed before are left alone unless `retry_failed`. Runs that other processes execute
    are waited for. Raises KeyboardInterrupt after Ctrl-C: the first one lets the current runs end,
    the second stops at once. Raises SweepFailed on a full disk.
    """
    settings = config.load(profile)
    planned = expand(settings, only)
    _execute(settings, planned, progress or (lambda line: None), retry_failed=retry_failed,
             workers=workers, threads=threads, scheduler=scheduler, executor=executor)
    return [row(planned_run) for planned_run in planned]


def run_chapters(profile: str, names: Sequence[str], say: Say, *, force: bool = False,
                 workers: int | None = None, threads: int | None = None) -> list[str]:
    """Execute side by side the chapters that are not done and the sweeps that they read.

    A chapter begins when the chapters and sweeps that it reads have ended; a failed run of a sweep
    leaves a gap. Returns the chapters that were executed. With `force`, or if there is only one
    chapter, only the sweeps are done here: the caller executes it on all cores.
    Raises SweepFailed when a chapter fails, else as `run` does.
    """
    settings = config.load(profile)
    sweeps = [name for name, sweep in settings.sweeps.items() if sweep.chapter in names]
    swept = expand(settings, sweeps) if sweeps else []
    chapters = [chapter for chapter in ([] if force else plan_chapters(settings, names))
                if chapter.state()[0] != "done"]
    if len(chapters) < 2:
        chapters = []
    started = [chapter.chapter for chapter in chapters]
    if started or sweeps:
        say("; ".join([*started, *([f"the runs of {', '.join(sweeps)}"] if sweeps else [])]))
    _execute(settings, chapters + swept, say, workers=workers, threads=threads)
    if swept:
        say(f"sweeps: {counts([row(planned) for planned in swept])}")
    return started


def check_done(rows: list[dict[str, Any]]) -> None:
    """Raise SweepFailed naming the first run that is not done."""
    if left := [row for row in rows if row["state"] != "done"]:
        first, more = left[0], f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise SweepFailed(f"{first['run']}{more} not done ({first['state']}: {first['why']}); "
                          "fix the cause, then --retry-failed repeats what failed")


def _execute(settings: config.Profile, planned: list[PlannedRun], say: Say, *,
             retry_failed: bool = False, workers: int | None = None, threads: int | None = None,
             scheduler: str | None = None, executor: Executor | None = None) -> None:
    queue = deque(run for run in planned if action(
        run.state()[0], retry_failed or bool(run.chapter)) in ("run", "wait"))
    if not queue:
        return
    own = not (scheduler or executor)  # processes of ours do one run at a time, so they may fork
    if own:
        every = len(list(notebooks.folder().glob("*.ipynb"))) + len(expand(settings))
        each = TINY if settings.clip == "tiny" else LARGE
        workers, threads = pool.shares(workers, threads, every, each=each)
    options = {"threads": threads, "forked": own}
    with pool.open_engine(workers, scheduler, executor) as engine:
        _Batch(settings.name, engine, options, say, queue, retry_failed, len(queue),
               first_alone=not _has_crops(settings)).run()


def _has_crops(profile: config.Profile) -> bool:
    """Return whether a run of these settings is done, which has made the crops that all share."""
    done = (files.runs() / profile.name).glob("**/DONE.json")
    return any(run_state.read_json(path.parent / "config.json").get("settings") == profile.settings
               for path in done)


def _work(notebook: str, profile: str, parameters: dict, options: dict, environment: dict
          ) -> dict[str, str]:
    """Execute one run in any process; return {state: done | failed | elsewhere, reason, why}."""
    os.environ.update(environment)  # a cluster's worker does not inherit our folders
    try:
        study.execute(Path(notebook), config.load(profile), parameters, **options)
        return {"state": "done", "reason": "", "why": ""}
    except run_state.Busy as error:
        return {"state": "elsewhere", "reason": "", "why": str(error)}
    except UserError as error:
        reason = getattr(error, "reason", "bad parameters")
        return {"state": "failed", "reason": reason, "why": str(error)}


@dataclass
class _Batch:
    """The state of a batch in progress; everything that must outlive it is in the run folders."""

    profile: str
    engine: pool.Engine
    options: dict[str, Any]
    say: Say
    queue: deque[PlannedRun]
    retry_failed: bool
    total: int
    first_alone: bool  # the first run makes the crops, which the others then share
    active: dict[Future, tuple[PlannedRun, Executor]] = field(default_factory=dict)
    elsewhere: list[PlannedRun] = field(default_factory=list)  # executed by other processes
    attempts: Counter = field(default_factory=Counter)
    losses: Counter = field(default_factory=Counter)
    losses_in_a_row: int = 0
    ended: int = 0
    since: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))  # last chapter
    stopping: str = ""  # why no further run is started

    def run(self) -> None:
        """Continue until all runs have ended, or after a stop until the active ones have."""
        with pool.first_interrupt(self._stop):
            announced = False
            while self.active or not self.stopping and (self.queue or self.elsewhere):
                self._submit()
                if self.stopping and not announced:
                    self.say(f"{self.stopping}; waiting for {len(self.active)} running")
                    announced = True
                self._collect()
                self._poll_elsewhere()
        if self.stopping == INTERRUPTED:
            raise KeyboardInterrupt
        if self.stopping:
            raise SweepFailed(self.stopping)

    def _stop(self) -> None:
        self.stopping = self.stopping or INTERRUPTED

    def _submit(self) -> None:
        """Start runs while there are free slots, unless they ended or run elsewhere by now."""
        while not self.stopping and (run := self._next()) and len(self.active) < self._slots(run):
            self.queue.remove(run)
            state, why = run.state()
            again = self.retry_failed or run.chapter or self.attempts[run]
            if state == "done" or state == "failed" and not again:
                self._end(run, state, why)
            elif state == "running":
                self.elsewhere.append(run)
            else:
                self._start(run)

    def _next(self) -> PlannedRun | None:
        """Return the first queued run that waits for no other, or the first if all wait."""
        busy = [*(run for run, _ in self.active.values()), *self.elsewhere]
        left = {name for run in [*busy, *self.queue] for name in run.sweeps or [run.chapter]}
        first = self.queue[0] if self.queue and not busy else None
        return next((run for run in self.queue if not run.needs & left), first)

    def _slots(self, run: PlannedRun) -> int:
        """Return how many runs may be active: one, if a run's process has vanished twice before.

        If that run is to blame, it then harms no other.
        """
        suspects = [run, *(other for other, _ in self.active.values())]
        alone = self.first_alone or any(self.losses[suspect] > 1 for suspect in suspects)
        return 1 if alone else self.engine.slots()

    def _start(self, run: PlannedRun) -> None:
        folders = {"DATA": files.data(), "CACHE": files.cache(), "RUNS": files.runs(),
                   "NOTEBOOKS": run.notebook.parent, "PARAMS": config.folder()}
        environment = {f"DFNB_{name}": str(path.resolve()) for name, path in folders.items()}
        options = self.options | {"timeout": run.timeout, "cores": self.options["threads"]}
        if self.first_alone and options["cores"]:
            options["cores"] *= self.engine.slots()
        if run.chapter:  # the stamp of a chapter must not show what a forked kernel imported before
            self.say(f"{run.chapter}: running")
            options["forked"] = False
        executor = self.engine.executor
        try:
            future = executor.submit(_work, str(run.notebook), self.profile, run.parameters,
                                     options, environment)
            self.active[future] = run, executor
        except BrokenExecutor as error:
            self._lose(run, executor, error)

    def _collect(self) -> None:
        if not self.active:
            time.sleep(POLL if self.elsewhere and not self.queue else 0)
            return
        for future in wait(self.active, POLL, FIRST_COMPLETED).done:
            run, executor = self.active.pop(future)
            try:
                result = future.result()
            except Exception as error:  # of the executor: `_work` returns the failures of a run
                self._lose(run, executor, error)
            else:
                self._judge(run, **result)

    def _judge(self, run: PlannedRun, state: str, reason: str, why: str) -> None:
        """Count the result of an attempt, or queue the run for another one."""
        self.first_alone, self.losses_in_a_row = False, 0
        if state == "elsewhere":
            self.elsewhere.append(run)
            return
        self.attempts[run] += 1
        if reason == "disk full":
            self.stopping = why
        if reason in PASSING and self.attempts[run] <= run.retries:
            self.say(f"{run.folder.name}: {why}; one more attempt")
            self.queue.append(run)
        else:
            self._end(run, state, why)

    def _lose(self, run: PlannedRun, executor: Executor, error: Exception) -> None:
        """Queue a run again whose process vanished or never began, up to `MAX_LOSSES` times."""
        if isinstance(error, BrokenExecutor):
            self.engine.renew(executor)
        self.losses[run] += 1
        self.losses_in_a_row += 1
        cause = f"{type(error).__name__}: {error}"
        if self.losses_in_a_row > MAX_LOSSES_IN_A_ROW:
            raise SweepFailed(f"the processes that should execute the runs die at once ({cause}); "
                              "a script that starts a sweep needs `if __name__ == '__main__':`")
        all_are_lost = len(self.losses) > 1 and not self.attempts
        if self.losses[run] < MAX_LOSSES or all_are_lost:
            self.queue.append(run)
            return
        why = f"the process that executed it was lost {MAX_LOSSES} times, last with {cause}"
        with contextlib.suppress(run_state.Busy), run_state.hold(run.folder):
            if run_state.settled(run.folder, run.config)[0] != "done":
                attempt = run_state.clear(run.folder) + 1
                run_state.fail(run.folder, "kernel died", " ".join(why.split()), attempt)
        self._end(run, *run.state())

    def _poll_elsewhere(self) -> None:
        """Count the runs that other processes have ended; queue those that they left unfinished."""
        waiting, self.elsewhere = self.elsewhere, []
        for run in waiting:
            state, why = run.state()
            if state == "running":
                self.elsewhere.append(run)
            elif state in ("done", "failed"):
                self._end(run, state, why)
            else:
                self.queue.append(run)

    def _end(self, run: PlannedRun, state: str, why: str) -> None:
        """Count and report a run that has ended; a failed chapter stops the batch."""
        self.ended += 1
        seconds = None
        if run.chapter:
            self.since = time.monotonic(), self.ended
            self.stopping = self.stopping or (why if state == "failed" else "")
            seconds = row(run)["seconds"]
        details = (f" in {seconds:.0f} s" if seconds else "") + (f": {why}" if why else "")
        self.say(f"{self.ended}/{self.total} {run.folder.name} {state}{details}{self._eta()}")

    def _eta(self) -> str:
        """Estimate the time left from the runs since the last chapter; "" while chapters run."""
        began, before = self.since
        left, count = self.total - self.ended, self.ended - before
        ready = [*(run for run, _ in self.active.values()),
                 *(run for run in self.queue if not run.needs)]
        if not count or not left or any(run.chapter for run in ready):
            return ""
        seconds = (time.monotonic() - began) / count * left
        return (f"; about {math.ceil(seconds / 60)} min left" if seconds > 90
                else f"; about {seconds:.0f} s left")
