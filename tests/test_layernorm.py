"""LN-tuning; its contract is in test_detectors.py."""

import math

import numpy as np
import peft
import pytest
import torch
import transformers

from dfnb.detectors import layernorm
from dfnb.detectors.layernorm import LayerNorm
from dfnb.evaluation import metrics

SMALL = {"epochs": 2, "batch": 16, "learning_rate": 0.02}


@pytest.fixture
def pixels(clip, cued):
    return clip.pixels(cued[0].images(np.arange(8)))


@pytest.fixture
def detector(clip, cued):
    return LayerNorm.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)


def test_adapting_changes_nothing_before_the_first_step(clip, pixels):
    before = clip.trainable_encoder()(pixels).pooler_output  # (n, width)
    after = layernorm.adapt(clip.trainable_encoder())(pixels).pooler_output
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    pooled = LayerNorm.build(clip, {}).eval().pool(pixels)
    torch.testing.assert_close(pooled, torch.nn.functional.normalize(before, dim=-1))


def test_only_gains_and_biases_and_the_head_move_and_all_of_them_do(clip, cued, detector):
    torch.manual_seed(0)
    fresh = dict(LayerNorm.build(clip, {}).named_parameters())
    moved = {name for name, value in detector.model.named_parameters()
             if not torch.equal(value, fresh[name])}
    assert moved == {name for name in fresh
                     if "ln_tuning_layers" in name or name.startswith("head.")}
    # gain and bias of two norms per block and of two around them, and the head
    assert len(moved) == 2 * (2 * 2 + 2) + 2


def test_the_formula_gives_the_published_sizes():
    assert [2 * width * (2 * blocks + 2)
            for width, blocks in ((768, 12), (1024, 24))] == [39_936, 102_400]


def test_uniformity_and_alignment_equal_the_hand_computation():
    # squared distances 2 (1-2), 4 (1-3), 2 (2-3)
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert layernorm.uniformity(features).item() == pytest.approx(expected, rel=1e-5)
    assert layernorm.alignment(features, torch.tensor([0, 1, 0])).item() == pytest.approx(4)
    assert layernorm.alignment(features, torch.tensor([0, 0, 0])).item() == pytest.approx(8 / 3)
    assert layernorm.alignment(features[:2], torch.tensor([0, 1])).item() == 0


def test_spread_features_are_more_uniform_and_close_ones_better_aligned():
    angles = torch.linspace(0, 2 * math.pi, 9)[:8]
    spread = torch.stack([angles.cos(), angles.sin()], dim=1)
    close = torch.nn.functional.normalize(spread + torch.tensor([3.0, 0.0]), dim=1)
    labels = torch.arange(8) % 2
    assert layernorm.uniformity(spread) < layernorm.uniformity(close)
    assert layernorm.alignment(close, labels) < layernorm.alignment(spread, labels)


def test_the_loss_adds_the_weighted_terms(clip, pixels):
    model, labels = LayerNorm.build(clip, {}), torch.arange(8) % 2
    with torch.no_grad():
        plain, spread, pull = (layernorm.spherical_loss(model, pixels, labels, uniform=a,
                                                        align=b)[0]
                               for a, b in ((0, 0), (0.5, 0), (0, 0.1)))
        features = model.pool(pixels)
    torch.testing.assert_close(spread - plain, 0.5 * layernorm.uniformity(features), atol=1e-5,
                               rtol=0)
    torch.testing.assert_close(pull - plain, 0.1 * layernorm.alignment(features, labels), atol=1e-5,
                               rtol=0)


def test_it_learns_a_planted_cue_on_features_of_length_one(clip, cued):
    train, validation, test = cued
    detector = LayerNorm.fit(train, validation, clip=clip, seed=0, **SMALL | {"epochs": 4})
    assert metrics.auc(test.labels, detector.score(test)) > 0.95
    features = detector.features(test)
    assert features.shape == (32, 48) and features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    head = detector.model.head
    logits = features @ head.weight.detach().numpy()[0] + head.bias.item()
    np.testing.assert_allclose(detector.score(test), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_uniformity_keeps_the_features_apart(clip, cued):
    def closeness(**weights):
        detector = LayerNorm.fit(cued[0], cued[1], clip=clip, seed=0, align=0, **SMALL | weights)
        features = torch.from_numpy(detector.features(cued[2]))
        return layernorm.uniformity(features).item()

    assert closeness(uniform=2.0) < closeness(uniform=0.0) - 0.1


def test_the_defaults_are_the_paper_s(clip, cued):
    options = LayerNorm.fit(cued[0], cued[1], clip=clip, seed=0, epochs=1).options
    schedule = options["schedule"]
    assert (options["uniform"], options["align"]) == (0.5, 0.1)
    assert (schedule["lr"], schedule["floor"], schedule["optimiser"]) == (3e-4, 1e-6, "adamw")


def test_plain_peft_loads_the_adapter(clip, clip_folder, cued, detector, tmp_path):
    detector.save(tmp_path)
    base = transformers.CLIPVisionModel.from_pretrained(clip_folder)
    encoder = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        pooled = encoder(clip.pixels(cued[2].images())).pooler_output
    np.testing.assert_allclose(
        torch.nn.functional.normalize(pooled, dim=-1).numpy(), detector.features(cued[2]), rtol=0,
        atol=1e-5)
