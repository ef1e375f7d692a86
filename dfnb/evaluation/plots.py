"""Tables -> matplotlib Axes. No paths, no models: every picture can be redrawn from a saved table."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dfnb.evaluation import metrics

COLOURS = dict(zip(("real", "FaceSwap", "NeuralTextures", "Face2Face", "Deepfakes", "FaceShifter"),
                   np.array(sns.color_palette("colorblind"))[[0, 1, 3, 4, 2, 5]].tolist(), strict=True))
INK = "#444444"
GUIDE = "Right of each crop, in grey: where the detector looks for traces of a fake; the brighter, the more."


def style() -> None:
    """One look for all figures: small, quiet, 100 dpi so that the executed notebooks stay light."""
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.85,
                  rc={"figure.dpi": 100, "savefig.dpi": 100, "axes.spines.top": False,
                      "axes.spines.right": False, "legend.frameon": False, "grid.alpha": 0.4,
                      "text.parse_math": False})  # a name such as $\frac from outside is text


def gallery(rows: Mapping[str, np.ndarray], columns: Sequence[str] = ()) -> Figure:
    """Draw one labelled row of crops per entry; images are uint8 (n, h, w, 3)."""
    wide = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(len(rows), wide, figsize=(1.15 * wide + 0.9, 1.2 * len(rows)), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax in line:
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
        for ax, image in zip(line, images, strict=False):
            ax.imshow(image)
    for ax, title in zip(axes[0], columns, strict=False):
        ax.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.3)
    return figure


def part_counts(counts: pd.DataFrame, ax: Axes) -> Axes:
    """Stacked bars of videos per split (rows) and manipulation (columns)."""
    counts.plot.barh(stacked=True, ax=ax, color=[COLOURS.get(m, INK) for m in counts.columns], width=0.7)
    ax.invert_yaxis()
    ax.set(xlabel="videos", ylabel="")
    ax.grid(axis="y", visible=False)
    return ax


def score_histogram(scores: pd.DataFrame, ax: Axes, *, threshold: float | None = None) -> Axes:
    """Histogram of scores (columns manipulation, score) by class, each class scaled to its own size."""
    bins = np.linspace(0, 1, 26)
    for manipulation, rows in scores.groupby("manipulation", sort=False):
        ax.hist(rows.score, bins=bins, weights=np.full(len(rows), 1 / len(rows)), alpha=0.55,
                label=f"{manipulation} ({len(rows)})", color=COLOURS.get(manipulation, INK))
    if threshold is not None:
        ax.axvline(threshold, color=INK, ls="--", lw=1, label="threshold from validation")
    ax.set(xlabel="score (probability of fake)", ylabel="share of the class", xlim=(0, 1))
    ax.legend(fontsize=8)
    return ax


def roc(curves: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """ROC of each named score table (columns label, score); the diagonal is chance."""
    for name, rows in curves.items():
        false_positive, true_positive, _ = metrics.roc(rows.label, rows.score)
        ax.plot(false_positive, true_positive, label=name, lw=1.6)
    ax.plot([0, 1], [0, 1], color=INK, ls=":", lw=1)
    ax.set(xlabel="false positive rate (reals called fake)", ylabel="true positive rate",
           xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def confusion(counts: Mapping[str, int], ax: Axes, title: str = "") -> Axes:
    """Confusion matrix from TP, FP, FN, TN; rows are the truth, fake is positive."""
    table = np.array([[counts["TN"], counts["FP"]], [counts["FN"], counts["TP"]]])
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    sns.heatmap(shares, annot=table, fmt="d", cmap="Blues", vmin=0, vmax=1, cbar=False, ax=ax, square=True,
                xticklabels=["called real", "called fake"], yticklabels=["real", "fake"])
    ax.set_title(title, fontsize=9)
    return ax


def training_curves(history: pd.DataFrame, loss: Axes, auc: Axes) -> None:
    """Loss, and train and validation AUC, by epoch (columns split, epoch, loss, train_auc, validation_auc)."""
    for _, run in history.groupby("split_seed"):
        best = run.loc[run.validation_auc.idxmax()]
        loss.plot(run.epoch, run.loss, color=COLOURS["real"], lw=1.2, alpha=0.7)
        auc.plot(run.epoch, run.train_auc, color=COLOURS["real"], lw=1.2, alpha=0.7)
        auc.plot(run.epoch, run.validation_auc, color=COLOURS["NeuralTextures"], lw=1.2, alpha=0.7)
        auc.plot(best.epoch, best.validation_auc, "o", ms=5, color=COLOURS["NeuralTextures"])
    loss.set(xlabel="epoch", ylabel="training loss")
    auc.plot([], [], color=COLOURS["real"], label="training")
    auc.plot([], [], "-o", ms=5, color=COLOURS["NeuralTextures"], label="validation (dot: epoch kept)")
    auc.set(xlabel="epoch", ylabel="frame AUC")
    auc.legend(fontsize=8)


def timeline(scores: pd.DataFrame, ax: Axes, *, threshold: float | None = None) -> Axes:
    """Frame scores over time, one line a video (columns manipulation, video, frame, score)."""
    for (manipulation, video), rows in scores.sort_values("frame").groupby(["manipulation", "video"], sort=False):
        colour = COLOURS.get(manipulation, INK)
        ax.plot(rows.frame, rows.score, "o-", ms=4, lw=1.2, color=colour, label=f"{manipulation} {video}")
        ax.axhline(rows.score.mean(), color=colour, lw=0.8, alpha=0.5)
    if threshold is not None:
        ax.axhline(threshold, color=INK, ls="--", lw=1)
    ax.set(xlabel="frame of the file", ylabel="score", ylim=(-0.02, 1.02))
    ax.legend(fontsize=8)
    return ax


def looked_at(image: np.ndarray, relevance: np.ndarray, ax: Axes, *, highest: float) -> Axes:
    """A crop in grey and, over it, where the detector looks (side, side); `highest` is drawn brightest."""
    extent = (0, image.shape[1], image.shape[0], 0)
    ax.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=extent)
    if np.isnan(relevance).any():
        return ax
    share = np.clip(relevance / max(highest, 1e-12), 0, 1)
    ax.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.7 * share, extent=extent, interpolation="nearest")
    return ax


def face(image: np.ndarray, relevance: np.ndarray, row: pd.Series, *, highest: float) -> Figure:
    """One crop and where the detector looks in it; `row` has its frame, pts and score."""
    figure = Figure(figsize=(6, 3.3), layout="constrained", dpi=100)
    axes = figure.subplots(1, 2)
    axes[0].imshow(image)
    looked_at(image, relevance, axes[1], highest=highest)
    axes[0].set_title(f"frame {row.frame:.0f}, {row.pts:.2f} s", fontsize=9)
    axes[1].set_title(f"probability of fake {row.score:.3f}", fontsize=9)
    for ax in axes:
        ax.set_axis_off()
    return figure


def verdict(frames: pd.DataFrame, rows: Mapping[str, tuple], *, threshold: float, title: str,
            notes: Sequence[str]) -> Figure:
    """One video: scores over time, crops with maps of relevance, and sentences below.

    `frames` has pts, status, score (NaN where no face was cut out); `rows` maps a name to crops (n, h, w, 3), their maps
    (n, side, side) and their rows of `frames`.
    """
    drawn = any(np.isfinite(maps).all() for _, maps, _ in rows.values())
    lines = [line for note in [*([GUIDE] if drawn else []), *notes] for line in textwrap.wrap(note, 130)]
    wide = max((len(crops) for crops, _, _ in rows.values()), default=1)
    heights = [2.0, *([1.25] * len(rows)), 0.17 * len(lines)]
    figure = plt.figure(figsize=(9, sum(heights) + 0.9), layout="constrained", dpi=100)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    over_time(frames, figure.add_subplot(grid[0]), threshold=threshold).set_title(title, loc="left", fontweight="bold")
    highest = max((maps.max() for _, maps, _ in rows.values()), default=1.0)
    for line, (name, (crops, maps, words)) in enumerate(rows.items(), start=1):
        axes = grid[line].subgridspec(1, 2 * max(wide, 4)).subplots(squeeze=False)[0]
        for ax in axes:
            ax.set_axis_off()
        for at, (crop, relevance, row) in enumerate(zip(crops, maps, words.itertuples(), strict=True)):
            axes[2 * at].imshow(crop)
            axes[2 * at].set_title(f"{row.pts:.2f} s: {row.score:.2f}", fontsize=8, loc="left")
            looked_at(crop, relevance, axes[2 * at + 1], highest=highest)
        axes[0].text(-0.12, 0.5, name, transform=axes[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    ax = figure.add_subplot(grid[-1])
    ax.set_axis_off()
    ax.text(0, 1, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8, linespacing=1.4)
    return figure


def over_time(frames: pd.DataFrame, ax: Axes, *, threshold: float) -> Axes:
    """Scores of one video over its seconds; frames without a face are crosses at the bottom."""
    fake = frames.score >= threshold
    ax.plot(frames.pts, frames.score, color=INK, lw=0.8, alpha=0.5)
    for chosen, name, marker, colour in ((fake, "above: called fake", "^", COLOURS["FaceSwap"]),
                                         (~fake & frames.score.notna(), "below: called real", "o", COLOURS["real"])):
        ax.plot(frames.pts[chosen], frames.score[chosen], marker, ms=6, color=colour, label=name)
    lost = frames[frames.score.isna()]
    if len(lost):
        ax.plot(lost.pts, np.zeros(len(lost)), "x", ms=6, color=INK, label="no face cut out", clip_on=False)
    ax.axhline(threshold, color=INK, ls="--", lw=1, label="threshold from validation")
    ax.axhline(frames.score.mean(), color=INK, lw=1, label="mean: the video's score")
    ax.set(xlabel="seconds", ylabel="probability of fake", ylim=(-0.04, 1.04))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def by_split(results: pd.DataFrame, ax: Axes, *, value: str = "AUC") -> Axes:
    """One point a split and model (columns model, split, `value`), the same splits joined by a line."""
    wide = results.pivot(index="model", columns="split_seed", values=value).loc[results.model.unique()]
    places = np.arange(len(wide))
    for split_seed in wide:
        ax.plot(places, wide[split_seed], "o-", color=INK, alpha=0.45, lw=1, ms=4)
    ax.plot(places, wide.mean(axis=1), "_", color=COLOURS["NeuralTextures"], ms=28, mew=2.5, label="mean of splits")
    ax.axhline(0.5, color=INK, ls=":", lw=1)
    ax.set(xticks=places, xticklabels=wide.index, xlim=(-0.5, len(wide) - 0.5), ylabel=value)
    ax.legend(fontsize=8)
    return ax


def intervals(table: pd.DataFrame, ax: Axes, *, value: str = "AUC", reference: float = 0.5) -> Axes:
    """Forest plot: one line a row (index = names; columns `value`, low, high)."""
    places = np.arange(len(table))[::-1]
    ax.hlines(places, table.low, table.high, color=INK, lw=1.5)
    ax.plot(table[value], places, "o", color=COLOURS["real"], ms=5)
    ax.axvline(reference, color=INK, ls=":", lw=1)
    ax.set(yticks=places, yticklabels=table.index, xlabel=value)
    ax.grid(axis="y", visible=False)
    return ax


def cost(table: pd.DataFrame, ax: Axes, *, against: str, value: str = "video_AUC") -> Axes:
    """What a model costs (column `against`, 0 allowed) against its AUC with interval (columns model, video_low, ...)."""
    lengths = table[value] - table["video_low"], table["video_high"] - table[value]
    ax.errorbar(table[against], table[value], yerr=lengths, fmt="none", ecolor=INK, alpha=0.4, lw=1)
    for (name, row), colour in zip(table.set_index("model").iterrows(), sns.color_palette("husl", len(table)), strict=True):
        ax.plot(row[against], row[value], "o", color=colour, ms=6, label=name)
    ax.axhline(0.5, color=INK, ls=":", lw=1)
    ticks = [0, *10 ** np.arange(int(np.ceil(np.log10(max(table[against].max(), 1)))) + 1)]
    ax.set_xscale("symlog", linthresh=1)  # below one unit the axis is even, so that what is free has its place
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k: long numbers would touch each other
    ax.minorticks_off()
    ax.set(xlabel=against, ylabel=value.replace("_", " "), xlim=(-0.3, 2 * ticks[-1]))
    return ax


def few_shot(rows: pd.DataFrame, ax: Axes, *, value: str = "frame_AUC") -> Axes:
    """AUC by the number of training pairs: every draw a point, the mean a line (columns model, pairs, draw, `value`)."""
    for at, (name, some) in enumerate(rows.groupby("model", sort=False)):
        colour, shift = sns.color_palette("colorblind")[at], 1 + 0.04 * (at - 1)
        ax.plot(some.pairs * shift, some[value], "o", ms=4, color=colour, alpha=0.5)
        mean = some.groupby("pairs")[value].mean()
        ax.plot(mean.index * shift, mean, color=colour, lw=1.6, label=name)
    counts = sorted(rows.pairs.unique())
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set(xticks=counts, xticklabels=counts, xlabel="real/fake pairs in training", ylabel=value.replace("_", " "))
    ax.axhline(0.5, color=INK, ls=":", lw=1)
    ax.legend(fontsize=8)
    return ax


def strengths(rows: pd.DataFrame, axes: Sequence[Axes], *, value: str = "frame_AUC") -> None:
    """One panel a perturbation: AUC by strength, a line a model (columns kind, model, strength, amount, `value`)."""
    for ax, (kind, some) in zip(axes, rows.groupby("kind", sort=False), strict=True):
        for at, (name, line) in enumerate(some.groupby("model", sort=False)):
            ax.plot(line.strength, line[value], "o-", ms=3, lw=1.3, color=sns.color_palette("colorblind")[at], label=name)
        amounts = some.drop_duplicates("strength").amount
        ax.axhline(0.5, color=INK, ls=":", lw=1)
        ax.set(xlabel="strength", xticks=range(len(amounts)))
        ax.set_title(f"{kind}\n{amounts.iloc[1]}\nto {amounts.iloc[-1]}", fontsize=8)
    axes[0].set_ylabel(value.replace("_", " "))
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def looks(images: np.ndarray, masks: np.ndarray, maps: Mapping[str, np.ndarray]) -> Figure:
    """Crops (n, h, w, 3) with the outline of what was changed, (n, h, w), and below them each detector's maps."""
    figure, axes = plt.subplots(1 + len(maps), len(images), squeeze=False,
                                figsize=(1.3 * len(images) + 0.9, 1.35 * (1 + len(maps))))
    side = images.shape[1]
    for at, (image, mask) in enumerate(zip(images, masks, strict=True)):
        for ax, name in zip(axes[:, at], ["changed", *maps], strict=True):
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
            if name in maps:
                ax.imshow(maps[name][at], cmap="magma", alpha=0.55, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
            if mask.any():
                ax.contour(mask, levels=[127], colors="white", linewidths=1)
            if at == 0:
                ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.3)
    return figure
