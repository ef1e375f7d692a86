"""Figures show what the tables say: the tests read it back from the Axes, not from pixels."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dfnb.data import leak_splits
from dfnb.evaluation import plots


@pytest.fixture
def ax():
    yield plt.figure().add_subplot()
    plt.close("all")


def names(labels) -> list[str]:
    return [label.get_text() for label in labels]


def test_a_gallery_has_a_row_per_class_and_shows_the_pixels(ax):
    images = np.full((3, 8, 8, 3), 7, np.uint8)
    rows = {"real": images, "FaceSwap": images[:2]}
    axes = plots.gallery(rows, columns=["000", "001", "002"]).axes
    assert [ax.get_ylabel() for ax in axes[::3]] == ["real", "FaceSwap"]
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 1, 1, 0]
    assert (axes[0].images[0].get_array() == 7).all()


def test_names_with_dollars_are_drawn_as_text(ax):
    plots.style()
    images = np.zeros((1, 8, 8, 3), np.uint8)
    figure = plots.gallery({"$\\frac": images}, columns=["$\\nonsense{$"])
    figure.canvas.draw()  # a formula with a mistake would raise here
    assert figure.axes[0].get_ylabel() == "$\\frac"


def test_a_roc_runs_from_corner_to_corner(ax):
    rows = pd.DataFrame({"label": [0, 0, 1, 1], "score": [0.1, 0.6, 0.4, 0.9]})
    points = plots.roc({"model": rows}, ax).lines[0].get_xydata().tolist()
    assert (points[0], points[-1]) == ([0, 0], [1, 1])
    assert [0.0, 0.5] in points  # the fake at .9 is found before any real is called fake
    assert names(ax.get_legend().texts) == ["model (AUC = 0.75)"]


def test_each_class_of_a_histogram_sums_to_one(ax):
    rows = pd.DataFrame({"manipulation": ["real"] * 3 + ["FaceSwap"], "score": [0.1, 0.1, 0.9, 1]})
    plots.score_histogram(rows, ax, threshold=0.5)
    heights = [sum(patch.get_height() for patch in bars) for bars in ax.containers]
    np.testing.assert_allclose(heights, [1, 1])
    assert {"real (3)", "FaceSwap (1)"} < set(names(ax.get_legend().texts))


def test_a_confusion_matrix_has_the_truth_in_rows(ax):
    plots.confusion({"TP": 3, "FP": 1, "FN": 2, "TN": 4}, ax)
    assert names(ax.texts) == ["4", "1", "2", "3"]


def test_every_run_of_training_is_a_line_and_the_epochs_kept_are_marked(ax):
    run = {"epoch": [1, 2, 3], "loss": [1.0, 0.5, 0.2], "train_auc": [0.5, 0.8, 0.9]}
    history = pd.concat([pd.DataFrame(run | {"split_seed": seed, "validation_auc": aucs})
                         for seed, aucs in enumerate([[0.6, 0.7, 0.65], [0.5, 0.6, 0.8]])])
    plots.training_curves(history, plt.figure().add_subplot(), ax)
    assert sum(len(line.get_xdata()) == 3 for line in ax.lines) == 4
    marked = next(line for line in ax.lines if line.get_label() == "epoch kept")
    assert marked.get_xydata().tolist() == [[2.0, 0.7], [3.0, 0.8]]


def test_every_split_seed_is_a_line_and_the_mean_is_a_mark(ax):
    results = pd.DataFrame({"model": ["b", "a"] * 2, "split_seed": [0, 0, 1, 1],
                            "AUC": [0.5, 0.7, 0.6, 0.9]})
    plots.by_split(results, ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.7])
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [0.55, 0.8])
    assert names(ax.get_xticklabels()) == ["b", "a"]


def test_intervals_keep_the_order_of_the_table(ax):
    table = pd.DataFrame({"video_AUC": [0.9, 0.6], "low": [0.8, 0.4], "high": [0.95, 0.7]},
                         index=["best", "worst"])
    plots.intervals(table, ax, value="video_AUC")
    assert names(ax.get_yticklabels()) == ["best", "worst"]
    np.testing.assert_allclose(ax.lines[0].get_data(), [[0.9, 0.6], [1, 0]])
    np.testing.assert_allclose(ax.collections[0].get_segments()[0], [[0.8, 1], [0.95, 1]])
    assert ax.get_xlabel() == "video AUC"


def test_a_timeline_follows_the_frames(ax):
    rows = pd.DataFrame({"manipulation": "real", "video": "000", "frame": [9, 0, 4],
                         "score": [0.3, 0.1, 0.2]})
    plots.timeline(rows, ax, threshold=0.5)
    np.testing.assert_allclose(ax.lines[0].get_data(), [[0, 4, 9], [0.1, 0.2, 0.3]])


def test_cost_shows_every_model_and_those_without_cost_too(ax):
    table = pd.DataFrame({"model": ["free", "dear"], "trained": [0, 1000], "video_AUC": [0.5, 0.9],
                          "video_low": [0.4, 0.8], "video_high": [0.6, 0.95]})
    plots.cost(table, ax, against="trained")
    points = {line.get_label(): line.get_xydata().tolist() for line in ax.lines[:2]}
    assert points == {"free": [[0.0, 0.5]], "dear": [[1000.0, 0.9]]}
    assert ax.collections[0].get_segments()[1].tolist() == [[1000, 0.8], [1000, 0.95]]
    assert ax.get_xlim()[0] < 0 < 1000 < ax.get_xlim()[1]
    assert names(ax.get_xticklabels()) == ["0", "1", "10", "100", "1k"]


def test_every_draw_of_few_pairs_is_a_point_and_the_mean_is_a_line(ax):
    rows = pd.DataFrame({"model": "a", "pairs": [10, 10, 25, 25], "draw": [0, 1, 0, 1],
                         "frame_AUC": [0.5, 0.7, 0.8, 0.6]})
    plots.few_shot(rows, ax)
    assert ax.collections[0].get_offsets()[:, 1].tolist() == [0.5, 0.7, 0.8, 0.6]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.6, 0.7])
    assert names(ax.get_xticklabels()) == ["10", "25"]


def test_each_perturbation_has_a_panel(ax):
    rows = pd.DataFrame([
        {"model": model, "kind": kind, "strength": at, "amount": f"{at} units",
         "frame_AUC": 1 - at / 10} for model in "ab" for kind in ("blur", "noise")
        for at in range(3)])
    axes = plots.strengths(rows).axes
    assert [ax.get_title() for ax in axes] == ["blur\n1 units\nto 2 units",
                                               "noise\n1 units\nto 2 units"]
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), [1, 0.9, 0.8])


def test_maps_have_a_row_for_the_change_and_one_for_each_detector(ax):
    images, masks = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8)
    masks[0, 2:6, 2:6] = 255  # in the second crop nothing was changed
    axes = plots.relevance_maps(images, masks, {"LoRA": np.eye(8).reshape(2, 4, 8)[:, :, :4]}).axes
    assert [ax.get_ylabel() for ax in axes[::2]] == ["changed", "LoRA"]
    assert [len(ax.images) for ax in axes] == [1, 1, 2, 2]
    assert [bool(ax.collections) for ax in axes] == [True, False, True, False]


def test_the_drawing_of_a_pair_shows_as_many_training_videos_in_every_design():
    figure = plots.pair_and_twin(leak_splits.DESIGNS, leak_splits.ROLES)
    for ax in figure.axes:
        coloured = [patch.get_y() for patch in ax.patches if patch.get_facecolor() != (1, 1, 1, 1)]
        rows = np.unique(np.round(coloured, 2), return_counts=True)[1]
        assert rows.tolist() == [len(leak_splits.ROLES)] * len(leak_splits.DESIGNS)
        assert [text.get_text() for text in ax.texts] == ["test"] * len(leak_splits.DESIGNS)
