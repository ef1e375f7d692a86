"""The runs that a profile plans (its chapters, and its sweeps over a notebook) and their states."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dfnb import UserError
from dfnb.config import Profile, SweepSettings, load
from dfnb.runs import configuration, notebooks
from dfnb.runs import state as run_state
from dfnb.runs.parameters import check_parameters, declared

STATES = ["done", "running", "failed", "stale", "interrupted", "missing"]


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One run with the `parameters` that a sweep sets; equal runs of several sweeps are one."""

    sweeps: tuple[str, ...]
    notebook: Path
    parameters: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    timeout: int | None = None
    retries: int = 1
    needs: frozenset[str] = frozenset()  # chapters and sweeps that must end before it begins

    @property
    def chapter(self) -> str:
        """Return the chapter's name if the run is a chapter, else an empty string."""
        return "" if self.sweeps else self.notebook.stem

    def state(self) -> tuple[str, str]:
        """Return state and reason, read from the run's folder (`state.state`)."""
        return run_state.state(self.folder, self.config)


def plan_chapters(profile: Profile, names: Sequence[str]) -> list[PlannedRun]:
    """Return chapters as runs; each needs the chapters that its notebook names, and its sweeps."""
    planned = []
    for path in map(notebooks.find, names):
        config = configuration.of_run(path, profile, {})
        sweeps = {name for name, sweep in profile.sweeps.items() if sweep.chapter == path.stem}
        needs = frozenset(notebooks.reads(path) | sweeps)
        folder = configuration.place(path, profile, config)
        planned.append(PlannedRun((), path, {}, config, folder, needs=needs))
    return planned


def expand(profile: Profile, only: Sequence[str] | None = None) -> list[PlannedRun]:
    """Return the runs of all sweeps, or of those named by sweep or notebook, each run once.

    Raises UserError for an unknown name and for parameters that do not fit the notebook.
    """
    planned: dict[Path, PlannedRun] = {}
    for name in _chosen(profile, only):
        sweep = profile.sweeps[name]
        path = notebooks.find(sweep.notebook)
        chapter = configuration.of_run(path, profile, {})
        for parameters in _parameters(name, sweep, path, profile):
            config = chapter | {"parameters": chapter["parameters"] | parameters}
            folder = configuration.place(path, profile, config)
            run = PlannedRun((name,), path, parameters, config, folder,
                             sweep.timeout, sweep.retries)
            if before := planned.get(folder):
                sweeps = tuple(dict.fromkeys([*before.sweeps, name]))
                run = replace(before, sweeps=sweeps, timeout=max(before.timeout, sweep.timeout))
            planned[folder] = run
    return list(planned.values())


def _chosen(profile: Profile, only: Sequence[str] | None) -> list[str]:
    """Return the names of the sweeps that `only` lists by their own or their notebook's name."""
    words = {name: {name, sweep.notebook, sweep.notebook[:2]}
             for name, sweep in profile.sweeps.items()}
    known = set().union(*words.values())
    if unknown := [word for word in only or [] if word not in known]:
        sweeps = [f"{name} ({sweep.notebook})" for name, sweep in profile.sweeps.items()]
        raise UserError(f"there is no sweep {unknown[0]!r} in params/{profile.name}.yaml; "
                        f"its sweeps are {', '.join(sweeps) or 'none'}")
    return [name for name in words if not only or words[name] & set(only)]


def _parameters(name: str, sweep: SweepSettings, notebook: Path, profile: Profile
                ) -> Iterator[dict[str, Any]]:
    """Yield the typed parameters of each run; `repeats` is 1 unless the sweep sets it."""
    where = f"params/{profile.name}.yaml, sweeps.{name}"
    base = ({"repeats": 1} if "repeats" in declared(notebook) else {}) | sweep.base
    seeds = [{"split_seed": seed} for seed in sweep.seeds] or [{}]
    for changes, seed in itertools.product(_changes(sweep), seeds):
        given = base | changes | seed
        if "profile" in given:
            raise UserError("a sweep runs under its own profile; "
                            f"remove the parameter profile ({where})")
        yield check_parameters(notebook, given, where)


def _changes(sweep: SweepSettings) -> list[dict[str, Any]]:
    """Return for each run, without seeds, the parameters that differ from the base."""
    if sweep.grid:
        combinations = itertools.product(*sweep.grid.values())
        return [dict(zip(sweep.grid, values, strict=True)) for values in combinations]
    if sweep.combinations:
        return sweep.combinations
    factors = (sweep.one_at_a_time or {}).items()
    return [{}, *({name: value} for name, values in factors for value in values)]


def table(profile: str, only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return a row per run: sweeps, notebook, run, state, why, seconds, parameters, folder."""
    return [row(run) for run in expand(load(profile), only)]


def row(run: PlannedRun) -> dict[str, Any]:
    """Return the row of one run in `table`; `seconds` is None unless the run is done."""
    state, why = run.state()
    done = run_state.read_json(run.folder / "DONE.json") if state == "done" else {}
    return {"sweeps": run.sweeps, "notebook": run.notebook.stem, "run": run.folder.name,
            "state": state, "why": why, "seconds": done.get("wall_seconds"),
            "parameters": run.config["parameters"], "folder": run.folder}


def by_name(profile: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of `table` by sweep; a run that several sweeps share is in each of them."""
    rows = table(profile)
    return {name: [row for row in rows if name in row["sweeps"]] for name in load(profile).sweeps}


def counts(rows: list[dict[str, Any]]) -> str:
    """Return the number of runs in each state, such as "27 runs: 20 done, 7 missing"."""
    total = Counter(row["state"] for row in rows)
    states = ", ".join(f"{total[name]} {name}" for name in STATES if total[name])
    return f"{len(rows)} runs: {states}"


def action(state: str, retry_failed: bool) -> str:
    """Return what a sweep does with a run in this state: skip, run, wait or leave."""
    failed = "run" if retry_failed else "leave"
    return {"done": "skip", "running": "wait", "failed": failed}.get(state, "run")
