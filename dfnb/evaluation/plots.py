"""Draw tables as matplotlib figures, so that every figure can be drawn again from a saved table.

A function draws on the Axes `ax` and returns them; one without `ax` returns a Figure. Nothing here
reads a file or needs a model.
"""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import EngFormatter
from sklearn.metrics import RocCurveDisplay

MANIPULATIONS = ("real", "FaceSwap", "Deepfakes", "NeuralTextures", "Face2Face", "FaceShifter")
COLOURS = dict(zip(MANIPULATIONS, sns.color_palette("colorblind"), strict=False))
INK = "#444444"
CHANCE = {"color": INK, "ls": ":", "lw": 1}
THRESHOLD = {"color": INK, "ls": "--", "lw": 1, "label": "threshold from validation"}
GUIDE = "Right of each crop, in grey: brighter patches contribute more to the score of fake."


def style() -> None:
    """Set one look for all figures: small, and 100 dpi so that executed notebooks stay light."""
    rc = {"figure.dpi": 100, "savefig.dpi": 100, "axes.spines.top": False,
          "axes.spines.right": False, "grid.alpha": 0.4, "legend.frameon": False,
          "legend.fontsize": 8, "legend.title_fontsize": 8,
          "text.parse_math": False}  # a name from outside, such as $\frac, is text
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.85, rc=rc)


def gallery(rows: Mapping[str, np.ndarray], columns: Sequence[str] = ()) -> Figure:
    """Draw one labelled row of crops per entry; images are uint8 (n, h, w, 3)."""
    figure, axes = _picture_grid(list(rows), max(map(len, rows.values())), size=1.15)
    for line, images in zip(axes, rows.values(), strict=True):
        for ax, image in zip(line, images, strict=False):
            ax.imshow(image)
    for ax, title in zip(axes[0], columns, strict=False):
        ax.set_title(title, fontsize=8)
    return figure


def relevance_maps(images: np.ndarray, masks: np.ndarray, maps: Mapping[str, np.ndarray]) -> Figure:
    """Draw crops (n, h, w, 3) with the outline of their masks (n, h, w), then a row per detector.

    `maps` holds the relevance (n, side, side) for each detector, which is drawn over the crops.
    """
    figure, axes = _picture_grid(["changed", *maps], len(images), size=1.3)
    side = images.shape[1]
    for line, relevance in zip(axes, [None, *maps.values()], strict=True):
        for at, ax in enumerate(line):
            ax.imshow(images[at])
            if relevance is not None:
                ax.imshow(relevance[at], cmap="magma", alpha=0.55,
                          extent=(-0.5, side - 0.5, side - 0.5, -0.5))
            if masks[at].any():
                ax.contour(masks[at], levels=[127], colors="white", linewidths=1)
    return figure


def _picture_grid(names: list[str], columns: int, size: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its Axes (rows, columns) without ticks; each row has a name."""
    figure, axes = plt.subplots(len(names), columns, squeeze=False,
                                figsize=(size * columns + 0.9, (size + 0.05) * len(names)))
    figure.set_layout_engine("tight", pad=0.3)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure, axes


def split_counts(counts: pd.DataFrame, ax: Axes) -> Axes:
    """Draw stacked bars of videos per split (rows) and manipulation (columns)."""
    colours = [COLOURS.get(name, INK) for name in counts.columns]
    counts.plot.barh(stacked=True, ax=ax, color=colours, width=0.7, xlabel="videos", ylabel="")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return ax


def score_histogram(scores: pd.DataFrame, ax: Axes, *, threshold: float | None = None) -> Axes:
    """Draw the scores (columns manipulation, score) by class, each scaled to its own size."""
    for name, rows in scores.groupby("manipulation", sort=False):
        sns.histplot(x=rows.score, bins=np.linspace(0, 1, 26), stat="proportion", alpha=0.55,
                     label=f"{name} ({len(rows)})", color=COLOURS.get(name, INK), ax=ax)
    if threshold is not None:
        ax.axvline(threshold, **THRESHOLD)
    ax.set(xlabel="score (probability of fake)", ylabel="share of the class", xlim=(0, 1))
    ax.legend()
    return ax


def roc(curves: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Draw the ROC of each named score table (columns label, score) with its AUC."""
    for name, rows in curves.items():
        RocCurveDisplay.from_predictions(rows.label, rows.score, name=name, ax=ax)
    ax.axline((0, 0), slope=1, **CHANCE)
    ax.set(xlabel="false positive rate (reals called fake)", ylabel="true positive rate")
    return ax


def confusion(counts: Mapping[str, int], ax: Axes, title: str = "") -> Axes:
    """Draw the confusion matrix of TP, FP, FN and TN; rows are the truth, fake is positive."""
    table = np.array([[counts["TN"], counts["FP"]], [counts["FN"], counts["TP"]]])
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    sns.heatmap(shares, annot=table, fmt="d", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
                xticklabels=["called real", "called fake"], yticklabels=["real", "fake"], ax=ax)
    ax.set_title(title, fontsize=9)
    return ax


def training_curves(history: pd.DataFrame, loss: Axes, auc: Axes) -> None:
    """Draw the loss and the AUCs of training and validation by epoch, one line per split seed.

    `history` has the columns split_seed, epoch, loss, train_auc and validation_auc.
    """
    shades = {"training": COLOURS["real"], "validation": COLOURS["NeuralTextures"]}
    lines = {"x": "epoch", "units": "split_seed", "estimator": None, "lw": 1.2, "alpha": 0.7}
    sns.lineplot(history, y="loss", color=shades["training"], ax=loss, **lines)
    names = {"train_auc": "training", "validation_auc": "validation"}
    both = history.rename(columns=names).melt(["split_seed", "epoch"], [*shades], "split", "AUC")
    sns.lineplot(both, y="AUC", hue="split", palette=shades, ax=auc, **lines)
    best = history.sort_values("validation_auc", ascending=False, kind="stable")
    best = best.drop_duplicates("split_seed").sort_values("split_seed")
    auc.plot(best.epoch, best.validation_auc, "o", ms=5, c=shades["validation"], label="epoch kept")
    loss.set_ylabel("training loss")
    auc.set_ylabel("frame AUC")
    auc.legend()


def timeline(scores: pd.DataFrame, ax: Axes, *, threshold: float | None = None) -> Axes:
    """Draw the scores by frame, one line and one mean per video.

    `scores` has the columns manipulation, video, frame and score.
    """
    ordered = scores.sort_values("frame")
    for (name, video), rows in ordered.groupby(["manipulation", "video"], sort=False):
        colour = COLOURS.get(name, INK)
        ax.plot(rows.frame, rows.score, "o-", ms=4, lw=1.2, color=colour, label=f"{name} {video}")
        ax.axhline(rows.score.mean(), color=colour, lw=0.8, alpha=0.5)
    if threshold is not None:
        ax.axhline(threshold, **THRESHOLD)
    ax.set(xlabel="frame of the file", ylabel="score", ylim=(-0.02, 1.02))
    ax.legend()
    return ax


def relevance_map(image: np.ndarray, relevance: np.ndarray, ax: Axes, *, highest: float) -> Axes:
    """Draw a crop in grey under a map of relevance (side, side); `highest` is the brightest."""
    extent = (0, image.shape[1], image.shape[0], 0)
    ax.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=extent)
    if not np.isnan(relevance).any():
        share = np.clip(relevance / max(highest, 1e-12), 0, 1)
        ax.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.7 * share, extent=extent,
                  interpolation="nearest")
    return ax


def face(image: np.ndarray, relevance: np.ndarray, row: pd.Series, *, highest: float) -> Figure:
    """Draw one crop and its map of relevance; `row` holds its frame, pts and score."""
    figure = Figure(figsize=(6, 3.3), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2)
    left.imshow(image)
    relevance_map(image, relevance, right, highest=highest)
    left.set_title(f"frame {row.frame:.0f}, {row.pts:.2f} s", fontsize=9)
    right.set_title(f"probability of fake {row.score:.3f}", fontsize=9)
    for ax in (left, right):
        ax.set_axis_off()
    return figure


def verdict(frames: pd.DataFrame, rows: Mapping[str, tuple], *, threshold: float, title: str,
            notes: Sequence[str]) -> Figure:
    """Draw one video: scores over time, crops with maps of relevance, and sentences below.

    `frames` has pts, status and score (NaN where no face was cut out). `rows` maps a name to crops
    (n, h, w, 3), their maps (n, side, side) and their rows of `frames`.
    """
    every = [maps for _, maps, _ in rows.values()]
    if any(np.isfinite(maps).all() for maps in every):
        notes = [GUIDE, *notes]
    lines = [line for note in notes for line in textwrap.wrap(note, 130)]
    heights = [2.0, *([1.25] * len(rows)), 0.17 * len(lines)]
    figure = plt.figure(figsize=(9, sum(heights) + 0.9), layout="constrained", dpi=100)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    ax = over_time(frames, figure.add_subplot(grid[0]), threshold=threshold)
    ax.set_title(title, loc="left", fontweight="bold")
    highest, wide = max((maps.max() for maps in every), default=1.0), max([4, *map(len, every)])
    for place, (name, content) in enumerate(rows.items(), start=1):
        _crop_row(grid[place], name, *content, wide=wide, highest=highest)
    ax = figure.add_subplot(grid[-1])
    ax.set_axis_off()
    ax.text(0, 1, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8, linespacing=1.4)
    return figure


def _crop_row(place: SubplotSpec, name: str, crops: np.ndarray, maps: np.ndarray,
              frames: pd.DataFrame, *, wide: int, highest: float) -> None:
    """Draw up to `wide` crops with their time and score, each with its map of relevance."""
    axes = place.subgridspec(1, 2 * wide).subplots(squeeze=False)[0]
    for ax in axes:
        ax.set_axis_off()
    for ax, crop, row in zip(axes[::2], crops, frames.itertuples(), strict=False):
        ax.imshow(crop)
        ax.set_title(f"{row.pts:.2f} s: {row.score:.2f}", fontsize=8, loc="left")
    for ax, crop, relevance in zip(axes[1::2], crops, maps, strict=False):
        relevance_map(crop, relevance, ax, highest=highest)
    axes[0].text(-0.12, 0.5, name, transform=axes[0].transAxes, rotation=90, ha="right",
                 va="center", fontsize=8)


def over_time(frames: pd.DataFrame, ax: Axes, *, threshold: float) -> Axes:
    """Draw the scores of one video by seconds; crosses at 0 mark frames without a face."""
    fake, lost = frames.score >= threshold, frames.score.isna()
    ax.plot(frames.pts, frames.score, color=INK, lw=0.8, alpha=0.5)
    for rows, name, marker, colour in ((fake, "above: called fake", "^", COLOURS["FaceSwap"]),
                                       (~fake & ~lost, "below: called real", "o", COLOURS["real"]),
                                       (lost, "no face cut out", "x", INK)):
        if rows.any():
            ax.plot(frames.pts[rows], frames.score[rows].fillna(0), marker, ms=6, color=colour,
                    label=name, clip_on=False)
    ax.axhline(threshold, **THRESHOLD)
    ax.axhline(frames.score.mean(), color=INK, lw=1, label="mean: the video's score")
    ax.set(xlabel="seconds", ylabel="probability of fake", ylim=(-0.04, 1.04))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def pair_and_twin(designs: Mapping[str, Sequence[Sequence[str]]], roles: Sequence[str]) -> Figure:
    """Draw which videos of a test pair and of its twin train in each design, and which is tested.

    `designs` maps a name to the roles that leak where the real a is tested, and the fake ab. Videos
    that train have the colours of reals and of fakes, the others are white.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.5 + 0.45 * len(designs)), sharey=True)
    places = [*range(len(roles)), *range(len(roles) + 1, 2 * len(roles) + 1)]
    for ax, tested, which in zip(axes, ("a", "ab"), (0, 1), strict=True):
        for row, leaks in enumerate(designs.values()):
            trained = [role in leaks[which] for role in roles]
            for place, role, trains in zip(places, [*roles, *roles],
                                           [*trained, *(not one for one in trained)], strict=True):
                colour = COLOURS["real" if len(role) == 1 else "FaceSwap"]
                ax.add_patch(plt.Rectangle((place - 0.4, row - 0.35), 0.8, 0.7, ec=INK, lw=0.5,
                                           fc=colour if trains else "white"))
            ax.text(list(roles).index(tested), row, "test", ha="center", va="center", fontsize=8)
        ax.set(xlim=(-0.6, places[-1] + 0.6), ylim=(len(designs) - 0.5, -0.5), xticks=places,
               xticklabels=[*roles, *roles], yticks=range(len(designs)),
               yticklabels=list(designs), title=f"{tested} is tested; its pair, then the twin")
        ax.title.set_fontsize(9)
        ax.grid(False)
    figure.tight_layout()
    return figure


def by_split(results: pd.DataFrame, ax: Axes) -> Axes:
    """Draw a point per model and split seed (columns model, split_seed, AUC), a line per seed."""
    wide = results.pivot(index="model", columns="split_seed", values="AUC")
    wide = wide.loc[results.model.unique()]
    places = range(len(wide))
    wide.plot(ax=ax, style="o-", color=INK, alpha=0.45, lw=1, ms=4, legend=False, xlabel="",
              ylabel="AUC", xticks=places, xlim=(-0.5, len(wide) - 0.5))
    marks = ax.plot(places, wide.mean(axis=1), "_", color=COLOURS["NeuralTextures"], ms=28, mew=2.5)
    ax.axhline(0.5, **CHANCE)
    ax.legend(marks, ["mean of splits"])
    return ax


def intervals(table: pd.DataFrame, ax: Axes, *, value: str = "AUC", reference: float = 0.5,
              colour: tuple = COLOURS["real"], ink: str | tuple = INK, shift: float = 0) -> Axes:
    """Draw a forest plot, one line per row (index = names; columns `value`, low and high).

    `colour` is that of the points, `ink` that of the lines. `shift` moves all rows up, so that two
    tables with the same rows fit on the same Axes.
    """
    rows = np.arange(len(table))[::-1]
    ax.hlines(rows + shift, table.low, table.high, color=ink, lw=1.5)
    ax.plot(table[value], rows + shift, "o", color=colour, ms=5)
    ax.axvline(reference, **CHANCE)
    ax.set(yticks=rows, yticklabels=table.index, ylim=(-0.6, len(rows) - 0.4),
           xlabel=value.replace("_", " "))
    ax.grid(axis="y", visible=False)
    return ax


def cost(table: pd.DataFrame, ax: Axes, *, against: str) -> Axes:
    """Draw the video AUC with its interval by the cost in the column `against`, which may be 0.

    `table` has a row per model, and the columns model, video_AUC, video_low and video_high.
    """
    costs, colours = table[against], sns.color_palette("husl", len(table))
    ax.vlines(costs, table.video_low, table.video_high, color=INK, alpha=0.4, lw=1)
    for name, x, y, colour in zip(table.model, costs, table.video_AUC, colours, strict=True):
        ax.plot(x, y, "o", color=colour, ms=6, label=name)
    ax.axhline(0.5, **CHANCE)
    ticks = [0, *10 ** np.arange(int(np.ceil(np.log10(max(costs.max(), 1)))) + 1)]
    ax.set_xscale("symlog", linthresh=1)  # linear below 1, because a logarithm has no place for 0
    ax.set(xlabel=against, ylabel="video AUC", xlim=(-0.3, 2 * ticks[-1]), xticks=ticks)
    ax.minorticks_off()
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k: long numbers would overlap
    return ax


def few_shot(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the frame AUC by the number of training pairs: a point per draw, a line for the mean.

    `rows` has the columns model, pairs, draw and frame_AUC.
    """
    counts, colours = sorted(rows.pairs.unique()), sns.color_palette("colorblind")
    shift = 1 + 0.04 * (pd.factorize(rows.model)[0] - 1)  # so that no points cover each other
    data = {"x": rows.pairs * shift, "y": rows.frame_AUC, "hue": rows.model, "ax": ax,
            "palette": colours[:rows.model.nunique()]}
    sns.lineplot(**data, errorbar=None, lw=1.6)
    sns.scatterplot(**data, s=20, alpha=0.5, lw=0, legend=False)
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set(xticks=counts, xticklabels=counts, xlabel="real/fake pairs in training")
    ax.set_ylabel("frame AUC")
    ax.axhline(0.5, **CHANCE)
    return ax


def strengths(rows: pd.DataFrame) -> Figure:
    """Draw one panel per perturbation: the frame AUC by strength, one line per model.

    `rows` has the columns kind, model, strength, amount and frame_AUC.
    """
    grid = sns.relplot(rows, kind="line", x="strength", y="frame_AUC", hue="model", col="kind",
                       palette="colorblind", marker="o", ms=4, mew=0, height=2.7, aspect=0.85)
    grid.refline(y=0.5, **CHANCE)
    grid.set(xticks=sorted(set(rows.strength))).set_ylabels("frame AUC")
    for kind, ax in grid.axes_dict.items():
        amounts = rows[rows.kind == kind].drop_duplicates("strength").amount
        ax.set_title(f"{kind}\n{amounts.iloc[1]}\nto {amounts.iloc[-1]}", fontsize=8)
    return grid.tight_layout().figure
