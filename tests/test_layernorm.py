"""LN-tuning."""

import math

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dfnb import UserError
from dfnb.detectors import DETECTORS, layernorm
from dfnb.evaluation import metrics

SMALL = {"epochs": 2, "batch": 16, "learning_rate": 0.02}


@pytest.fixture
def pixels(clip, cued):
    return clip.pixels(cued[0].images(np.arange(8)))


@pytest.fixture
def detector(clip, cued):
    return layernorm.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)


def test_adapting_changes_nothing_before_the_first_step(clip, pixels):
    before = clip.trainable_encoder()(pixels).pooler_output  # (n, width)
    after = layernorm.adapt(clip.trainable_encoder())(pixels).pooler_output
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    pooled = layernorm.Classifier(clip).eval().pool(pixels)
    torch.testing.assert_close(pooled, torch.nn.functional.normalize(before, dim=-1))


def test_only_gains_and_biases_and_the_head_move_and_all_of_them_do(clip, cued, detector):
    torch.manual_seed(0)
    fresh = dict(layernorm.Classifier(clip).named_parameters())
    moved = {name for name, value in detector.model.named_parameters() if not torch.equal(value, fresh[name])}
    assert moved == {name for name in fresh if "ln_tuning_layers" in name or name.startswith("head.")}
    assert len(moved) == 2 * (2 * 2 + 2) + 2  # gain and bias of two norms a block and of two around them; the head


def test_trainable_equals_the_formula(detector):
    assert detector.trainable == 2 * 48 * (2 * 2 + 2) + 48 + 1


def test_the_formula_gives_the_published_sizes():
    assert [2 * width * (2 * blocks + 2) for width, blocks in ((768, 12), (1024, 24))] == [39_936, 102_400]


def test_uniformity_and_alignment_equal_the_hand_computation():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # squared distances 2 (1-2), 4 (1-3), 2 (2-3)
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
    model, labels = layernorm.Classifier(clip), torch.arange(8) % 2
    with torch.no_grad():
        plain, spread, pull = (layernorm.spherical_loss(model, pixels, labels, spread=a, pull=b)[0]
                               for a, b in ((0, 0), (0.5, 0), (0, 0.1)))  # fmt: skip
        features = model.pool(pixels)
    torch.testing.assert_close(spread - plain, 0.5 * layernorm.uniformity(features), atol=1e-5, rtol=0)
    torch.testing.assert_close(pull - plain, 0.1 * layernorm.alignment(features, labels), atol=1e-5, rtol=0)


def test_it_learns_a_planted_cue_on_features_of_length_one(clip, cued):
    train, validation, test = cued
    detector = DETECTORS["layernorm"].fit(train, validation, clip=clip, seed=0, **SMALL | {"epochs": 4})
    assert metrics.auc(test.labels, detector.score(test)) > 0.95
    features = detector.features(test)
    assert features.shape == (32, 48) and features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    logits = features @ detector.model.head.weight.detach().numpy()[0] + detector.model.head.bias.item()
    np.testing.assert_allclose(detector.score(test), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_uniformity_keeps_the_features_apart(clip, cued):
    def closeness(**weights):
        detector = layernorm.fit(cued[0], cued[1], clip=clip, seed=0, align=0, **SMALL | weights)
        features = torch.from_numpy(detector.features(cued[2]))
        return layernorm.uniformity(features).item()

    assert closeness(uniform=2.0) < closeness(uniform=0.0) - 0.1


def test_the_defaults_are_the_paper_s(clip, cued):
    options = layernorm.fit(cued[0], cued[1], clip=clip, seed=0, epochs=1).card["options"]
    schedule = options["schedule"]
    assert (options["uniform"], options["align"]) == (0.5, 0.1)
    assert (schedule["lr"], schedule["floor"], schedule["optimiser"]) == (3e-4, 1e-6, "adamw")


def test_a_saved_detector_scores_the_same_bits_and_saves_the_same_bytes(clip, cued, detector, tmp_path):
    detector.card["threshold"] = 0.25
    detector.save(tmp_path / "a")
    loaded = layernorm.load(tmp_path / "a", clip)
    np.testing.assert_array_equal(loaded.score(cued[2]), detector.score(cued[2]))
    assert loaded.card == detector.card and loaded.trainable == detector.trainable
    loaded.save(tmp_path / "b")
    files = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert files == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors",
                     "head.safetensors", "detector.json"}  # fmt: skip
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_plain_peft_loads_the_adapter(clip, clip_folder, cued, detector, tmp_path):
    detector.save(tmp_path)
    base = transformers.CLIPVisionModel.from_pretrained(clip_folder)
    tower = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        pooled = tower(clip.pixels(cued[2].images())).pooler_output
    np.testing.assert_allclose(
        torch.nn.functional.normalize(pooled, dim=-1).numpy(), detector.features(cued[2]), rtol=0, atol=1e-5
    )


def test_an_adapter_that_does_not_fit_is_refused(clip, detector, tmp_path):
    detector.save(tmp_path)
    with pytest.raises(UserError, match="was fitted on the CLIP"):
        layernorm.load(tmp_path, clip.untrained(1))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, path)
    with pytest.raises(UserError, match=f"missing: {lost}"):
        layernorm.load(tmp_path, clip)


def test_senseless_options_are_refused(clip, cued):
    with pytest.raises(UserError, match="uniform is a weight and must be at least 0, got -1"):
        layernorm.fit(cued[0], cued[1], clip=clip, seed=0, uniform=-1)
    with pytest.raises(UserError, match="floor must lie between 0 and the learning rate 1e-07, got 1e-06"):
        layernorm.fit(cued[0], cued[1], clip=clip, seed=0, learning_rate=1e-7)
