"""The results of finished runs: the only module that reads result files, and the tables of a profile's sweeps."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dfnb import UserError
from dfnb.config import load
from dfnb.evaluation import intervals, metrics, power, tables
from dfnb.evaluation.ablations import FACTORS, SPLITS
from dfnb.evaluation.intervals import DEFAULT, Bootstrap
from dfnb.runs import configuration, notebooks, run, state
from dfnb.runs import grid as grids
from dfnb.runs.parameters import chapter_parameters

ROLES = ["grid", "one_factor", "fraction_epochs", "fraction_steps"]  # the sweeps that chapter 4 reads, by name
MEASURED = ["trainable", "steps_taken", "train_frames", "validation_frames", "validation_loss",
            *(f"{split}{bound}" for split in SPLITS for bound in ("", "_low", "_high")), "EER", "F1", "ACC"]

@dataclass(frozen=True)
class Result:
    """What a finished chapter has saved."""

    folder: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json."""
        return state.read_json(self.folder / "metrics.json")

    @cached_property
    def timing(self) -> dict[str, Any]:
        """Content of timing.json: cpu_seconds (of all its threads, imports apart where forked), peak_memory_mb, ..."""
        return state.read_json(self.folder / "timing.json")

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Durations by name; `total` is from `start` to `save`."""
        return self.timing["seconds"]

    @cached_property
    def scores(self):
        """The table `scores`."""
        return self.table("scores")

    def table(self, name: str):
        """A table that was saved under this name."""
        return pd.read_parquet(self.folder / f"{name}.parquet")


def result(profile: str, notebook: str) -> Result:
    """Result of another chapter; the reading run is stale when that changes. UserError unless it is done."""
    settings = load(profile)
    path = notebooks.folder() / f"{notebook}.ipynb"
    config = configuration.of_run(path, settings, {})
    folder = configuration.place(path, settings, config)
    name, why = state.state(folder, config)
    if name != "done":
        raise UserError(f"the result of {notebook} is needed, but it is {name} ({why}); "
                        f"run it first: dfnb study --profile {profile} --only {notebook}")
    return read(folder)


def read(folder: Path, *, done: bool = True) -> Result | None:
    """Result of the run in a folder, of a chapter or of a sweep; None where it is not `done`.

    The reading run is stale when the result changes, or when there is one after all.
    """
    above = folder.parents[2] if folder.parent.name == "sweep" else folder.parent
    digest = state.digest_of_result(folder) if done else None
    run.record_input(str(folder.relative_to(above)), digest)
    return Result(folder) if digest else None


def of_sweeps(profile: str, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """One row a run of the profile's sweeps: sweeps, state, why, its parameters, MEASURED, seconds (CPU), memory (MB).

    `train_frames` and `validation_frames` are the AUCs of frames at the epoch kept; `validation` and `test` those of
    videos with their interval; EER, F1 and ACC are of the test videos, at the threshold from validation. The run
    that reads this is stale when any of these results changes.
    """
    rows = []
    for cell in grids.expand(load(profile)):
        row = grids.row(cell)
        found = read(cell.folder, done=row["state"] == "done")
        text = {key: row[key] for key in ("sweeps", "run", "state", "why")}
        rows.append(text | row["parameters"] | (_measured(found, bootstrap) if found else {}))
    columns = ["sweeps", "run", "state", "why", "split_seed", *FACTORS, "steps", *MEASURED, "seconds", "memory"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _measured(result: Result, bootstrap: Bootstrap) -> dict:
    """The numbers of one finished run of chapter 3."""
    kept = next(row for row in result.metrics["history"] if row["best"])
    table = pd.DataFrame(result.metrics["rows"])
    test = tables.chosen(table, "video").iloc[0] if "threshold from validation" in set(table.answer) else None
    videos = metrics.to_videos(result.scores[result.scores.split == "validation"])
    bounds = intervals.interval(videos.label, videos.score, videos.group, bootstrap)
    found = {"trainable": result.metrics["trainable"], "steps_taken": result.metrics["history"][-1]["steps"],
             "train_frames": kept["train_auc"],
             "validation_frames": kept["validation_auc"], "validation_loss": kept["validation_loss"],
             "validation": bounds.value, "validation_low": bounds.low, "validation_high": bounds.high,
             "seconds": result.timing["cpu_seconds"], "memory": result.timing["peak_memory_mb"]}
    return found | ({} if test is None else {
        "test": test.AUC, "test_low": test.low, "test_high": test.high, **test[["EER", "F1", "ACC"]]})


def base(profile: str) -> pd.DataFrame:
    """The parameters of chapter 3 and of the run around which the sweeps turn; index parameter."""
    settings = load(profile)
    sweep = next((settings.sweeps[name] for name in ROLES if name in settings.sweeps), None)
    chapter = chapter_parameters(notebooks.find(sweep.notebook if sweep else "03"), settings)
    del chapter["profile"]
    return pd.DataFrame({"chapter 3": chapter, "sweeps": chapter | (sweep.base if sweep else {})}, dtype=object)


def optimism(profile: str, grid: pd.DataFrame, bootstrap: Bootstrap = power.HALVES) -> dict:
    """`power.optimism_of_best` over the finished cells of a grid, on the test videos that all of them scored."""
    done = grid[grid.state == "done"]
    if len(done) < 2:
        return dict.fromkeys(["apparent", "nested", "optimism"]) | {"reason": "fewer than two runs are done"}
    folders = {cell.folder.name: cell.folder for cell in grids.expand(load(profile))}
    videos = [metrics.to_videos(read(folders[name]).scores.query("split == 'test'")) for name in done.run]
    scores = np.stack([table.score for table in videos])
    return power.optimism_of_best(videos[0].label, scores, videos[0].group, bootstrap)


