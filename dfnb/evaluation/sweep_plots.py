"""Draw the tables of sweeps (chapter 4), as `plots` draws those of the other chapters."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dfnb.evaluation import plots

SHADES = {"validation": plots.COLOURS["real"], "test": plots.COLOURS["NeuralTextures"]}
SHIFTS = {"validation": -0.06, "test": 0.06}  # so that the points of a value stand side by side
GAP = "#dddddd"


def heat_maps(grid: pd.DataFrame, splits: Sequence[str] = ("validation", "test")) -> Figure:
    """Draw the video AUC by rank and alpha with its interval: a row per split, a map per dropout.

    `grid` has the columns rank, alpha, dropout, state, split_seed, and each split with _low and
    _high. A run without a number is grey and shows its state; a combination that the grid does not
    have stays white. Of several split seeds the first is shown. Each split has its own colours.
    """
    if grid.empty:
        return plt.figure(figsize=(4, 0.5)).text(0, 0.5, "There is no grid.").figure
    grid = grid[grid.split_seed == grid.split_seed.min()]
    dropouts, ranks = sorted(set(grid.dropout)), grid["rank"].nunique()
    size = (2.2 + 2.6 * len(dropouts), (0.7 + 0.75 * ranks) * len(splits))
    figure, axes = plt.subplots(len(splits), len(dropouts), figsize=size, squeeze=False,
                                layout="constrained")
    for line, split in zip(axes, splits, strict=True):
        low, high = np.nanmin([grid[split].min(), 1.0]), np.nanmax([grid[split].max(), 0.0])
        for ax, dropout in zip(line, dropouts, strict=True):
            _heat_map(grid, split, dropout, ax, vmin=low, vmax=max(high, low + 1e-6))
        figure.colorbar(line[0].collections[0], ax=line, label="video AUC", shrink=0.8)
    return figure


def _heat_map(grid: pd.DataFrame, split: str, dropout: float, ax: Axes, **limits: float) -> None:
    """Draw the runs of one dropout: those with a number in colour, then the others in grey."""
    runs = grid.assign(text=[_text(run, split) for run in grid.to_dict("records")])
    runs = runs.set_index(["rank", "alpha"])[runs.dropout.to_numpy() == dropout]
    rows, columns = (sorted(set(grid[name])) for name in ("rank", "alpha"))
    values, texts = (runs[name].unstack().reindex(rows, columns=columns)
                     for name in (split, "text"))
    looks = {"annot": texts, "fmt": "", "annot_kws": {"fontsize": 7.5}, "cbar": False, "ax": ax}
    sns.heatmap(values.astype(float), cmap="viridis", **limits, **looks)
    sns.heatmap(values.isna(), mask=values.notna() | texts.isna(), cmap=[GAP], vmin=0, vmax=1,
                **looks)
    ax.set_title(f"{split}, dropout {dropout:g}", fontsize=9)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(False)
    ax.label_outer()


def _text(run: dict, split: str) -> str:
    """Return the AUC of a run with its interval, or its state where it has none."""
    if np.isnan(run[split]):
        return "undefined" if run["state"] == "done" else run["state"]
    return f"{run[split]:.2f}\n{run[f'{split}_low']:.2f} to {run[f'{split}_high']:.2f}"


def factor(runs: pd.DataFrame, name: str, ax: Axes, title: str = "") -> Axes:
    """Draw the video AUC by the values of one factor: a point per run, a line per split seed."""
    values = sorted(set(runs[name]))
    rows = runs.melt([name, "split_seed"], [*SHADES], "split", "AUC")
    places = rows[name].map(values.index).astype(float) + rows.split.map(SHIFTS).astype(float)
    sns.lineplot(x=places, y=rows.AUC, hue=rows.split, units=rows.split_seed, estimator=None,
                 palette=SHADES, marker="o", ms=5, mew=0, lw=0.9, alpha=0.75, ax=ax, legend=False)
    for split, colour in SHADES.items():
        ax.plot([], [], color=colour, marker="o", label=split)  # for a legend of the caller
    ax.axhline(0.5, **plots.CHANCE)
    ax.set(xticks=range(len(values)), xticklabels=[f"{value:g}" for value in values],
           xlabel=title or name, ylabel="", xlim=(-0.4, len(values) - 0.6))
    return ax


def effects(tables: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Draw main effects with intervals (index factor; columns effect, low, high) of each split."""
    for (split, table), shift in zip(tables.items(), (0.12, -0.12), strict=True):
        colour = SHADES[split]
        plots.intervals(table, ax, value="effect", reference=0, colour=colour, ink=colour,
                        shift=shift)
    ax.set_xlabel("change of the video AUC")
    ax.legend(ax.collections, tables)
    return ax


def scatter(runs: pd.DataFrame, x: str, y: str, ax: Axes, *, by: str,
            labels: tuple[str, str]) -> Axes:
    """Draw a point per run, coloured by the values of the column `by`; `labels` name x and y."""
    sns.scatterplot(runs, x=x, y=y, hue=by, palette="crest", legend="full", s=26, alpha=0.75,
                    ax=ax)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    return ax
