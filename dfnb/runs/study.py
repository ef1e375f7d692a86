"""From a profile to a printed report: chapters executed by papermill in order, then the book.

A chapter is done when `state` says so, whatever the executed notebook's own metadata claims, and a
book is built from chapters that are done.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dfnb import files
from dfnb.config import Profile, load
from dfnb.runs import book, configuration, kernels
from dfnb.runs import run as runs
from dfnb.runs import state as run_state
from dfnb.runs.notebooks import chapters, find
from dfnb.runs.parameters import chapter_parameters, declared
from dfnb.runs.state import StudyFailed

START = 600  # seconds until a kernel must answer; imports take long on a busy machine

Say = Callable[[str], None]


# ------------------------------------------------------------------- chapters in order
def run(profile: str, only: Sequence[str] | None = None, force: bool = False,
        progress: Say | None = None, *, before: Callable[[list[str]], list[str]] | None = None,
        threads: int | None = None, cores: int | None = None) -> Path | None:
    """Run the chapters of a profile that are not done, then build the book; return its first page.

    `only` names chapters (03 is enough for 03_lora_training) and leaves the book out; `force`
    repeats chapters that are done. `progress` is called with one line at a time. `before` is called
    with the names of the chapters; it may run some of them, and returns the names of these.
    `threads` and `cores` as in `execute`. Raises UserError for what cannot start, StudyFailed for
    what fails.
    """
    settings, every = load(profile), chapters()
    _check_names(settings, every)
    wanted = [find(name, every) for name in only] if only else every
    ran = before([notebook.stem for notebook in wanted]) if before else []
    for notebook in wanted:
        if notebook.stem not in ran:
            execute(notebook, settings, {}, force=force, progress=progress, threads=threads,
                    cores=cores)
    if only:
        return None
    if progress:
        progress("building the book")
    return book.build(profile, status(profile))


def execute(notebook: Path, profile: Profile, parameters: dict[str, Any], *, force: bool = False,
            progress: Say | None = None, threads: int | None = None, **options) -> Path:
    """Run one notebook unless that run is done; return its folder.

    `threads` bounds what the kernel's libraries use, by default the machine's cores. `options` are
    those of `_papermill`: `cores`, `timeout`, `forked`. Raises Busy where another process has the
    run, StudyFailed where it fails.
    """
    say = progress or (lambda line: None)
    config = configuration.of_run(notebook, profile, parameters)
    folder = configuration.place(notebook, profile, config)
    with run_state.hold(folder):
        state, why = _state(folder, config, run_state.settled)
        if state == "done" and not force:
            say(f"{notebook.stem}: done before, skipped")
            return folder
        reason = "again, as asked" if state == "done" else f"({state}: {why})"
        say(f"{notebook.stem}: running {reason}")
        options |= {"threads": threads, "show": progress is not None}
        seconds = _attempt(notebook, folder, config, options)
        say(f"{notebook.stem}: done in {seconds:.0f} s")
    return folder


def status(profile: str) -> list[dict[str, str]]:
    """Return one row per chapter: notebook, state, why it is in that state, seconds it took."""
    settings, rows = load(profile), []
    for notebook in chapters():
        config = configuration.of_run(notebook, settings, {})
        folder = configuration.place(notebook, settings, config)
        state, why = _state(folder, config, run_state.state)
        seconds = run_state.read_json(folder / "DONE.json").get("wall_seconds")
        rows.append({"notebook": notebook.stem, "state": state, "why": why,
                     "seconds": "" if seconds is None else f"{seconds:.0f}"})
    return rows


def _state(folder: Path, config: dict[str, Any], of: Callable) -> tuple[str, str]:
    """Return a run's state; "stale" where it left no page, as in JupyterLab or plain papermill."""
    state, why = of(folder, config)
    if state == "done" and not (folder / "notebook.ipynb").is_file():
        return "stale", "it was run outside of the study and left no executed notebook"
    return state, why


def _check_names(profile: Profile, every: list[Path]) -> None:
    """Raise UserError for a wrong name or parameter before the first chapter runs, not later."""
    readers = [sweep.chapter for sweep in profile.sweeps.values() if sweep.chapter]
    for name in [*profile.notebooks, *readers]:
        find(name, every)
    for notebook in every:
        chapter_parameters(notebook, profile)


# ------------------------------------------------------------------- one execution
def _attempt(notebook: Path, folder: Path, config: dict[str, Any], options: dict[str, Any]
             ) -> float:
    """Execute into `folder`, DONE.json last, and return the seconds that it took.

    Where that fails, FAILED.json is written and StudyFailed raised.
    """
    attempt, began = run_state.clear(folder) + 1, time.perf_counter()
    try:
        _papermill(notebook, folder, config, **options)
        if not ((folder / "config.json").exists() and (folder / "metrics.json").exists()):
            raise StudyFailed("the notebook ended without saving a result (`start`, then `save`)")
        seconds = time.perf_counter() - began
        runs.finish(folder, wall_seconds=round(seconds, 3), attempt=attempt,
                    threads=options["threads"])
        return seconds
    except Exception as error:
        reason, message = run_state.explain(error, folder / "notebook.log")
        with contextlib.suppress(OSError):  # without FAILED.json the run is "interrupted": true too
            run_state.fail(folder, reason, message, attempt)
        raise StudyFailed(f"{notebook.stem} failed: {message}", reason) from None


def _papermill(notebook: Path, folder: Path, config: dict[str, Any], *, show: bool,
               threads: int | None, cores: int | None = None, timeout: float | None = None,
               forked: bool = False) -> None:
    """Execute a notebook; its page becomes notebook.ipynb in one step, also where it fails.

    `cores` bounds the processes that it starts, `timeout` its seconds. With `forked` the kernel is
    forked with its imports done (see `kernels`); then this process must do one run at a time.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # `explain` says what went wrong
    defaults = declared(notebook)
    given = config["parameters"] | {"profile": config["profile"]}
    changed = {name: value for name, value in given.items() if value != defaults.get(name, value)}
    page, end = folder / ".notebook.ipynb", time.monotonic() + (timeout or 0)
    output = str(page).replace("{", "{{").replace("}", "}}")  # papermill fills in {names}
    left = (lambda cell: max(0.01, end - time.monotonic())) if timeout else None  # not per cell
    kernel = kernels.options(notebook, folder, threads=threads, cores=cores, forked=forked)
    with (folder / "notebook.log").open("w") as log, kernel as options:
        try:
            papermill.execute_notebook(
                str(notebook), output, changed, kernel_name="python3", cwd=str(files.ROOT),
                stdout_file=log, stderr_file=log, progress_bar=show and sys.stderr.isatty(),
                autosave_cell_every=0, start_timeout=START, timeout_func=left, **options)
        except Exception as error:
            trace = "\n".join(getattr(error, "traceback", [repr(error)]))
            log.write(run_state.COLOUR.sub("", trace))
            raise
        finally:
            if page.exists():
                with files.atomic(folder / "notebook.ipynb") as temporary:
                    page.replace(temporary)
