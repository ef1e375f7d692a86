"""Where a detector looks."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from dfnb import UserError
from dfnb.data.crops import CropView
from dfnb.detectors import DETECTORS
from dfnb.models import saliency
from dfnb.models.encoder import enter, leave

TRAINED = {"epochs": 6, "patience": None, "batch": 16}
FITS = {  # those that find the cue -> detector and options
    "probe": ("probe", {}),
    "pooled probe": ("probe", {"features": "pooled"}),
    "lora": ("lora", {"rank": 4, "learning_rate": 5e-3} | TRAINED),
    "lora, last block": ("lora", {"rank": 4, "blocks": 1, "learning_rate": 5e-3} | TRAINED),
    "full": ("full", {"learning_rate": 1e-3} | TRAINED)}
OTHERS = {
    "layernorm": ("layernorm", TRAINED),
    "prompt": ("prompt", {"epochs": 1}),
    "zero_shot": ("zero_shot", {})}


def fit(name: str, split_views, clip):
    """Return a fitted detector of `FITS` or `OTHERS`."""
    detector, options = (FITS | OTHERS)[name]
    return DETECTORS[detector].fit(*split_views[:2], clip=clip, **options)


@pytest.fixture
def quartered():
    """Training, validation and test crops (96, 32, 32) of noise; a fake has a grid in a
    quadrant.
    """
    generator = np.random.default_rng(0)
    labels, quadrants = generator.permutation(np.arange(160) % 2), generator.integers(0, 4, 160)
    places = np.indices((64, 64))
    inside = labels[:, None, None] * (2 * (places[0] // 32) + places[1] // 32 == quadrants[:, None,
                                                                                           None])
    grid = 60 * (places.sum(axis=0) // 4 % 2)
    images = generator.integers(60, 160, (160, 64, 64, 3)) + (inside * grid)[..., None]
    frames = pd.DataFrame({
        "corpus": "noise", "manipulation": np.where(labels, "grid", "real"), "label": labels,
        "frame": 0})
    frames = frames.assign(video=[f"{at:03d}" for at in range(160)], quadrant=quadrants)
    whole = CropView.of_arrays(images.astype(np.uint8), frames)
    return tuple(whole.select(rows) for rows in np.split(np.arange(160), [96, 128]))


def share_in_quadrant(maps: np.ndarray, view) -> float:
    """Return the mean share of relevance in the quadrant of the cue over the fakes; chance 0.25."""
    quarters = maps.reshape(-1, 2, 2, 2, 2).sum(axis=(2, 4)).reshape(-1, 4)  # maps (n, 4, 4)
    shares = quarters / quarters.sum(axis=1, keepdims=True)
    fake = view.labels == 1
    return shares[fake, view.frames.quadrant[fake]].mean()


@pytest.mark.parametrize("name", FITS)
def test_relevance_is_high_where_the_cue_is(clip, quartered, name):
    test = quartered[2]
    found = fit(name, quartered, clip).maps(test)
    assert found.shape == (32, 4, 4)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert share_in_quadrant(found, test) > (0.45 if "probe" in name else 0.7)


@pytest.mark.parametrize("name", [*FITS, *OTHERS])
def test_the_logit_that_is_followed_is_that_of_the_score(clip, quartered, name):
    test = quartered[2].select(np.arange(8))
    detector = fit(name, quartered, clip)
    encoder, pixels = detector.encoder, clip.pixels(test.images())
    with torch.no_grad():
        logits = detector.logit_of_pooled(leave(encoder, enter(encoder, pixels, 0), 0)).numpy()
    scores = detector.score(test).astype(float)
    # a probe's bias and CLIP's scale are left out
    slope, shift = np.polyfit(logits, np.log(scores / (1 - scores)), 1)
    np.testing.assert_allclose(1 / (1 + np.exp(-slope * logits - shift)), scores, atol=1e-5)
    assert slope > 0
    assert detector.maps(test).shape == (8, 4, 4)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_maps_need_what_was_learnt(clip, quartered, name):
    """Randomise the head, then all that was trained (Adebayo et al., 2018): the maps change."""
    test = quartered[2].select(quartered[2].labels == 1)
    detector = fit(name, quartered, clip)
    before, alike, shares = detector.maps(test), {"head": [], "all": []}, []
    for seed in range(5):
        torch.manual_seed(seed)
        detector.model.head.reset_parameters()
        alike["head"].append(likeness(before, detector.maps(test)))
        untrained = type(detector)(clip, detector.options, seed=seed)
        for weights in untrained.encoder.encoder.layers.parameters() if name == "full" else []:
            torch.nn.init.normal_(weights, std=0.05)
        after = untrained.maps(test)
        alike["all"].append(likeness(before, after))
        shares.append(share_in_quadrant(after, test))
    assert np.mean(alike["all"]) < np.mean(alike["head"]) < 0.9
    assert np.mean(alike["all"]) < 0.4
    assert np.mean(shares) < share_in_quadrant(before, test) - 0.2


def likeness(some: np.ndarray, others: np.ndarray) -> float:
    """Mean rank correlation of the patches of two maps of one crop."""
    return np.mean(
        [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(some, others, strict=True)])


def test_the_attention_read_is_that_of_the_encoder(clip, quartered):
    detector = fit("lora", quartered, clip)
    encoder, pixels = detector.encoder, clip.pixels(quartered[2].images(slice(5)))
    with torch.no_grad():
        hidden = enter(encoder, pixels, 0)
        for layer in encoder.encoder.layers:
            hidden, attention = saliency.attend(layer, hidden)
            # (n, heads, tokens)
            torch.testing.assert_close(attention.sum(dim=-1), torch.ones(5, 2, 17))
        expected = leave(encoder, enter(encoder, pixels, 0), 0)
        torch.testing.assert_close(encoder.post_layernorm(hidden[:, 0]), expected)


def test_maps_neither_depend_on_the_batch_nor_touch_the_detector(clip, quartered, monkeypatch):
    detector, test = fit("full", quartered, clip), quartered[2]
    detector.model.zero_grad()
    before, weights = detector.maps(test), copy.deepcopy(detector.model.state_dict())
    monkeypatch.setattr(saliency, "HELD", 1)  # one crop at a time
    np.testing.assert_allclose(detector.maps(test), before, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(detector.maps(test.select([7, 3])), before[[7, 3]], rtol=1e-4,
                               atol=1e-7)
    assert all(value.grad is None for value in detector.model.parameters())
    assert all(
        torch.equal(value, weights[name]) for name, value in detector.model.state_dict().items())


def test_the_last_blocks_can_be_asked_alone(clip, quartered):
    detector, test = fit("lora", quartered, clip), quartered[2]
    last, both = (detector.maps(test, blocks=blocks) for blocks in (1, 2))
    np.testing.assert_array_equal(both, detector.maps(test))
    assert (both > last - 1e-6).all()  # what earlier blocks carry is added
    assert (both > 1.01 * last).any()
    with pytest.raises(UserError, match="blocks must lie between 1 and the encoder's 2, got 3"):
        detector.maps(test, blocks=3)
