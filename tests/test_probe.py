"""The linear probe."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dfnb import UserError
from dfnb.detectors import DETECTORS, probe
from dfnb.evaluation import metrics


@pytest.fixture
def noisy(cued, clip, monkeypatch):
    """The cued crops, but their features are 24 numbers of which one is the label plus noise."""
    generator = np.random.default_rng(2)
    root = cued[0].root
    features = generator.normal(size=(len(root), clip.dim)).astype(np.float32)
    features[:, 5] += 1.2 * root.labels
    monkeypatch.setattr(clip, "image_features", lambda view, kind: features[view.positions])
    return cued


def test_a_probe_separates_a_planted_cue(clip, cued):
    train, validation, test = cued
    for kind in ("projected", "pooled"):
        detector = DETECTORS["probe"].fit(train, validation, clip=clip, seed=0, features=kind)
        scores = detector.score(test)
        assert scores.shape == (32,) and scores.dtype == np.float32
        assert metrics.auc(test.labels, scores) > 0.95
        assert ((scores > 0.5) == test.labels).mean() > 0.9


def test_trainable_counts_the_weights_and_the_bias(clip, cued):
    assert probe.fit(cued[0], cued[1], clip=clip).trainable == clip.dim + 1
    assert probe.fit(cued[0], cued[1], clip=clip, features="pooled").trainable == clip.width + 1


def test_one_c_gives_the_plain_regression_on_standardised_features(clip, noisy):
    train, validation, test = noisy
    x = clip.image_features(train, "projected").astype(float)
    mean, std = x.mean(axis=0), x.std(axis=0)
    plain = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-8).fit((x - mean) / std, train.labels)
    expected = plain.predict_proba((clip.image_features(test, "projected") - mean) / std)[:, 1]
    detector = probe.fit(train, validation, clip=clip, cs=(0.1,))
    np.testing.assert_allclose(detector.score(test), expected, atol=1e-4)


def test_c_is_the_best_on_validation(clip, noisy):
    train, validation, _ = noisy
    detector = probe.fit(train, validation, clip=clip)
    aucs = [row["validation_auc"] for row in detector.history]
    assert len(set(aucs)) > 3
    (best,) = [row for row in detector.history if row["best"]]
    assert best["validation_auc"] == max(aucs) and best["C"] == detector.card["options"]["C"]
    assert metrics.auc(validation.labels, detector.score(validation)) == pytest.approx(max(aucs))


def test_validation_labels_choose_c_and_nothing_else(clip, noisy):
    train, validation, test = noisy
    turned = validation.select(np.arange(len(validation)))
    turned.frames = turned.frames.assign(label=1 - turned.labels)
    one, other = (probe.fit(train, split, clip=clip) for split in (validation, turned))
    assert one.card["options"]["C"] != other.card["options"]["C"]
    again = probe.fit(train, validation, clip=clip, cs=(other.card["options"]["C"],))
    np.testing.assert_allclose(again.score(test), other.score(test), atol=1e-4)


def test_a_saved_probe_scores_the_same_bits(clip, cued, tmp_path):
    detector = probe.fit(cued[0], cued[1], clip=clip)
    detector.card["threshold"] = 0.25
    detector.save(tmp_path / "d")
    loaded = probe.load(tmp_path / "d", clip)
    np.testing.assert_array_equal(loaded.score(cued[2]), detector.score(cued[2]))
    assert loaded.card["threshold"] == 0.25 and loaded.trainable == detector.trainable
    assert {path.suffix for path in (tmp_path / "d").iterdir()} == {".json", ".safetensors"}


def test_a_probe_of_another_clip_or_method_is_refused(clip, cued, tmp_path):
    probe.fit(cued[0], cued[1], clip=clip).save(tmp_path)
    with pytest.raises(UserError, match="was fitted on the CLIP"):
        probe.load(tmp_path, clip.untrained(1))
    with pytest.raises(UserError, match="holds a 'probe' detector, not 'lora'"):
        DETECTORS["lora"].load(tmp_path, clip)
    card = json.loads((tmp_path / "detector.json").read_text())
    card["options"]["features"] = "pooled"
    (tmp_path / "detector.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="of another shape: weight"):
        probe.load(tmp_path, clip)
    with pytest.raises(UserError, match="holds no detector"):
        probe.load(tmp_path / "nothing", clip)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "mean"}, "features must be one of projected, pooled, got 'mean'"),
        ({"cs": ()}, r"cs must be positive numbers, got \[\]"),
        ({"cs": (1.0, 0.0)}, r"cs must be positive numbers, got \[1.0, 0.0\]"),
    ],
)
def test_senseless_options_are_refused(clip, cued, options, message):
    with pytest.raises(UserError, match=message):
        probe.fit(cued[0], cued[1], clip=clip, **options)
