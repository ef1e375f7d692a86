"""Tables of the runs of a profile's sweeps, and the statistics of a grid; nothing is trained here.

A run that is not done has a row too, with its state and the reason, and without numbers. AUCs are
of videos unless a column says frames.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import t as student

from dfnb.evaluation import intervals, published

SPLITS = ["validation", "test"]
FACTORS = ["rank", "alpha", "dropout", "blocks", "fraction"]
ORDER = ["best", "most_parameters", "fewest_parameters", "dropout_0", "dropout_0.05", "dropout_0.1",
         "lowest_AUC", "median_AUC"]


EFFECTS = {  # a factor, and the column whose change by one is the unit of its effect
    "rank, doubled": lambda runs: np.log2(runs["rank"]),
    "alpha / rank, doubled": lambda runs: np.log2(runs["alpha"] / runs["rank"]),
    "dropout, + 0.05": lambda runs: runs["dropout"] / 0.05,
}
LEAST_DRAWS = 5  # of an interval over draws of the split


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


def main_effects(grid: pd.DataFrame, value: str, confidence: float = 0.95) -> pd.DataFrame:
    """Return the change of `value` per unit of each factor of EFFECTS, with its interval.

    Columns: effect, low, high, reason, runs; index: factor. Least squares on the finished runs of a
    grid, with an intercept for each draw of the split. The interval (Student) covers what varies
    from run to run, given these test videos; it does not cover other people. An effect that the
    runs cannot show is NaN with the reason.
    """
    done = grid.dropna(subset=[value])
    columns = {name: column(done).to_numpy(float) for name, column in EFFECTS.items()}
    varied = [name for name, column in columns.items() if len(np.unique(column)) > 1]
    rows = pd.DataFrame(np.nan, pd.Index(columns, name="factor"), ["effect", "low", "high"])
    rows = rows.assign(reason="takes one value only", runs=len(done))
    if varied:
        seeds = [done["split_seed"] == seed for seed in sorted(set(done["split_seed"]))]
        design = np.stack([*seeds, *(columns[name] for name in varied)], axis=1)
        left = len(done) - np.linalg.matrix_rank(design)
        rows.loc[varied, "reason"] = reason = _not_estimable(design, left)
        if not reason:
            fitted = _fit(design, done[value].to_numpy(float), left, confidence)
            rows.loc[varied, ["effect", "low", "high"]] = fitted[len(seeds):]
    return rows


def doubled_data(runs: pd.DataFrame, value: str, confidence: float = 0.95) -> dict:
    """Return the change of `value` when the training fraction doubles, over draws of the split.

    Each draw (split seed) has its own least-squares slope; the interval is Student's over these
    slopes, so it covers other people. Keys: draws, effect, low, high, lowest, highest, reason.
    """
    slopes = [np.polyfit(np.log2(draw["fraction"]), draw[value], 1)[0]
              for _, draw in runs.dropna(subset=[value]).groupby("split_seed")
              if draw["fraction"].nunique() > 1]
    row = {"draws": len(slopes), **dict.fromkeys(["effect", "low", "high", "lowest", "highest"],
                                                 np.nan), "reason": ""}
    if slopes:
        row |= {"effect": np.mean(slopes), "lowest": min(slopes), "highest": max(slopes)}
    if len(slopes) < LEAST_DRAWS:
        return row | {"reason": f"{len(slopes)} draws are too few, {LEAST_DRAWS} are needed"}
    return row | dict(zip(("low", "high"), intervals.over_draws(slopes, confidence), strict=True))


def cells(grid: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs of a grid, the best on test first, with the study's columns."""
    columns = ["rank", "alpha", "dropout", "AUC", "EER", "F1", "ACC", "trainable"]
    done = grid.dropna(subset=["test"]).rename(columns={"test": "AUC"})
    return done.sort_values("AUC", ascending=False, kind="stable")[columns].reset_index(drop=True)


def answer(effects: Mapping[str, pd.DataFrame], data: pd.DataFrame) -> str:
    """Word what the grid and the fractions show: whose interval leaves out zero, and its sign.

    `effects` maps validation and test to `main_effects`; `data` holds rows of `doubled_data` with
    the columns held and split.
    """
    known = [name for name in EFFECTS
             if any(not np.isnan(rows.loc[name, "low"]) for rows in effects.values())]
    lines = [f"{name}: " + "; ".join(f"{_sign(rows.loc[name])} on {split}"
                                     for split, rows in effects.items()) for name in known]
    text = ("Given the videos of the grid, the video AUC of its runs changes with "
            f"{'. '.join(lines)}." if known else "The grid has no estimate of a main effect.")
    for row in data.dropna(subset=["effect"]).to_dict("records"):
        found = (f"{row['low']:+.3f} to {row['high']:+.3f} over {row['draws']} draws"
                 if not np.isnan(row["low"]) else row["reason"])
        text += (f" Twice as many training videos, the number of {row['held']} held: "
                 f"{row['effect']:+.3f} ({found}) on {row['split']}.")
    return text


def _sign(row: pd.Series) -> str:
    """Return how an effect stands to zero, in words."""
    if np.isnan(row.low):
        return f"no estimate ({row.reason})"
    sure = "up" if row.low > 0 else "down" if row.high < 0 else "open"
    return f"{sure} ({row.effect:+.3f}, {row.low:+.3f} to {row.high:+.3f})"


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
