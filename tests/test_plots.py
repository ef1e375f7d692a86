"""Plots draw what the tables say: read back from the Axes, not from pixels."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dfnb.evaluation import plots


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_a_gallery_has_a_row_a_class_and_shows_the_pixels():
    images = np.full((3, 8, 8, 3), 7, np.uint8)
    figure = plots.gallery({"real": images, "FaceSwap": images[:2]}, columns=["000", "001", "002"])
    assert len(figure.axes) == 6
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["real", "FaceSwap"]
    assert (figure.axes[0].images[0].get_array() == 7).all()
    assert not figure.axes[5].images  # the shorter row leaves its place empty
    plt.close(figure)


def test_names_with_dollars_are_drawn_as_they_are():
    plots.style()
    figure = plots.gallery({"$\\frac": np.zeros((1, 8, 8, 3), np.uint8)}, columns=["$\\nonsense{$"])
    figure.canvas.draw()  # a formula with a mistake in it is an error here
    plt.close(figure)


def test_a_roc_runs_from_corner_to_corner(ax):
    plots.roc({"model": pd.DataFrame({"label": [0, 0, 1, 1], "score": [0.1, 0.6, 0.4, 0.9]})}, ax)
    x, y = ax.lines[0].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (0.0, 0.5) in zip(x, y, strict=True)  # the fake at .9 is found before any real is called fake


def test_each_class_of_a_histogram_sums_to_one(ax):
    rows = pd.DataFrame({"manipulation": ["real"] * 3 + ["FaceSwap"], "score": [0.1, 0.1, 0.9, 0.8]})
    plots.score_histogram(rows, ax, threshold=0.5)
    heights = [sum(patch.get_height() for patch in bars) for bars in ax.containers]
    np.testing.assert_allclose(heights, [1, 1])


def test_a_confusion_matrix_has_the_truth_in_rows(ax):
    plots.confusion({"TP": 3, "FP": 1, "FN": 2, "TN": 4}, ax)
    assert [text.get_text() for text in ax.texts] == ["4", "1", "2", "3"]


def test_the_epoch_kept_is_marked(ax):
    history = pd.DataFrame({"split_seed": 0, "epoch": [1, 2, 3], "loss": [1.0, 0.5, 0.2],
                            "train_auc": [0.5, 0.8, 0.9], "validation_auc": [0.6, 0.7, 0.65]})
    plots.training_curves(history, ax, ax)
    marked = [line.get_data() for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert [(float(x[0]), float(y[0])) for x, y in marked] == [(2.0, 0.7)]


def test_every_split_is_a_line_and_the_mean_a_mark(ax):
    results = pd.DataFrame({"model": ["a", "b"] * 2, "split_seed": [0, 0, 1, 1], "AUC": [0.5, 0.7, 0.6, 0.9]})
    plots.by_split(results, ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.7])
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [0.55, 0.8])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]


def test_intervals_keep_the_order_of_the_table(ax):
    table = pd.DataFrame({"AUC": [0.9, 0.6], "low": [0.8, 0.4], "high": [0.95, 0.7]}, index=["best", "worst"])
    plots.intervals(table, ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["best", "worst"]
    np.testing.assert_allclose(ax.lines[0].get_data(), [[0.9, 0.6], [1, 0]])


def test_a_timeline_follows_the_frames(ax):
    rows = pd.DataFrame({"manipulation": "real", "video": "000", "frame": [9, 0, 4], "score": [0.3, 0.1, 0.2]})
    plots.timeline(rows, ax, threshold=0.5)
    np.testing.assert_allclose(ax.lines[0].get_data(), [[0, 4, 9], [0.1, 0.2, 0.3]])


def test_cost_shows_every_model_free_ones_too(ax):
    table = pd.DataFrame({"model": ["free", "dear"], "trained": [0, 1000], "video_AUC": [0.5, 0.9],
                          "video_low": [0.4, 0.8], "video_high": [0.6, 0.95]})
    plots.cost(table, ax, against="trained")
    points = [(line.get_label(), *map(float, line.get_xydata()[0])) for line in ax.lines if line.get_marker() == "o"]
    assert points == [("free", 0.0, 0.5), ("dear", 1000.0, 0.9)]
    assert ax.get_xlim()[0] < 0 < 1000 < ax.get_xlim()[1]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "10", "100", "1k"]


def test_every_draw_of_few_pairs_is_a_point_and_the_mean_a_line(ax):
    rows = pd.DataFrame({"model": "a", "pairs": [10, 10, 25, 25], "draw": [0, 1, 0, 1], "frame_AUC": [0.5, 0.7, 0.8, 0.6]})
    plots.few_shot(rows, ax)
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert [0.5, 0.7, 0.8, 0.6] in drawn.values() and drawn["a"] == pytest.approx([0.6, 0.7])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10", "25"]


def test_each_perturbation_has_its_panel():
    rows = pd.DataFrame([{"model": model, "kind": kind, "strength": at, "amount": f"{at} units", "frame_AUC": 1 - at / 10}
                         for model in "ab" for kind in ("blur", "noise") for at in range(3)])
    figure, axes = plt.subplots(1, 2)
    plots.strengths(rows, axes)
    assert [ax.get_title() for ax in axes] == ["blur\n1 units\nto 2 units", "noise\n1 units\nto 2 units"]
    assert list(axes[1].lines[0].get_ydata()) == pytest.approx([1, 0.9, 0.8])
    plt.close(figure)


def test_looks_have_a_row_for_the_change_and_one_for_each_detector():
    images, masks = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8)
    masks[0, 2:6, 2:6] = 255
    figure = plots.looks(images, masks, {"LoRA": np.random.default_rng(0).random((2, 4, 4))})
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["changed", "LoRA"]
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 2, 2]
    assert [bool(ax.collections) for ax in figure.axes] == [True, False, True, False]  # nothing was changed in the second
    plt.close(figure)
