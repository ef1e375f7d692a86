"""Full fine-tuning of the image tower."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dfnb import UserError
from dfnb.detectors import DETECTORS, full
from dfnb.evaluation import metrics

SMALL = {"epochs": 2, "batch": 16, "learning_rate": 1e-3}


@pytest.fixture
def detector(clip, cued):
    return full.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)


def test_before_the_first_step_its_features_are_those_of_clip(clip, cued):
    pixels = clip.pixels(cued[0].images(np.arange(8)))
    with torch.no_grad():
        torch.testing.assert_close(full.Classifier(clip).eval().pool(pixels), clip.pooled(pixels))


def test_every_weight_gets_a_gradient_and_clip_itself_stays_as_it_is(clip, cued):
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    full.fit(cued[0], cued[1], clip=clip, seed=0, epochs=1, batch=16)  # `training.fit` raises NoGradient otherwise
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())


def test_trainable_equals_the_formula(clip, detector):
    width, blocks, hidden, patch, tokens = 48, 2, 96, 16, 17
    block = 4 * (width**2 + width) + 2 * width * hidden + hidden + width + 2 * 2 * width
    tower = 3 * patch**2 * width + (tokens + 1) * width + 2 * 2 * width + blocks * block
    assert detector.trainable == tower + width + 1


def test_it_learns_a_planted_cue(clip, cued):
    train, validation, test = cued
    detector = DETECTORS["full"].fit(train, validation, clip=clip, seed=0, **SMALL | {"epochs": 3})
    assert metrics.auc(test.labels, detector.score(test)) > 0.95
    assert {"epoch", "loss", "train_auc", "validation_auc", "best"} <= set(detector.history[0])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(clip, cued, detector):
    again = full.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)
    other = full.fit(cued[0], cued[1], clip=clip, seed=1, **SMALL)
    np.testing.assert_array_equal(again.score(cued[2]), detector.score(cued[2]))
    assert again.history == detector.history
    assert not np.array_equal(other.score(cued[2]), detector.score(cued[2]))


def test_the_score_is_the_head_on_the_features(clip, cued, detector):
    features = detector.features(cued[2])
    assert features.shape == (32, 48) and features.dtype == np.float32
    head = detector.model.head
    logits = features @ head.weight.detach().numpy()[0] + head.bias.item()
    np.testing.assert_allclose(detector.score(cued[2]), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_a_saved_detector_scores_the_same_bits(clip, cued, detector, tmp_path):
    detector.card["threshold"] = 0.25
    detector.save(tmp_path)
    state = torch.random.get_rng_state()
    loaded = full.load(tmp_path, clip)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(loaded.score(cued[2]), detector.score(cued[2]))
    np.testing.assert_array_equal(loaded.features(cued[2]), detector.features(cued[2]))
    assert loaded.card == detector.card and loaded.trainable == detector.trainable
    assert {path.name for path in tmp_path.iterdir()} == {"full.safetensors", "detector.json"}


def test_weights_that_do_not_fit_are_refused(clip, detector, tmp_path):
    detector.save(tmp_path)
    with pytest.raises(UserError, match="was fitted on the CLIP"):
        full.load(tmp_path, clip.untrained(1))
    tensors = load_file(tmp_path / "full.safetensors")
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, tmp_path / "full.safetensors")
    with pytest.raises(UserError, match=f"missing: {lost}"):
        full.load(tmp_path, clip)
    (tmp_path / "full.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        full.load(tmp_path, clip)


def test_senseless_options_are_refused(clip, cued):
    with pytest.raises(UserError, match="epochs must be at least 1, got 0"):
        full.fit(cued[0], cued[1], clip=clip, seed=0, epochs=0)
    with pytest.raises(TypeError, match="rank"):
        full.fit(cued[0], cued[1], clip=clip, seed=0, rank=8)
