"""What a profile's sweeps found: tables of their runs, and the statistics of a grid. Nothing is trained here.

A run that is not done is a row too: with its state and why, and without numbers. AUCs are of videos unless a
column says frames.
"""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from dfnb import cells, chapters, metrics, power, profiles, reported, runs, stats, study, tables

ROLES = ["grid", "one_factor", "fraction_epochs", "fraction_steps"]  # the sweeps that chapter 4 reads, by name
PARTS = ["validation", "test"]
FACTORS = ["rank", "alpha", "dropout", "blocks", "fraction"]
MEASURED = ["trainable", "steps_taken", "train_frames", "validation_frames", "validation_loss",
            *(f"{part}{bound}" for part in PARTS for bound in ("", "_low", "_high")), "EER", "F1", "ACC"]
EFFECTS = {  # a factor, and the unit in which its effect is told: a change by one of the column
    "rank, doubled": lambda runs: np.log2(runs["rank"]),
    "alpha / rank, doubled": lambda runs: np.log2(runs["alpha"] / runs["rank"]),
    "dropout, + 0.05": lambda runs: runs["dropout"] / 0.05,
    "fraction doubled, epochs held": lambda runs: np.log2(runs["fraction"]).where(runs["steps"] == 0, 0.0),
    "fraction doubled, steps held": lambda runs: np.log2(runs["fraction"]).where(runs["steps"] > 0, 0.0),
}


def read(profile: str, level: float = 0.95) -> pd.DataFrame:
    """One row a run of the profile's sweeps: sweeps, state, why, its parameters, MEASURED, seconds (CPU), memory (MB).

    `train_frames` and `validation_frames` are the AUCs of frames at the epoch kept; `validation` and `test` those of
    videos with their interval; EER, F1 and ACC are of the test videos, at the threshold from validation. The run
    that reads this is stale when any of these results changes.
    """
    rows = []
    for cell in cells.expand(profiles.load(profile)):
        row = cells.row(cell)
        found = runs.read(cell.folder, done=row["state"] == "done")
        told = {key: row[key] for key in ("sweeps", "run", "state", "why")}
        rows.append(told | row["parameters"] | (_measured(found, level) if found else {}))
    columns = ["sweeps", "run", "state", "why", "split_seed", *FACTORS, "steps", *MEASURED, "seconds", "memory"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _measured(result: runs.Result, level: float) -> dict:
    """The numbers of one finished run of chapter 3."""
    kept = next(row for row in result.metrics["history"] if row["best"])
    table = pd.DataFrame(result.metrics["rows"])
    test = tables.chosen(table, "video").iloc[0] if "threshold from validation" in set(table.answer) else None
    videos = metrics.to_videos(result.scores[result.scores.part == "validation"])
    bounds = stats.interval(videos.label, videos.score, videos.group, level=level)
    found = {"trainable": result.metrics["trainable"], "steps_taken": result.metrics["history"][-1]["steps"],
             "train_frames": kept["train_auc"],
             "validation_frames": kept["validation_auc"], "validation_loss": kept["validation_loss"],
             "validation": bounds.value, "validation_low": bounds.low, "validation_high": bounds.high,
             "seconds": result.timing["cpu_seconds"], "memory": result.timing["peak_memory_mb"]}
    return found | ({} if test is None else {
        "test": test.AUC, "test_low": test.low, "test_high": test.high, **test[["EER", "F1", "ACC"]]})


def base(profile: str) -> pd.DataFrame:
    """The parameters of chapter 3 and of the run around which the sweeps turn; index parameter."""
    settings = profiles.load(profile)
    sweep = next((settings.sweeps[name] for name in ROLES if name in settings.sweeps), None)
    chapter = chapters.chapter_parameters(study.find(sweep.notebook if sweep else "03"), settings)
    del chapter["profile"]
    return pd.DataFrame({"chapter 3": chapter, "sweeps": chapter | (sweep.base if sweep else {})}, dtype=object)


def along(runs: pd.DataFrame, factor: str, around: pd.DataFrame) -> pd.DataFrame:
    """Those runs that differ from `base` in one factor only, or not at all."""
    others = [name for name in FACTORS if name != factor]
    return runs[(runs[others] == [around["sweeps"][name] for name in others]).all(axis=1)]


def of(table: pd.DataFrame, sweep: str) -> pd.DataFrame:
    """The runs of one sweep; a run that several share is in each."""
    return table[[sweep in sweeps for sweeps in table.sweeps]]


def chosen(grid: pd.DataFrame) -> pd.Series | None:
    """The cell with the largest AUC on the frames of validation, of equals the smallest loss; None without any run.

    Frames, as when the epoch was chosen: the few validation videos make ties.
    """
    done = grid.dropna(subset=["validation_frames"])
    order = done.sort_values(["validation_frames", "validation_loss"], ascending=[False, True], kind="stable")
    return order.iloc[0] if len(order) else None


def representative(grid: pd.DataFrame) -> pd.DataFrame:
    """The study's kind of rows of a grid, by the AUC on test: at most one cell for each of eight reasons.

    best, lowest and median of all; the best with each dropout; and, of the cells with the most and the fewest
    parameters, the best that no row before has shown (the reported rows agree with that rule).
    """
    done = grid.dropna(subset=["test"]).sort_values("test", ascending=False, kind="stable").reset_index(drop=True)
    if done.empty:
        return pd.DataFrame(columns=["row", *grid.columns])
    rows = {"best": 0} | {f"dropout_{value:g}": int(done.index[done.dropout == value][0])
                          for value in sorted(set(done.dropout))}
    for name, size in (("most_parameters", done.trainable.max()), ("fewest_parameters", done.trainable.min())):
        left = done.index[(done.trainable == size) & ~done.index.isin(list(rows.values()))]
        rows |= {name: int(left[0])} if len(left) else {}
    rows |= {"lowest_AUC": len(done) - 1, "median_AUC": (len(done) - 1) // 2}
    return done.iloc[list(rows.values())].assign(row=list(rows))


def beside_reported(grid: pd.DataFrame) -> pd.DataFrame:
    """`representative` rows of our grid and the reported ones, side by side: (ours | reported, column)."""
    names = ["AUC", "EER", "F1", "ACC", "rank", "alpha", "dropout"]
    ours = representative(grid).rename(columns={"test": "AUC"}).set_index("row")
    theirs = reported.grid()
    best = theirs.loc[theirs.AUC.idxmax()]
    theirs = pd.concat([theirs, best.to_frame().T.assign(row=f"dropout_{best.dropout:g}")]).set_index("row")
    columns = ["trainable", *names]
    both = {"ours": ours.reindex(columns=columns), "reported on FF++": theirs[names].apply(pd.to_numeric)}
    return pd.concat(both, axis=1, join="outer").reindex(list(dict.fromkeys([*ORDER, *ours.index])))


ORDER = ["best", "most_parameters", "fewest_parameters", "dropout_0", "dropout_0.05", "dropout_0.1", "lowest_AUC",
         "median_AUC"]


def main_effects(table: pd.DataFrame, value: str, level: float = 0.95) -> pd.DataFrame:
    """The change of `value` per unit of each factor of EFFECTS: effect, low, high, runs, reason; index factor.

    Least squares on all finished runs given, with an intercept for every split seed, so that splits are compared
    with themselves. The interval (Student) covers what varies from run to run; the test videos are the same in all
    runs of a split. What the runs cannot tell is NaN with the reason.
    """
    done = table.dropna(subset=[value])
    columns = {name: of(done).to_numpy(float) for name, of in EFFECTS.items()}
    seeds = [(done.split_seed == seed).to_numpy(float) for seed in sorted(set(done.split_seed))]
    varied = [name for name, column in columns.items() if len(np.unique(column)) > 1]
    design = np.stack([*seeds, *(columns[name] for name in varied)], axis=1) if len(done) else np.empty((0, 0))
    left = len(done) - np.linalg.matrix_rank(design) if len(done) else 0
    reason = _untellable(design, left)
    found = {name: {"reason": "takes one value only"} for name in columns}
    found |= {name: {"reason": reason} for name in varied}
    if not reason:
        effects, half = _fit(design, done[value].to_numpy(float), left, level)
        found |= {name: {"effect": effects[at], "low": effects[at] - half[at], "high": effects[at] + half[at], "reason": ""}
                  for at, name in enumerate(varied, start=len(seeds))}
    rows = pd.DataFrame.from_dict(found, orient="index").reindex(columns=["effect", "low", "high", "reason"])
    return rows.loc[list(columns)].assign(runs=len(done)).rename_axis("factor")


def _untellable(design: np.ndarray, left: int) -> str:
    if left < 1:
        return f"{len(design)} runs are too few for {design.shape[1]} unknowns and an error"
    return "" if np.linalg.matrix_rank(design) == design.shape[1] else "these factors were only varied together"


def _fit(design: np.ndarray, values: np.ndarray, left: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares coefficients (k,) and the half widths of their intervals."""
    inverse = np.linalg.inv(design.T @ design)
    effects = inverse @ design.T @ values
    variance = ((values - design @ effects) ** 2).sum() / left
    return effects, student.ppf((1 + level) / 2, left) * np.sqrt(variance * np.diag(inverse))


def optimism(profile: str, grid: pd.DataFrame, *, draws: int = 500, seed: int = 0) -> dict:
    """`power.optimism_of_best` over the finished cells of a grid, on the test videos that all of them scored."""
    done = grid[grid.state == "done"]
    if len(done) < 2:
        return dict.fromkeys(["apparent", "nested", "optimism"]) | {"reason": "fewer than two runs are done"}
    folders = {cell.folder.name: cell.folder for cell in cells.expand(profiles.load(profile))}
    videos = [metrics.to_videos(runs.read(folders[name]).scores.query("part == 'test'")) for name in done.run]
    scores = np.stack([table.score for table in videos])
    return power.optimism_of_best(videos[0].label, scores, videos[0].group, draws=draws, seed=seed)


def verdict(grid: pd.DataFrame, pick: pd.Series | None, luck: dict) -> str:
    """What choosing on validation gives, and what choosing on test would have given, as a list in Markdown."""
    if pick is None:
        return "No run of the grid is done, so nothing can be chosen."
    named = "rank {rank:g}, alpha {alpha:g}, dropout {dropout:g}".format_map
    if np.isnan(pick.test):
        return f"Validation chooses {named(pick)}, which has no AUC on test."
    best = grid.loc[grid.test.idxmax()]
    rank = int((grid.test > pick.test).sum()) + 1
    lines = [f"Validation chooses {named(pick)}: {pick.test:.3f} on test, interval {pick.test_low:.3f} to "
             f"{pick.test_high:.3f}; by its AUC there it is number {rank} of {grid.test.notna().sum()}.",
             f"The best on test is {named(best)} with {best.test:.3f}.",
             f"The optimism of reporting that one has no estimate: {luck['reason']}." if luck["reason"] else
             f"Reporting that one is too optimistic by {luck['optimism']:.3f}, by the nested estimate."]
    return "\n".join(f"- {line}" for line in lines)


def fractions(epochs_held: pd.DataFrame, steps_held: pd.DataFrame) -> pd.DataFrame:
    """Both sweeps of the fraction: runs, gradient steps, mean AUC on validation and test, range, by (held, fraction)."""
    both = pd.concat({"epochs": epochs_held, "steps": steps_held}, names=["held"])
    grouped = both.dropna(subset=["test"]).groupby(["held", "fraction"])
    return grouped.agg(runs=("test", "size"), gradient_steps=("steps_taken", "mean"), validation=("validation", "mean"),
                       test=("test", "mean"), lowest=("test", "min"), highest=("test", "max"))


def held(epochs_held: pd.DataFrame, steps_held: pd.DataFrame) -> str:
    """A sentence for each sweep of the fraction, saying what was held."""
    table, lines = fractions(epochs_held, steps_held), []
    for name, told in (("epochs", "fewer videos also mean fewer gradient steps"),
                       ("steps", "fewer videos are seen more often")):
        if name not in table.index.get_level_values("held"):
            lines.append(f"- No run with the {name} held is done.")
            continue
        rows = table.loc[name]
        few, whole = rows.iloc[0], rows.iloc[-1]
        lines.append(
            f"- With the **{name} held**, {told}: fraction {rows.index[0]:g} took {few.gradient_steps:.0f} steps and has a "
            f"test AUC of {few.test:.3f}, fraction {rows.index[-1]:g} took {whole.gradient_steps:.0f} and has "
            f"{whole.test:.3f} (means of {few.runs:.0f} and {whole.runs:.0f} draws).")
    return "\n".join(lines)
