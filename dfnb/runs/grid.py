"""Which runs the sweeps of a profile consist of, and the state of each."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dfnb import UserError
from dfnb.config import Profile, load
from dfnb.runs import configuration, notebooks
from dfnb.runs import state as run_state
from dfnb.runs.parameters import check_parameters, declared

SEED, REPEATS = "split_seed", "repeats"  # the parameters of a chapter that say which splits, and how many
STATES = ["done", "running", "failed", "stale", "interrupted", "missing"]


@dataclass(frozen=True, eq=False)
class Cell:
    """One run: `parameters` are those a sweep gives; equal runs of several sweeps are one cell."""

    sweeps: tuple[str, ...]
    notebook: Path
    parameters: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    timeout: int | None
    retries: int
    needs: frozenset[str] = frozenset()  # chapters and sweeps that end before it begins

    @property
    def chapter(self) -> str:
        """The chapter that this run itself is; nothing for a run of a sweep."""
        return "" if self.sweeps else self.notebook.stem

    def state(self) -> tuple[str, str]:
        """State and reason, from the run's folder; see `runs.state`."""
        return run_state.state(self.folder, self.config)


def of_chapters(profile: Profile, names: Sequence[str]) -> list[Cell]:
    """Chapters as cells; each needs the chapters that its notebook names, and its sweeps."""
    found = []
    for path in map(notebooks.find, names):
        config = configuration.of_run(path, profile, {})
        swept = {name for name, sweep in profile.sweeps.items() if sweep.chapter == path.stem}
        place, needs = configuration.place(path, profile, config), frozenset(notebooks.reads(path) | swept)
        found.append(Cell((), path, {}, config, place, None, 1, needs))
    return found


def expand(profile: Profile, only: Sequence[str] | None = None) -> list[Cell]:
    """Cells of the profile's sweeps, of all or of some named by sweep or notebook, each run once.

    Raises UserError for a name that is not there and for parameters that do not fit the notebook.
    """
    found: dict[Path, Cell] = {}
    for name in _chosen(profile, only):
        sweep = profile.sweeps[name]
        notebook = notebooks.find(sweep.notebook)
        chapter = configuration.of_run(notebook, profile, {})
        for parameters in _parameters(name, sweep, notebook, profile):
            config = chapter | {"parameters": chapter["parameters"] | parameters}
            folder = configuration.place(notebook, profile, config)
            cell = Cell((name,), notebook, parameters, config, folder, sweep.timeout, sweep.retries)
            if before := found.get(folder):
                names = tuple(dict.fromkeys([*before.sweeps, name]))
                cell = replace(before, sweeps=names, timeout=max(before.timeout, sweep.timeout))
            found[folder] = cell
    return list(found.values())


def _chosen(profile: Profile, only: Sequence[str] | None) -> list[str]:
    """Names of the sweeps that `only` asks for, each by its own name or by its notebook's."""
    known = {name: sweep.notebook for name, sweep in profile.sweeps.items()}
    for word in only or []:
        if not any(_means(word, name, notebook) for name, notebook in known.items()):
            text = ", ".join(f"{name} ({notebook})" for name, notebook in known.items()) or "none"
            raise UserError(f"there is no sweep {word!r} in params/{profile.name}.yaml; its sweeps are {text}")
    return [name for name, notebook in known.items()
            if not only or any(_means(word, name, notebook) for word in only)]


def _means(word: str, name: str, notebook: str) -> bool:
    return word in (name, notebook, notebook[:2])


def _parameters(name: str, sweep, notebook: Path, profile: Profile) -> Iterator[dict[str, Any]]:
    """Parameters of each cell in their declared types; without repetitions unless the base asks for them."""
    where = f"params/{profile.name}.yaml, sweeps.{name}"
    base = ({REPEATS: 1} if REPEATS in declared(notebook) else {}) | sweep.base
    for cell in _cells(sweep):
        for seed in sweep.seeds or [None]:
            given = base | cell | ({} if seed is None else {SEED: seed})
            if "profile" in given:
                raise UserError(f"a sweep runs under its own profile; remove the parameter profile ({where})")
            yield check_parameters(notebook, given, where)


def _cells(sweep) -> list[dict[str, Any]]:
    if sweep.grid:
        return [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    if sweep.combinations:
        return sweep.combinations
    return [{}, *({name: value} for name, values in sweep.one_at_a_time.items() for value in values)]


def table(profile: str, only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row a run: sweeps, notebook, run, parameters, state, why, seconds, folder."""
    return [row(cell) for cell in expand(load(profile), only)]


def row(cell: Cell) -> dict[str, Any]:
    state, why = cell.state()
    seconds = run_state.read_json(cell.folder / "DONE.json").get("wall_seconds") if state == "done" else None
    return {"sweeps": cell.sweeps, "notebook": cell.notebook.stem, "run": cell.folder.name, "state": state,
            "why": why, "seconds": seconds, "parameters": cell.config["parameters"], "folder": cell.folder}


def by_name(profile: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of `table` sweep by sweep; a run that several share is in each."""
    rows = table(profile)
    return {name: [row for row in rows if name in row["sweeps"]] for name in load(profile).sweeps}


def counts(rows: list[dict[str, Any]]) -> str:
    """How many runs are in which state, such as "27 runs: 20 done, 7 missing"."""
    found = Counter(row["state"] for row in rows)
    return f"{len(rows)} runs: " + ", ".join(f"{found[name]} {name}" for name in STATES if found[name])


def fate(state: str, retry_failed: bool) -> str:
    """What `run` would do with a run in this state: skip, run, wait or leave."""
    return {"done": "skip", "running": "wait", "failed": "run" if retry_failed else "leave"}.get(state, "run")
