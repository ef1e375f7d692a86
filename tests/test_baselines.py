"""Baselines; their contract is in test_detectors.py."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from dfnb import UserError
from dfnb.data.crops import CropView
from dfnb.detectors import baselines
from dfnb.detectors.baselines import Baseline
from dfnb.evaluation import metrics


@pytest.fixture
def store(cued):
    """Four videos of four frames; "b" lost one, "c" two, "d" three of them; a and b are real."""
    table = pd.DataFrame({
        "corpus": "noise", "manipulation": np.repeat(["real", "real", "grid", "grid"], 4),
        "video": np.repeat(list("abcd"), 4), "label": np.repeat([0, 0, 1, 1], 4),
        "frame": list(range(4)) * 4, "row": [0, 1, 2, 3, 0, -1, 1, 2, -1, -1, 0, 1, 0, -1, -1, -1]})
    kept = table[table.row >= 0].reset_index(drop=True)
    return replace(cued[0].select(np.arange(len(kept))), frames=kept, all_frames=table)


def fit(clip, train, validation, kind):
    return Baseline.fit(train, validation, clip=clip, kind=kind)


def test_a_constant_answer_is_fake_and_learns_nothing(clip, cued):
    detector = Baseline.fit(*cued[:2], clip=clip)
    assert (detector.score(cued[2]) == 1).all() and detector.trainable == 0
    assert detector.history[0]["validation_auc"] == 0.5


def test_the_prior_is_the_share_of_fakes_in_training(clip, cued):
    train = cued[0].select(np.r_[np.flatnonzero(cued[0].labels == 1)[:30],
                                 np.flatnonzero(cued[0].labels == 0)[:10]])
    detector = fit(clip, train, cued[1], "prior")
    assert (detector.score(cued[2]) == 0.75).all() and detector.trainable == 1
    assert detector.history[0]["validation_auc"] == 0.5


def test_missingness_is_the_share_of_lost_frames_of_the_video(clip, store):
    detector = fit(clip, store, store, "missingness")
    scores = pd.Series(detector.score(store)).groupby(store.frames.video).unique()
    assert {video: list(values) for video, values in scores.items()} == {
        "a": [0], "b": [0.25], "c": [0.5], "d": [0.75]}
    assert detector.trainable == 0 and detector.history[0]["validation_auc"] == 1
    # a selection knows the frames of the whole store
    some = store.select(store.frames.video == "d")
    assert detector.score(some).tolist() == [0.75]


def test_missingness_needs_a_store(clip, cued):
    with pytest.raises(UserError, match="crops in memory do not say which frames were lost"):
        fit(clip, cued[0], cued[1], "missingness")


def test_sharpness_is_the_log_variance_of_the_laplacian(cued):
    some = cued[0].select(np.arange(3))
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    for value, image in zip(baselines.log_sharpness(some), some.images(), strict=True):
        grey = np.pad(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float), 1, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(grey, (3, 3))
        assert value == pytest.approx(np.log((windows * kernel).sum((2, 3)).var()))


def test_sharpness_finds_blurred_fakes_and_nothing_in_equal_ones(clip, cued):
    def blurred(view):
        images = [cv2.GaussianBlur(image, (0, 0), 0.6) if label else image
                  for image, label in zip(view.images(), view.labels, strict=True)]
        return CropView.of_arrays(np.array(images), view.frames)

    train, validation, test = (blurred(view) for view in cued)
    detector = fit(clip, train, validation, "sharpness")
    assert metrics.auc(test.labels, detector.score(test)) == 1
    assert ((detector.score(test) > 0.5) == test.labels).mean() > 0.9
    assert detector.arrays()["learnt"][0] < 0
    black = CropView.of_arrays(np.zeros((1, 64, 64, 3), np.uint8), test.frames.iloc[:1])
    assert np.isfinite(detector.score(black)).all()


def test_sharpness_is_one_plain_logistic_regression(clip, cued):
    scores = fit(clip, *cued[:2], "sharpness").score(cued[0])
    x = baselines.log_sharpness(cued[0])
    weight = np.where(cued[0].labels, 1 / cued[0].labels.sum(), 1 / (1 - cued[0].labels).sum())
    # at the maximum likelihood, the residual is orthogonal to the intercept and to x
    residual = (scores - cued[0].labels) * weight
    assert abs(residual.sum()) < 1e-3 and abs((residual * (x - x.mean())).sum()) < 1e-3


@pytest.mark.parametrize("kind", baselines.KINDS)
def test_a_saved_answer_scores_the_same_bits(clip, store, kind, tmp_path):
    detector = fit(clip, store, store, kind)
    detector.save(tmp_path)
    loaded = Baseline.load(tmp_path, clip)
    np.testing.assert_array_equal(loaded.score(store), detector.score(store))
    assert loaded.score(store).dtype == np.float32
    assert loaded.metadata == detector.metadata and loaded.trainable == baselines.KINDS[kind]
