"""From a profile to a printed report: chapters executed by papermill in order, then the book.

Nothing here trusts a notebook's own word that it is complete: a chapter is done when `state` says so, and a
book is built of chapters that are done.
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

START = 600  # seconds until a kernel must answer; imports take long on a machine that is busy

Say = Callable[[str], None]


# ------------------------------------------------------------------- chapters in order
def run(
    profile: str, only: Sequence[str] | None = None, force: bool = False, progress: Say | None = None,
    *, source: Path | None = None, before: Callable[[list[str]], list[str]] | None = None,
    threads: int | None = None, cores: int | None = None,
) -> Path | None:
    """Run what is not done of a profile's chapters, then build the book; returns its first page.

    `only` names chapters (03 is enough of 03_lora_training) and leaves the book alone; `force` repeats
    chapters that are done. `progress` is called with one line at a time. `before` is called with the names of the chapters,
    may run some of them and what they need, and returns the names of those that it ran. `threads` and `cores` as in `execute`.
    Raises UserError for what cannot start, StudyFailed for what did not end.
    """
    say, settings = progress or (lambda line: None), load(profile)
    every = chapters()
    _check_names(settings, every)
    wanted = [find(name, every) for name in only] if only else every
    did = before([notebook.stem for notebook in wanted]) if before else []
    for notebook in wanted:
        if notebook.stem not in did:
            execute(notebook, settings, {}, force=force, progress=progress, threads=threads, cores=cores)
    if only:
        return None
    say("building the book")
    return book.build(profile, status(profile), source)


def execute(
    notebook: Path, profile: Profile, parameters: dict[str, Any], *, force: bool = False,
    progress: Say | None = None, threads: int | None = None, cores: int | None = None, timeout: float | None = None,
    forked: bool = False,
) -> Path:
    """Run one notebook unless that run is done; returns its folder. state.Busy when another process has it.

    `threads` bounds what its kernel's libraries use, `cores` the processes that it starts (by default both are the
    machine's cores); a run that takes longer than `timeout` seconds fails. With `forked` its kernel comes with the
    imports done (see `kernels`); then this process must do one run at a time.
    """
    say = progress or (lambda line: None)
    config = configuration.of_run(notebook, profile, parameters)
    folder = configuration.place(notebook, profile, config)
    with run_state.hold(folder):
        state, why = _state(folder, config, run_state.settled)
        if state == "done" and not force:
            say(f"{notebook.stem}: done before, skipped")
            return folder
        say(f"{notebook.stem}: running " + (f"({state}: {why})" if state != "done" else "again, as asked"))
        options = {"threads": threads, "cores": cores, "timeout": timeout, "forked": forked}
        seconds = _attempt(notebook, folder, config, options, show=progress is not None)
        say(f"{notebook.stem}: done in {seconds:.0f} s")
    return folder


def status(profile: str) -> list[dict[str, str]]:
    """One row a chapter: notebook, state, why it is in that state, seconds it took."""
    settings, rows = load(profile), []
    for notebook in chapters():
        config = configuration.of_run(notebook, settings, {})
        folder = configuration.place(notebook, settings, config)
        state, why = _state(folder, config, run_state.state)
        seconds = run_state.read_json(folder / "DONE.json").get("wall_seconds")
        rows.append({"notebook": notebook.stem, "state": state, "why": why,
                     "seconds": "" if seconds is None else f"{seconds:.0f}"})
    return rows


def _state(folder: Path, config: dict, of: Callable) -> tuple[str, str]:
    """A run's state; one from JupyterLab or plain papermill has numbers, but no page for the book."""
    state, why = of(folder, config)
    if state == "done" and not (folder / "notebook.ipynb").is_file():
        return "stale", "it was run outside of the study and left no executed notebook"
    return state, why


def _check_names(profile: Profile, every: list[Path]) -> None:
    """Complain before the first chapter runs, not hours later."""
    for name in [*profile.notebooks, *(sweep.chapter for sweep in profile.sweeps.values() if sweep.chapter)]:
        find(name, every)
    for notebook in every:
        chapter_parameters(notebook, profile)


# ------------------------------------------------------------------- one execution
def _attempt(notebook: Path, folder: Path, config: dict[str, Any], options: dict[str, Any], *, show: bool) -> float:
    """Execute into `folder`, DONE.json last; else FAILED.json and StudyFailed. Returns the seconds it took."""
    attempt, began = run_state.clear(folder) + 1, time.perf_counter()
    try:
        _papermill(notebook, folder, config, **options, show=show)
        if not (folder / "config.json").exists() or not (folder / "metrics.json").exists():
            raise StudyFailed("the notebook ended without saving a result (runs.start, then save)")
        seconds = time.perf_counter() - began
        runs.finish(folder, wall_seconds=round(seconds, 3), attempt=attempt, threads=options["threads"])
        return seconds
    except Exception as error:
        reason, message = run_state.explain(error, folder / "notebook.log")
        with contextlib.suppress(OSError):  # on a full disk the folder says "interrupted", which is as true
            run_state.fail(folder, reason, message, attempt)
        raise StudyFailed(f"{notebook.stem} failed: {message}", reason) from None


def _papermill(
    notebook: Path, folder: Path, config: dict[str, Any], *, threads: int | None, cores: int | None, timeout: float | None,
    forked: bool, show: bool,
) -> None:
    """Execute a notebook; its page becomes notebook.ipynb in one step, also when it fails."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # `explain` says what went wrong
    defaults = {name: default for name, (default, _, _) in declared(notebook).items()}
    given = config["parameters"] | ({"profile": config["profile"]} if "profile" in defaults else {})
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    page, end = folder / ".notebook.ipynb", time.monotonic() + (timeout or 0)
    left = timeout and (lambda cell: max(0.01, end - time.monotonic()))  # papermill's own limit is one a cell
    kernel = kernels.options(notebook, folder, threads=threads, cores=cores, forked=forked)
    with (folder / "notebook.log").open("w") as log, kernel as options:
        try:
            output = str(page).replace("{", "{{").replace("}", "}}")  # papermill fills in {names}
            papermill.execute_notebook(
                str(notebook), output, changed, kernel_name="python3", cwd=str(files.ROOT), stdout_file=log,
                stderr_file=log, progress_bar=show and sys.stderr.isatty(), autosave_cell_every=0,
                start_timeout=START, timeout_func=left or None, **options)
        except Exception as error:
            log.write(run_state.COLOUR.sub("", "\n".join(getattr(error, "traceback", [repr(error)]))))
            raise
        finally:
            if page.exists():
                with files.atomic(folder / "notebook.ipynb") as temporary:
                    page.replace(temporary)


