"""Read the results of finished runs; no other module reads result files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from dfnb import UserError
from dfnb.config import load
from dfnb.evaluation import intervals, metrics, power, tables
from dfnb.evaluation.ablations import FACTORS, SPLITS
from dfnb.evaluation.intervals import DEFAULT, Bootstrap
from dfnb.runs import configuration, notebooks, run, state
from dfnb.runs import grid as grids
from dfnb.runs.parameters import chapter_parameters

ROLES = ["grid", "one_factor", "fraction_epochs", "fraction_steps"]  # sweeps of chapter 4
ABOUT = ["sweeps", "run", "state", "why"]
MEASURED = ["trainable", "steps_taken", "train_frames", "validation_frames", "validation_loss",
            *(f"{split}{bound}" for split in SPLITS for bound in ("", "_low", "_high")),
            "EER", "F1", "ACC"]


@dataclass(frozen=True)
class Result:
    """What a finished chapter has saved."""

    folder: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json."""
        return state.read_json(self.folder / "metrics.json")

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the run, from config.json."""
        return state.read_json(self.folder / "config.json")["parameters"]

    @cached_property
    def timing(self) -> dict[str, Any]:
        """Content of timing.json; `cpu_seconds` are those of all threads."""
        return state.read_json(self.folder / "timing.json")

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Durations by name; `total` is from `start` to `save`."""
        return self.timing["seconds"]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The table `scores`."""
        return self.table("scores")

    def table(self, name: str) -> pd.DataFrame:
        """Return the table that was saved under this name."""
        return pd.read_parquet(self.folder / f"{name}.parquet")


def result(profile: str, notebook: str) -> Result:
    """Return the result of a chapter; the run that reads it becomes stale when it changes.

    Raises UserError where the chapter is not done.
    """
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
    """Return the result of a chapter's or a sweep's run; None where it is not `done`.

    The run that reads it becomes stale when the result changes, or when a missing one appears.
    """
    digest = state.digest_of_result(folder) if done else None
    run.record_input(str(folder.relative_to(state.folder_of_profile(folder))), digest)
    return Result(folder) if digest else None


def of_sweeps(profile: str, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return one row per run of the profile's sweeps.

    Its columns are sweeps, run, state, why, the run's parameters, MEASURED, seconds (CPU) and
    memory (MB). `train_frames` and `validation_frames` are AUCs of frames at the epoch kept;
    `validation` and `test` are AUCs of videos with their interval; EER, F1 and ACC are those of the
    test videos at the threshold from validation. The run that reads this becomes stale when any of
    these results changes.
    """
    rows = []
    for planned in grids.expand(load(profile)):
        row = grids.row(planned)
        saved = read(planned.folder, done=row["state"] == "done")
        about = {key: row[key] for key in ABOUT} | row["parameters"]
        rows.append(about | (_measured(saved, bootstrap) if saved else {}))
    columns = [*ABOUT, "split_seed", *FACTORS, "steps", *MEASURED, "seconds", "memory"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _measured(result: Result, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the numbers of one finished run of chapter 3."""
    history = result.metrics["history"]
    kept = next(row for row in history if row["best"])
    videos = metrics.to_videos(result.scores[result.scores.split == "validation"])
    bounds = intervals.interval(videos.label, videos.score, videos.group, bootstrap)
    measured = {
        "trainable": result.metrics["trainable"], "steps_taken": history[-1]["steps"],
        "train_frames": kept["train_auc"], "validation_frames": kept["validation_auc"],
        "validation_loss": kept["validation_loss"], "validation": bounds.value,
        "validation_low": bounds.low, "validation_high": bounds.high,
        "seconds": result.timing["cpu_seconds"], "memory": result.timing["peak_memory_mb"]}
    table = pd.DataFrame(result.metrics["rows"])
    if tables.CHOSEN in set(table.answer):
        test = tables.chosen(table, "video").iloc[0]
        measured |= {"test": test.AUC, "test_low": test.low, "test_high": test.high,
                     **test[["EER", "F1", "ACC"]]}
    return measured


def base(profile: str) -> pd.DataFrame:
    """Return the parameters of chapter 3 and those that the sweeps vary; index parameter."""
    settings = load(profile)
    sweep = next((settings.sweeps[name] for name in ROLES if name in settings.sweeps), None)
    chapter = chapter_parameters(notebooks.find(sweep.notebook if sweep else "03"), settings)
    del chapter["profile"]
    swept = chapter | (sweep.base if sweep else {})
    return pd.DataFrame({"chapter 3": chapter, "sweeps": swept}, dtype=object)


def optimism(profile: str, grid: pd.DataFrame, bootstrap: Bootstrap = power.HALVES) -> dict:
    """Return `power.optimism_of_best` over a grid's finished runs, on their test videos."""
    videos = _test_videos(profile, grid)
    if len(videos) < 2:
        nothing = dict.fromkeys(["apparent", "nested", "optimism"])
        return nothing | {"reason": "fewer than two runs are done"}
    scores = np.stack([table.score for table in videos])
    return power.optimism_of_best(videos[0].label, scores, videos[0].group, bootstrap)


def correlations(profile: str, grid: pd.DataFrame) -> dict[str, float]:
    """Return the mean correlation of two runs' logits within each class of the test videos."""
    videos, found = _test_videos(profile, grid), {}
    for name, label in (("reals", 0), ("fakes", 1)):
        logits = [logit(table.score[table.label == label].clip(1e-6, 1 - 1e-6))
                  for table in videos]
        enough = len(logits) > 1 and len(logits[0]) > 2
        found[name] = float(np.corrcoef(logits)[np.triu_indices(len(logits), 1)].mean()) \
            if enough else float("nan")
    return found


def _test_videos(profile: str, grid: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the test videos of each finished run of the grid's first draw of the split."""
    done = grid[(grid.state == "done") & (grid.split_seed == grid.split_seed.min())]
    folders = {planned.folder.name: planned.folder for planned in grids.expand(load(profile))}
    return [metrics.to_videos(read(folders[name]).scores.query("split == 'test'"))
            for name in done.run]
