"""Tables of sweeps -> matplotlib Axes, as `plots` draws those of a chapter."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dfnb.evaluation.plots import COLOURS, INK

SHADES = {"validation": COLOURS["real"], "test": COLOURS["NeuralTextures"]}
GAP = "#dddddd"


def heat_maps(grid: pd.DataFrame, splits: Sequence[str] = ("validation", "test")) -> Figure:
    """A row of maps for each split, a map for each dropout: AUC by rank and alpha, its interval below it.

    Columns rank, alpha, dropout, state, and each split with _low and _high. A cell without a number is grey and says
    its state; a cell that the grid does not have stays white. Of several draws of the split the first is shown.
    """
    if grid.empty:
        return plt.figure(figsize=(4, 0.5)).text(0, 0.5, "There is no grid.").figure
    grid = grid[grid.split_seed == grid.split_seed.min()]
    ranks, alphas, dropouts = (sorted(set(grid[name])) for name in ("rank", "alpha", "dropout"))
    low, high = np.nanmin([*grid[[*splits]].min(), 1.0]), np.nanmax([*grid[[*splits]].max(), 0.0])
    size = (2.2 + 2.6 * len(dropouts), (0.7 + 0.75 * len(ranks)) * len(splits))
    figure, axes = plt.subplots(len(splits), len(dropouts), figsize=size, squeeze=False, layout="constrained")
    for line, split in zip(axes, splits, strict=True):
        for ax, dropout in zip(line, dropouts, strict=True):
            cells = grid[grid.dropout == dropout]
            shown = cells.pivot(index="rank", columns="alpha", values=split).reindex(index=ranks, columns=alphas)
            image = ax.imshow(shown, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
            for cell in cells.to_dict("records"):
                _annotate(ax, cell, split, ranks.index(cell["rank"]), alphas.index(cell["alpha"]), (low + high) / 2)
            ax.set(xticks=range(len(alphas)), xticklabels=alphas, yticks=range(len(ranks)), yticklabels=ranks)
            ax.set_title(f"{split}, dropout {dropout:g}", fontsize=9)
            ax.grid(False)
        line[0].set_ylabel("rank")
    figure.colorbar(image, ax=axes, label="video AUC", shrink=0.6)
    for ax in axes[-1]:
        ax.set_xlabel("alpha")
    return figure


def _annotate(ax: Axes, cell: dict, split: str, row: int, column: int, middle: float) -> None:
    value = cell[split]
    if np.isnan(value):
        ax.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, color=GAP))
        words = cell["state"] if cell["state"] != "done" else "undefined"
        ax.text(column, row, words, ha="center", va="center", fontsize=7, color=INK)
        return
    colour = "white" if value < middle else "black"
    ax.text(column, row - 0.13, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
    ax.text(column, row + 0.24, f"{cell[f'{split}_low']:.2f} to {cell[f'{split}_high']:.2f}", ha="center", va="center",
            color=colour, fontsize=6.5)


def factor(runs: pd.DataFrame, name: str, ax: Axes, title: str = "") -> Axes:
    """Video AUC by the values of one factor: a point a run, the runs of a split seed joined, validation and test apart."""
    values = sorted(set(runs[name]))
    for split, colour in SHADES.items():
        shift = -0.06 if split == "validation" else 0.06
        for _, rows in runs.dropna(subset=[split]).sort_values(name).groupby("split_seed"):
            places = [values.index(value) + shift for value in rows[name]]
            ax.plot(places, rows[split], "o-", color=colour, ms=4, lw=0.9, alpha=0.75)
        ax.plot([], [], "o-", color=colour, ms=4, label=split)
    ax.axhline(0.5, color=INK, ls=":", lw=1)
    ax.set(xticks=range(len(values)), xticklabels=[f"{value:g}" for value in values], xlabel=title or name,
           xlim=(-0.4, len(values) - 0.6))
    return ax


def effects(tables: dict[str, pd.DataFrame], ax: Axes) -> Axes:
    """Main effects with their intervals (index factor; columns effect, low, high), one colour a split."""
    names = list(next(iter(tables.values())).index)
    for at, (split, table) in enumerate(tables.items()):
        places = np.arange(len(names))[::-1] + 0.12 - 0.24 * at
        ax.hlines(places, table.low, table.high, color=SHADES[split], lw=1.6)
        ax.plot(table.effect, places, "o", color=SHADES[split], ms=5, label=split)
    ax.axvline(0, color=INK, ls=":", lw=1)
    ax.set(yticks=np.arange(len(names))[::-1], yticklabels=names, xlabel="change of the video AUC",
           ylim=(-0.6, len(names) - 0.4))
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=8)
    return ax


def scatter(runs: pd.DataFrame, x: str, y: str, ax: Axes, *, by: str, labels: tuple[str, str]) -> Axes:
    """A point a run, coloured by the values of the column `by`."""
    values = sorted(set(runs[by]))
    shades = plt.get_cmap("viridis")(np.linspace(0.1, 0.9, max(len(values), 2)))
    for value, colour in zip(values, shades, strict=False):
        rows = runs[runs[by] == value]
        ax.plot(rows[x], rows[y], "o", ms=4.5, alpha=0.75, color=colour, label=f"{by} {value:g}")
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.legend(fontsize=8)
    return ax
