"""From a profile to a printed report: chapters executed by papermill in order, then the book.

Nothing here trusts a notebook's own word that it is complete: a chapter is done when `ledger` says so, and a
book is built of chapters that are done.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dfnb import UserError, chapters, kernels, ledger, paths, profiles, runs
from dfnb.chapters import check_parameters, declared

__all__ = ["book", "check_parameters", "declared", "differs", "execute", "find", "pair", "run", "status"]

START = 600  # seconds until a kernel must answer; imports take long on a machine that is busy
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}

Say = Callable[[str], None]


class StudyFailed(UserError):
    """A chapter or the book did not reach its end; the study stops there with exit code 1."""

    exit_code = 1

    def __init__(self, message: str, reason: str = "error"):
        super().__init__(message)
        self.reason = reason  # class of the failure, as in FAILED.json


# ------------------------------------------------------------------- chapters in order
def run(
    profile: str, only: Sequence[str] | None = None, force: bool = False, progress: Say | None = None,
    *, notebooks: Path | None = None, source: Path | None = None, before: Callable[[list[str]], list[str]] | None = None,
    threads: int | None = None, cores: int | None = None,
) -> Path | None:
    """Run what is not done of a profile's chapters, then build the book; returns its first page.

    `only` names chapters (03 is enough of 03_lora_training) and leaves the book alone; `force` repeats
    chapters that are done. `progress` is told one line at a time; `before` is told the names of the chapters,
    does what they need, or some of them already, and returns which. `threads` and `cores` as in `execute`.
    Raises UserError for what cannot start, StudyFailed for what did not end.
    """
    say, settings = progress or (lambda line: None), profiles.load(profile)
    every = _chapters(notebooks)
    _check_names(settings, every)
    wanted = [find(name, every) for name in only] if only else every
    did = before([notebook.stem for notebook in wanted]) if before else []
    for notebook in wanted:
        if notebook.stem not in did:
            execute(notebook, settings, {}, force=force, progress=progress, threads=threads, cores=cores)
    if only:
        return None
    say("building the book")
    return book(profile, notebooks=notebooks, source=source)


def execute(
    notebook: Path, profile: profiles.Profile, parameters: dict[str, Any], *, force: bool = False,
    progress: Say | None = None, threads: int | None = None, cores: int | None = None, timeout: float | None = None,
    forked: bool = False,
) -> Path:
    """Run one notebook unless that run is done; returns its folder. ledger.Busy when another process has it.

    `threads` bounds what its kernel's libraries use, `cores` the processes that it starts (by default both are the
    machine's cores); a run that takes longer than `timeout` seconds fails. With `forked` its kernel comes with the
    imports done (see `kernels`); then this process must do one run at a time.
    """
    say = progress or (lambda line: None)
    config = chapters.configuration(notebook, profile, parameters)
    folder = chapters.place(notebook, profile, config)
    with ledger.hold(folder):
        state, why = _state(folder, config, ledger.settled)
        if state == "done" and not force:
            say(f"{notebook.stem}: done before, skipped")
            return folder
        say(f"{notebook.stem}: running " + (f"({state}: {why})" if state != "done" else "again, as asked"))
        options = {"threads": threads, "cores": cores, "timeout": timeout, "forked": forked}
        seconds = _attempt(notebook, folder, config, options, show=progress is not None)
        say(f"{notebook.stem}: done in {seconds:.0f} s")
    return folder


def status(profile: str, *, notebooks: Path | None = None) -> list[dict[str, str]]:
    """One row a chapter: notebook, state, why it is in that state, seconds it took."""
    settings, rows = profiles.load(profile), []
    for notebook in _chapters(notebooks):
        config = chapters.configuration(notebook, settings, {})
        folder = chapters.place(notebook, settings, config)
        state, why = _state(folder, config, ledger.state)
        seconds = ledger.read_json(folder / "DONE.json").get("wall_seconds")
        rows.append({"notebook": notebook.stem, "state": state, "why": why,
                     "seconds": "" if seconds is None else f"{seconds:.0f}"})
    return rows


def _state(folder: Path, config: dict, of: Callable) -> tuple[str, str]:
    """A run's state; one from JupyterLab or plain papermill has numbers, but no page for the book."""
    state, why = of(folder, config)
    if state == "done" and not (folder / "notebook.ipynb").is_file():
        return "stale", "it was run outside of the study and left no executed notebook"
    return state, why


def _chapters(notebooks: Path | None) -> list[Path]:
    folder = notebooks or chapters.folder()
    if different := differs(folder, exactly=False):
        raise UserError(f"{', '.join(different)}: script and notebook differ; `dfnb pair` makes notebooks "
                        "anew from the scripts, `jupytext --sync` takes whichever was saved last")
    found = [path for path in sorted(folder.glob("*.ipynb")) if chapters.NAME.fullmatch(path.stem)]
    if not found:
        raise UserError(f"there are no notebooks such as 01_data_split.ipynb in {folder}")
    return found


def find(name: str, every: list[Path] | None = None) -> Path:
    """The notebook of a chapter, by its name, number or file; UserError naming the chapters there are."""
    every, wanted = every or _chapters(None), Path(name).stem.zfill(2)
    for path in every:
        if wanted in (path.stem, path.stem[:2]):
            return path
    names = ", ".join(path.stem for path in every)
    raise UserError(f"there is no chapter {name!r}; the chapters are {names}")


def _check_names(profile: profiles.Profile, every: list[Path]) -> None:
    """Complain before the first chapter runs, not hours later."""
    for name in [*profile.notebooks, *(sweep.chapter for sweep in profile.sweeps.values() if sweep.chapter)]:
        find(name, every)
    for notebook in every:
        chapters.chapter_parameters(notebook, profile)


# ------------------------------------------------------------------- one execution
def _attempt(notebook: Path, folder: Path, config: dict[str, Any], options: dict[str, Any], *, show: bool) -> float:
    """Execute into `folder`, DONE.json last; else FAILED.json and StudyFailed. Returns the seconds it took."""
    attempt, began = ledger.clear(folder) + 1, time.perf_counter()
    try:
        _papermill(notebook, folder, config, **options, show=show)
        if not (folder / "config.json").exists() or not (folder / "metrics.json").exists():
            raise StudyFailed("the notebook ended without saving a result (runs.start, then save)")
        seconds = time.perf_counter() - began
        runs.finish(folder, wall_seconds=round(seconds, 3), attempt=attempt, threads=options["threads"])
        return seconds
    except Exception as error:
        reason, message = ledger.explain(error, folder / "notebook.log")
        with contextlib.suppress(OSError):  # on a full disk the folder says "interrupted", which is as true
            ledger.fail(folder, reason, message, attempt)
        raise StudyFailed(f"{notebook.stem} failed: {message}", reason) from None


def _papermill(
    notebook: Path, folder: Path, config: dict[str, Any], *, threads: int | None, cores: int | None, timeout: float | None,
    forked: bool, show: bool,
) -> None:
    """Execute a notebook; its page becomes notebook.ipynb in one step, also when it fails."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what went wrong is told by `explain`
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
                str(notebook), output, changed, kernel_name="python3", cwd=str(paths.ROOT), stdout_file=log,
                stderr_file=log, progress_bar=show and sys.stderr.isatty(), autosave_cell_every=0,
                start_timeout=START, timeout_func=left or None, **options)
        except Exception as error:
            log.write(ledger.COLOUR.sub("", "\n".join(getattr(error, "traceback", [repr(error)]))))
            raise
        finally:
            if page.exists():
                with paths.atomic(folder / "notebook.ipynb") as temporary:
                    page.replace(temporary)


# ------------------------------------------------------------------- pairs of script and notebook
def pair(notebooks: Path | None = None) -> list[str]:
    """Write the .ipynb of every script that differs from it, without outputs; returns the names written."""
    folder = notebooks or chapters.folder()
    written = differs(folder)
    for stem in written:
        script = folder / f"{stem}.py"
        if not script.exists():
            raise UserError(f"{stem}.ipynb has no script; jupytext --to py:percent {stem}.ipynb makes it")
        paths.atomic_write(folder / f"{stem}.ipynb", _converted(script))
    return written


def differs(notebooks: Path | None = None, *, exactly: bool = True) -> list[str]:
    """Names of notebooks that are not what their script gives, or that lack one of the two.

    `exactly` compares every byte, as the tracked pairs must be equal; else outputs, ids and metadata that an
    editor leaves are forgiven, and only cells and their tags count.
    """
    folder = notebooks or chapters.folder()
    stems = sorted({path.stem for pattern in ("*.py", "*.ipynb") for path in folder.glob(pattern)})
    return [stem for stem in stems if not _is_pair(folder / f"{stem}.py", folder / f"{stem}.ipynb", exactly)]


def _is_pair(script: Path, notebook: Path, exactly: bool) -> bool:
    if not (script.exists() and notebook.exists()):
        return False
    text, wanted = notebook.read_text(encoding="utf-8"), _converted(script)
    return text == wanted or (not exactly and _cells(text) == _cells(wanted))


def _cells(text: str) -> list[tuple[str, str, list[str]]]:
    cells = json.loads(text)["cells"]
    return [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]


def _converted(script: Path) -> str:
    """The .ipynb of a percent script; ids from stem and cell index, so equal scripts give equal bytes."""
    import jupytext
    import nbformat

    notebook = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{script.stem}-{index:02d}".replace("_", "-")
    return nbformat.writes(notebook) + "\n"


# ------------------------------------------------------------------- the book
def book(profile: str, *, notebooks: Path | None = None, source: Path | None = None) -> Path:
    """Print the executed chapters of a profile as a book; returns its index.html.

    The demo's chapters are copied into book/chapters (they are tracked); for any other profile the book is
    built in a copy below book/_build. Raises UserError where a chapter is not done, or the builder complains.
    """
    for row in status(profile, notebooks=notebooks):
        if row["state"] != "done":
            raise UserError(f"{row['notebook']} is {row['state']} ({row['why']}), so there is no book to "
                            f"print; run `dfnb study --profile {profile}`")
    original = target = source or paths.ROOT / "book"
    if profile != "demo":
        target = original / "_build" / profile
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(original, target, ignore=shutil.ignore_patterns("_build", "chapters"))
    for notebook in _chapters(notebooks):
        page = paths.runs() / profile / notebook.stem / "notebook.ipynb"
        paths.atomic_write(target / "chapters" / notebook.name, _printable(page))
    return _build(target)


def _printable(page: Path) -> str:
    """An executed notebook without what changes at every execution: timings, random ids, absolute paths."""
    import nbformat

    notebook = nbformat.read(page, as_version=4)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = nbformat.from_dict(json.loads(_without_paths(json.dumps(cell.outputs))))
    return nbformat.writes(notebook) + "\n"


def _without_paths(text: str) -> str:
    for folder, name in ((paths.runs(), "runs"), (paths.cache(), "cache"), (paths.data(), "data")):
        text = text.replace(json.dumps(str(folder))[1:-1], name)
    return text.replace(json.dumps(str(paths.ROOT))[1:-1] + "/", "").replace(str(Path.home()) + "/", "~/")


def _build(folder: Path) -> Path:
    builder = "from dfnb.kernels import die_with_parent as die; die(); from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", builder, "build", str(folder), "-W", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT, env=os.environ | {"NO_COLOR": "1"})
    log, page = folder / "_build" / "build.log", folder / "_build" / "html" / "index.html"
    paths.atomic_write(log, done.stdout + done.stderr)
    if done.returncode or not page.is_file():
        lines = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
        first = lines[0] if lines else "no page was written"
        raise StudyFailed(f"the book could not be built: {first} (see {log})")
    return page
