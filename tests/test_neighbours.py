"""Nearest neighbours; the contract is in test_detectors.py."""

import numpy as np

from dfnb.detectors import neighbours
from dfnb.detectors.neighbours import Neighbours


def test_a_crop_leans_to_the_class_of_its_nearest():
    bank = {"real": np.array([[1.0, 0], [0, 1]], np.float32),
            "fake": np.array([[0, -1.0], [-1, 0]], np.float32)}
    features = np.array([[1.0, 0], [0, -1]], np.float32)  # nearest real at cosine 1, fake at 0
    np.testing.assert_allclose(neighbours.lean(features, bank, 1), [0.25, 0.75])


def test_it_keeps_the_k_that_validation_chose(clip, cued):
    detector = Neighbours.fit(*cued[:2], clip=clip)
    (best,) = [row for row in detector.history if row["best"]]
    assert best["k"] == detector.options["k"] and len(detector.history) == len(neighbours.KS)
