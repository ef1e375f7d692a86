"""Nearest neighbours: by hand, on a planted cue, saved and loaded."""

import numpy as np
import pytest

from dfnb import UserError
from dfnb.detectors import DETECTORS, neighbours
from dfnb.evaluation import metrics


def test_a_crop_leans_to_the_class_of_its_nearest():
    bank = {"real": np.array([[1.0, 0], [0, 1]], np.float32), "fake": np.array([[0, -1.0], [-1, 0]], np.float32)}
    asked = np.array([[1.0, 0], [0, -1]], np.float32)  # nearest real at cosine 1, fake at 0; and the reverse
    np.testing.assert_allclose(neighbours._lean(asked, bank, 1), [0.25, 0.75])


def test_it_finds_a_cue_and_keeps_the_k_that_validation_chose(clip, cued):
    train, validation, test = cued
    detector = DETECTORS["neighbours"].fit(train, validation, clip=clip, seed=0)
    assert metrics.auc(test.labels, detector.score(test)) > 0.8
    best = max(detector.history, key=lambda row: (row["validation_auc"], -row["validation_loss"]))
    assert best["best"] and best["k"] == detector.card["options"]["k"]
    assert detector.trainable == 0


def test_what_is_saved_scores_the_same(clip, cued, tmp_path):
    train, validation, test = cued
    detector = neighbours.fit(train, validation, clip=clip)
    detector.save(tmp_path)
    np.testing.assert_array_equal(neighbours.load(tmp_path, clip).score(test), detector.score(test))


def test_more_neighbours_than_crops_are_refused(clip, cued):
    with pytest.raises(UserError, match="ks must lie between 1 and"):
        neighbours.fit(*cued[:2], clip=clip, ks=(1000,))
