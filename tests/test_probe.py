"""The linear probe; its contract is in test_detectors.py."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dfnb import UserError
from dfnb.detectors.probe import Probe
from dfnb.evaluation import metrics


@pytest.fixture
def noisy(cued, clip, monkeypatch):
    """The cued crops, with features of 24 numbers of which one is the label plus noise."""
    generator = np.random.default_rng(2)
    root = cued[0].root
    features = generator.normal(size=(len(root), clip.dim)).astype(np.float32)
    features[:, 5] += 1.2 * root.labels
    monkeypatch.setattr(clip, "image_features", lambda view, kind: features[view.positions])
    return cued


def test_a_probe_of_both_kinds_of_features_separates_a_planted_cue(clip, cued, tmp_path):
    train, validation, test = cued
    for features, size in (("projected", clip.dim), ("pooled", clip.width)):
        detector = Probe.fit(train, validation, clip=clip, features=features)
        assert detector.trainable == size + 1
        scores = detector.score(test)
        assert metrics.auc(test.labels, scores) > 0.95
        assert ((scores > 0.5) == test.labels).mean() > 0.9
    detector.save(tmp_path)
    metadata = json.loads((tmp_path / "detector.json").read_text())
    metadata["options"]["features"] = "projected"
    (tmp_path / "detector.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="of another shape: weight"):
        Probe.load(tmp_path, clip)


def test_one_c_gives_the_plain_regression_on_standardised_features(clip, noisy):
    train, validation, test = noisy
    x = clip.image_features(train, "projected").astype(float)
    mean, std = x.mean(axis=0), x.std(axis=0)
    plain = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-8)
    plain.fit((x - mean) / std, train.labels)
    x = clip.image_features(test, "projected")
    expected = plain.predict_proba((x - mean) / std)[:, 1]
    detector = Probe.fit(train, validation, clip=clip, cs=(0.1,))
    np.testing.assert_allclose(detector.score(test), expected, atol=1e-4)


def test_c_is_the_best_on_validation(clip, noisy):
    train, validation, _ = noisy
    detector = Probe.fit(train, validation, clip=clip)
    assert len({row["validation_auc"] for row in detector.history}) > 3
    (best,) = [row for row in detector.history if row["best"]]
    assert best["C"] == detector.options["C"]


def test_validation_labels_choose_c_and_nothing_else(clip, noisy):
    train, validation, test = noisy
    turned = validation.select(np.arange(len(validation)))
    turned.frames = turned.frames.assign(label=1 - turned.labels)
    one, other = (Probe.fit(train, split, clip=clip) for split in (validation, turned))
    assert one.options["C"] != other.options["C"]
    again = Probe.fit(train, validation, clip=clip, cs=(other.options["C"],))
    np.testing.assert_allclose(again.score(test), other.score(test), atol=1e-4)
