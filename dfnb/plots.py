"""Tables -> matplotlib Axes. No paths, no models: every picture can be redrawn from a saved table."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dfnb import metrics

COLOURS = dict(zip(("real", "FaceSwap", "NeuralTextures", "Face2Face", "Deepfakes", "FaceShifter"),
                   np.array(sns.color_palette("colorblind"))[[0, 1, 3, 4, 2, 5]].tolist(), strict=True))
INK = "#444444"


def style() -> None:
    """One look for all figures: small, quiet, 100 dpi so that the executed notebooks stay light."""
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.85,
                  rc={"figure.dpi": 100, "savefig.dpi": 100, "axes.spines.top": False,
                      "axes.spines.right": False, "legend.frameon": False, "grid.alpha": 0.4})


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
    """Stacked bars of videos per part (rows) and method (columns)."""
    counts.plot.barh(stacked=True, ax=ax, color=[COLOURS.get(m, INK) for m in counts.columns], width=0.7)
    ax.invert_yaxis()
    ax.set(xlabel="videos", ylabel="")
    ax.grid(axis="y", visible=False)
    return ax


def score_histogram(scores: pd.DataFrame, ax: Axes, *, threshold: float | None = None) -> Axes:
    """Histogram of scores (columns method, score) by class, each class scaled to its own size."""
    bins = np.linspace(0, 1, 26)
    for method, rows in scores.groupby("method", sort=False):
        ax.hist(rows.score, bins=bins, weights=np.full(len(rows), 1 / len(rows)), alpha=0.55,
                label=f"{method} ({len(rows)})", color=COLOURS.get(method, INK))
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
    for _, run in history.groupby("split"):
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
    """Frame scores over time, one line a video (columns method, video, frame, score)."""
    for (method, video), rows in scores.sort_values("frame").groupby(["method", "video"], sort=False):
        colour = COLOURS.get(method, INK)
        ax.plot(rows.frame, rows.score, "o-", ms=4, lw=1.2, color=colour, label=f"{method} {video}")
        ax.axhline(rows.score.mean(), color=colour, lw=0.8, alpha=0.5)
    if threshold is not None:
        ax.axhline(threshold, color=INK, ls="--", lw=1)
    ax.set(xlabel="frame of the file", ylabel="score", ylim=(-0.02, 1.02))
    ax.legend(fontsize=8)
    return ax


def by_split(results: pd.DataFrame, ax: Axes, *, value: str = "AUC") -> Axes:
    """One point a split and model (columns model, split, `value`), the same splits joined by a line."""
    wide = results.pivot(index="model", columns="split", values=value).loc[results.model.unique()]
    places = np.arange(len(wide))
    for split in wide:
        ax.plot(places, wide[split], "o-", color=INK, alpha=0.45, lw=1, ms=4)
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
    least = table.loc[table[against] > 0, against].min()
    ax.set_xscale("symlog", linthresh=max(least, 1e-9) if np.isfinite(least) else 1)
    ax.set(xlabel=against, ylabel=value.replace("_", " "))
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
        ax.set(title=f"{kind}: {amounts.iloc[1]} to {amounts.iloc[-1]}", xlabel="strength", xticks=range(len(amounts)))
        ax.title.set_fontsize(8)
    axes[0].set_ylabel(value.replace("_", " "))
    axes[0].legend(fontsize=8)


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
