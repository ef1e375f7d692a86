"""Tables of the runs of a profile's sweeps, and the statistics of a grid; nothing is trained here.

A run that is not done has a row too, with its state and the reason, and without numbers. AUCs are
of videos unless a column says frames.
"""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from dfnb.evaluation import published

SPLITS = ["validation", "test"]
FACTORS = ["rank", "alpha", "dropout", "blocks", "fraction"]
ORDER = ["best", "most_parameters", "fewest_parameters", "dropout_0", "dropout_0.05", "dropout_0.1",
         "lowest_AUC", "median_AUC"]


def _doubled_fraction(runs: pd.DataFrame, held: pd.Series) -> pd.Series:
    return np.log2(runs["fraction"]).where(held, 0.0)


EFFECTS = {  # a factor, and the column whose change by one is the unit of its effect
    "rank, doubled": lambda runs: np.log2(runs["rank"]),
    "alpha / rank, doubled": lambda runs: np.log2(runs["alpha"] / runs["rank"]),
    "dropout, + 0.05": lambda runs: runs["dropout"] / 0.05,
    "fraction doubled, epochs held": lambda runs: _doubled_fraction(runs, runs["steps"] == 0),
    "fraction doubled, steps held": lambda runs: _doubled_fraction(runs, runs["steps"] > 0),
}


def varying(runs: pd.DataFrame, factor: str, around: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that differ from the base in at most this factor."""
    others = [name for name in FACTORS if name != factor]
    return runs[(runs[others] == [around["sweeps"][name] for name in others]).all(axis=1)]


def of_sweep(table: pd.DataFrame, sweep: str) -> pd.DataFrame:
    """Return the runs of one sweep; a run that several share is in each."""
    return table[[sweep in sweeps for sweeps in table.sweeps]]


def chosen(grid: pd.DataFrame) -> pd.Series | None:
    """Return the run with the largest AUC on validation frames, of equals that of smallest loss.

    Frames also chose the epoch: the few validation videos make ties. None without any run.
    """
    done = grid.dropna(subset=["validation_frames"])
    order = done.sort_values(["validation_frames", "validation_loss"], ascending=[False, True],
                             kind="stable")
    return order.iloc[0] if len(order) else None


def representative(grid: pd.DataFrame) -> pd.DataFrame:
    """Return at most eight rows of a grid, chosen as the study chose its own, by the AUC on test.

    They are the best, the lowest and the median of all, the best with each dropout, and of the runs
    with the most and with the fewest parameters the best that no row before has shown. The reported
    rows agree with that rule.
    """
    done = grid.dropna(subset=["test"]).sort_values("test", ascending=False, kind="stable")
    done = done.reset_index(drop=True)
    if done.empty:
        return pd.DataFrame(columns=["row", *grid.columns])
    rows = {"best": 0} | {f"dropout_{value:g}": int(done.index[done.dropout == value][0])
                          for value in sorted(set(done.dropout))}
    sizes = {"most_parameters": done.trainable.max(), "fewest_parameters": done.trainable.min()}
    for name, size in sizes.items():
        left = done.index[(done.trainable == size) & ~done.index.isin(list(rows.values()))]
        rows |= {name: int(left[0])} if len(left) else {}
    rows |= {"lowest_AUC": len(done) - 1, "median_AUC": (len(done) - 1) // 2}
    return done.iloc[list(rows.values())].assign(row=list(rows))


def beside_reported(grid: pd.DataFrame) -> pd.DataFrame:
    """Return `representative` rows beside the reported ones, under (ours | reported, column)."""
    names = ["AUC", "EER", "F1", "ACC", "rank", "alpha", "dropout"]
    ours = representative(grid).rename(columns={"test": "AUC"}).set_index("row")
    theirs = published.grid()
    best = theirs.loc[theirs.AUC.idxmax()]
    again = best.to_frame().T.assign(row=f"dropout_{best.dropout:g}")
    theirs = pd.concat([theirs, again]).set_index("row")[names].apply(pd.to_numeric)
    both = {"ours": ours.reindex(columns=["trainable", *names]), "reported on FF++": theirs}
    order = dict.fromkeys([*ORDER, *ours.index])
    return pd.concat(both, axis=1, join="outer").reindex(list(order))


def main_effects(table: pd.DataFrame, value: str, confidence: float = 0.95) -> pd.DataFrame:
    """Return the change of `value` per unit of each factor of EFFECTS, with its interval.

    Columns: effect, low, high, reason, runs; index: factor. Least squares on all finished runs,
    with an intercept for every split seed, so that splits are compared with themselves. The
    interval (Student) covers what varies from run to run; the test videos are the same in all runs
    of a split. An effect that the runs cannot show is NaN with the reason.
    """
    done = table.dropna(subset=[value])
    columns = {name: column(done).to_numpy(float) for name, column in EFFECTS.items()}
    varied = [name for name, column in columns.items() if len(np.unique(column)) > 1]
    rows = pd.DataFrame(np.nan, pd.Index(columns, name="factor"), ["effect", "low", "high"])
    rows = rows.assign(reason="takes one value only", runs=len(done))
    if varied:
        seeds = [done.split_seed == seed for seed in sorted(set(done.split_seed))]
        design = np.stack([*seeds, *(columns[name] for name in varied)], axis=1)
        left = len(done) - np.linalg.matrix_rank(design)
        rows.loc[varied, "reason"] = reason = _not_estimable(design, left)
        if not reason:
            fitted = _fit(design, done[value].to_numpy(float), left, confidence)
            rows.loc[varied, ["effect", "low", "high"]] = fitted[len(seeds):]
    return rows


def _not_estimable(design: np.ndarray, left: int) -> str:
    """Return why least squares gives no effects with errors, or ""."""
    if left < 1:
        return f"{len(design)} runs are too few for {design.shape[1]} unknowns and an error"
    alone = np.linalg.matrix_rank(design) == design.shape[1]
    return "" if alone else "these factors were only varied together"


def _fit(design: np.ndarray, values: np.ndarray, left: int, confidence: float) -> np.ndarray:
    """Return the least-squares coefficients with their bounds, (k, 3): effect, low, high."""
    inverse = np.linalg.inv(design.T @ design)
    effects = inverse @ design.T @ values
    variance = ((values - design @ effects) ** 2).sum() / left
    half = student.ppf((1 + confidence) / 2, left) * np.sqrt(variance * np.diag(inverse))
    return np.stack([effects, effects - half, effects + half], axis=1)


def verdict(grid: pd.DataFrame, pick: pd.Series | None, luck: dict) -> str:
    """Word as a list what choosing on validation gives, and what choosing on test would give."""
    if pick is None:
        return "No run of the grid is done, so nothing can be chosen."
    named = "rank {rank:g}, alpha {alpha:g}, dropout {dropout:g}".format_map
    if np.isnan(pick.test):
        return f"Validation chooses {named(pick)}, which has no AUC on test."
    best, rank = grid.loc[grid.test.idxmax()], int((grid.test > pick.test).sum()) + 1
    lines = [f"Validation chooses {named(pick)}: {pick.test:.3f} on test, interval "
             f"{pick.test_low:.3f} to {pick.test_high:.3f}; by its AUC there it is number {rank} "
             f"of {grid.test.notna().sum()}.",
             f"The best on test is {named(best)} with {best.test:.3f}."]
    if luck["reason"]:
        lines.append(f"The optimism of reporting that one has no estimate: {luck['reason']}.")
    else:
        lines.append(f"Reporting that one is too optimistic by {luck['optimism']:.3f}, by the "
                     "nested estimate.")
    return "\n".join(f"- {line}" for line in lines)


def fractions(epochs_held: pd.DataFrame, steps_held: pd.DataFrame) -> pd.DataFrame:
    """Return both sweeps of the fraction, by (held, fraction).

    Columns: runs, gradient_steps, mean AUC on validation and on test, lowest and highest on test.
    """
    both = pd.concat({"epochs": epochs_held, "steps": steps_held}, names=["held"])
    grouped = both.dropna(subset=["test"]).groupby(["held", "fraction"])
    return grouped.agg(runs=("test", "size"), gradient_steps=("steps_taken", "mean"),
                       validation=("validation", "mean"), test=("test", "mean"),
                       lowest=("test", "min"), highest=("test", "max"))


def describe_fractions(epochs_held: pd.DataFrame, steps_held: pd.DataFrame) -> str:
    """Word each sweep of the fraction: what was held, the steps taken and the mean AUC on test."""
    table, lines = fractions(epochs_held, steps_held), []
    for name, text in (("epochs", "fewer videos also mean fewer gradient steps"),
                       ("steps", "fewer videos are seen more often")):
        if name not in table.index.get_level_values("held"):
            lines.append(f"- No run with the {name} held is done.")
            continue
        rows = table.loc[name]
        few, whole = rows.iloc[0], rows.iloc[-1]
        lines.append(
            f"- With the **{name} held**, {text}: fraction {rows.index[0]:g} took "
            f"{few.gradient_steps:.0f} steps and has a test AUC of {few.test:.3f}, fraction "
            f"{rows.index[-1]:g} took {whole.gradient_steps:.0f} and has {whole.test:.3f} (means "
            f"of {few.runs:.0f} and {whole.runs:.0f} draws).")
    return "\n".join(lines)
