"""Where a detector looks."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from dfnb import UserError
from dfnb.data.crops import CropView
from dfnb.detectors import full, layernorm, lora, probe, prompt, zero_shot
from dfnb.models import saliency
from dfnb.models.encoder import enter, leave

TRAINED = {"epochs": 6, "patience": None, "batch": 16}
FITS = {
    "probe": lambda split_table, clip: probe.fit(*split_table[:2], clip=clip),
    "pooled probe": lambda split_table, clip: probe.fit(*split_table[:2], clip=clip, features="pooled"),
    "lora": lambda split_table, clip: lora.fit(*split_table[:2], clip=clip, seed=0, rank=4, learning_rate=5e-3, **TRAINED),
    "lora, last block": lambda split_table, clip: lora.fit(
        *split_table[:2], clip=clip, seed=0, rank=4, blocks=1, learning_rate=5e-3, **TRAINED),
    "full": lambda split_table, clip: full.fit(*split_table[:2], clip=clip, seed=0, learning_rate=1e-3, **TRAINED),
}


OTHERS = {
    "layernorm": lambda split_table, clip: layernorm.fit(*split_table[:2], clip=clip, seed=0, **TRAINED),
    "prompt": lambda split_table, clip: prompt.fit(*split_table[:2], clip=clip, seed=0, epochs=1),
    "zero_shot": lambda split_table, clip: zero_shot.fit(*split_table[:2], clip=clip),
}


@pytest.fixture
def quartered():
    """Training, validation and test crops (96, 32, 32) of noise; a fake has a grid in one quadrant, drawn anew."""
    generator = np.random.default_rng(0)
    labels, quadrants = generator.permutation(np.arange(160) % 2), generator.integers(0, 4, 160)
    places = np.indices((64, 64))
    inside = labels[:, None, None] * (2 * (places[0] // 32) + places[1] // 32 == quadrants[:, None, None])
    grid = 60 * (places.sum(axis=0) // 4 % 2)
    images = generator.integers(60, 160, (160, 64, 64, 3)) + (inside * grid)[..., None]
    frames = pd.DataFrame({"corpus": "noise", "manipulation": np.where(labels, "grid", "real"), "label": labels, "frame": 0})
    frames = frames.assign(video=[f"{at:03d}" for at in range(160)], quadrant=quadrants)
    whole = CropView.of_arrays(images.astype(np.uint8), frames)
    return tuple(whole.select(rows) for rows in np.split(np.arange(160), [96, 128]))


def share_in_quadrant(maps: np.ndarray, view) -> float:
    """Mean share of a map's relevance that lies in the quadrant of the cue, over the fakes; by chance 0.25."""
    quarters = maps.reshape(-1, 2, 2, 2, 2).sum(axis=(2, 4)).reshape(-1, 4)  # maps (n, 4, 4)
    shares = quarters / quarters.sum(axis=1, keepdims=True)
    fake = view.labels == 1
    return shares[fake, view.frames.quadrant[fake]].mean()


@pytest.mark.parametrize("name", FITS)
def test_relevance_is_high_where_the_cue_is(clip, quartered, name):
    test = quartered[2]
    found = saliency.maps(FITS[name](quartered, clip), test)
    assert found.shape == (32, 4, 4)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert share_in_quadrant(found, test) > (0.45 if "probe" in name else 0.7)


@pytest.mark.parametrize("name", [*FITS, *OTHERS])
def test_the_logit_that_is_followed_is_that_of_the_score(clip, quartered, name):
    test = quartered[2].select(np.arange(8))
    detector = (FITS | OTHERS)[name](quartered, clip)
    tower, logit = saliency._parts(detector)
    with torch.no_grad():
        logits = logit(leave(tower, enter(tower, clip.pixels(test.images()), 0), 0)).numpy()
    scores = detector.score(test).astype(float)
    slope, shift = np.polyfit(logits, np.log(scores / (1 - scores)), 1)  # a probe's bias and CLIP's scale are left out
    np.testing.assert_allclose(1 / (1 + np.exp(-slope * logits - shift)), scores, atol=1e-5)
    assert slope > 0
    assert saliency.maps(detector, test).shape == (8, 4, 4)


@pytest.mark.parametrize(("method", "name"), [(lora, "lora"), (full, "full")])
def test_maps_need_what_was_learnt(clip, quartered, method, name):
    """Adebayo et al., 2018: from the head down, randomise what was trained; what then stays the same explains nothing."""
    test = quartered[2].select(quartered[2].labels == 1)
    detector = FITS[name](quartered, clip)
    before = saliency.maps(detector, test)
    shape = {key: detector.card["options"][key] for key in ("rank", "alpha", "dropout", "blocks")} if method is lora else {}
    alike, shares = {"head": [], "all": []}, []
    for seed in range(5):
        torch.manual_seed(seed)
        detector.model.head.reset_parameters()
        alike["head"].append(likeness(before, saliency.maps(detector, test)))
        untrained = method.Classifier(clip, **shape)
        for weights in untrained.tower.encoder.layers.parameters() if method is full else []:
            torch.nn.init.normal_(weights, std=0.05)
        after = saliency.maps(type(detector)(clip, untrained, detector.card), test)
        alike["all"].append(likeness(before, after))
        shares.append(share_in_quadrant(after, test))
    assert np.mean(alike["all"]) < np.mean(alike["head"]) < 0.9
    assert np.mean(alike["all"]) < 0.4
    assert np.mean(shares) < share_in_quadrant(before, test) - 0.2


def likeness(some: np.ndarray, others: np.ndarray) -> float:
    """Mean rank correlation of the patches of two maps of one crop."""
    return np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(some, others, strict=True)])


def test_the_attention_read_is_that_of_the_tower(clip, quartered):
    detector = FITS["lora"](quartered, clip)
    tower, pixels = detector.model.tower.get_base_model(), clip.pixels(quartered[2].images(slice(5)))
    with torch.no_grad():
        hidden = enter(tower, pixels, 0)
        for layer in tower.encoder.layers:
            hidden, attention = saliency.attend(layer, hidden)
            torch.testing.assert_close(attention.sum(dim=-1), torch.ones(5, 2, 17))  # (n, heads, tokens)
        torch.testing.assert_close(tower.post_layernorm(hidden[:, 0]), leave(tower, enter(tower, pixels, 0), 0))


def test_maps_neither_depend_on_the_batch_nor_touch_the_detector(clip, quartered, monkeypatch):
    detector, test = FITS["full"](quartered, clip), quartered[2]
    detector.model.zero_grad()
    before, weights = saliency.maps(detector, test), copy.deepcopy(detector.model.state_dict())
    monkeypatch.setattr(saliency, "CELLS", 1)  # one crop at a time
    np.testing.assert_allclose(saliency.maps(detector, test), before, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(saliency.maps(detector, test.select([7, 3])), before[[7, 3]], rtol=1e-4, atol=1e-7)
    assert all(value.grad is None for value in detector.model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in detector.model.state_dict().items())


def test_the_last_blocks_can_be_asked_alone(clip, quartered):
    detector, test = FITS["lora"](quartered, clip), quartered[2]
    last, both = (saliency.maps(detector, test, blocks=blocks) for blocks in (1, 2))
    np.testing.assert_array_equal(both, saliency.maps(detector, test))
    assert (both > last - 1e-6).all()  # what earlier blocks carry is added
    assert (both > 1.01 * last).any()
    with pytest.raises(UserError, match="blocks must lie between 1 and the tower's 2, got 3"):
        saliency.maps(detector, test, blocks=3)


def test_a_detector_may_have_maps_of_its_own_and_must_have_a_tower_else(quartered):
    class Own:
        def maps(self, view):
            return np.ones((len(view), 3, 3))

    assert saliency.maps(Own(), quartered[2]).shape == (32, 3, 3)
    with pytest.raises(UserError, match="a detector of the kind object has no image tower"):
        saliency.maps(object(), quartered[2])
