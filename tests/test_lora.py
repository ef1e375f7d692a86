"""LoRA on the image tower."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dfnb import UserError, files
from dfnb.detectors import lora
from dfnb.detectors.training import balanced_loss
from dfnb.evaluation import metrics
from dfnb.models.encoder import enter

SMALL = {"rank": 4, "alpha": 16, "dropout": 0.1, "epochs": 2, "batch": 16, "learning_rate": 5e-3}


@pytest.fixture
def pixels(clip, cued):
    return clip.pixels(cued[0].images(np.arange(8)))


@pytest.fixture
def detector(clip, cued):
    return lora.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)


@pytest.mark.parametrize("blocks", [1, 2])
def test_adapting_changes_nothing_before_the_first_step(clip, pixels, blocks):
    before = clip.trainable_encoder()(pixels).pooler_output  # (n, width)
    adapted = lora.adapt(clip.trainable_encoder(), rank=4, alpha=8, dropout=0.0, blocks=blocks)
    torch.testing.assert_close(adapted(pixels).pooler_output, before, rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [1, 2])
def test_every_lora_b_moves_in_one_step_and_only_adapter_and_head_get_gradients(clip, pixels, blocks):
    model = lora.Classifier(clip, rank=4, alpha=8, dropout=0.0, blocks=blocks)
    logits = model(enter(clip.model.vision_model, pixels, model.block))
    balanced_loss(logits, torch.arange(8) % 2).backward()
    with_gradient = {name for name, value in model.named_parameters() if value.grad is not None}
    assert all("lora_" in name or name.startswith("head.") for name in with_gradient)
    assert len(with_gradient) == 2 * 2 * blocks + 2  # A and B of q and v, weight and bias
    optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])
    optimiser.step()
    moved = [bool((value != 0).any()) for name, value in model.named_parameters() if "lora_B" in name]
    assert moved == [True] * 2 * blocks


def test_the_classifier_is_the_adapted_tower_and_its_head(clip, pixels, detector):
    model = detector.model
    with torch.no_grad():
        whole = model.head(model.tower(pixels).pooler_output).squeeze(-1)
        split_seed = model(enter(clip.model.vision_model, pixels, model.block))
    torch.testing.assert_close(split_seed, whole)


@pytest.mark.parametrize(("rank", "blocks"), [(1, 1), (4, 1), (4, 2), (8, None)])
def test_trainable_equals_the_formula(clip, cued, rank, blocks):
    detector = lora.fit(cued[0], cued[1], clip=clip, seed=0, rank=rank, blocks=blocks, epochs=1)
    assert detector.trainable == 2 * 2 * rank * 48 * (blocks or 2) + 48 + 1


def test_lora_learns_a_planted_cue(clip, cued):
    train, validation, test = cued
    detector = lora.fit(train, validation, clip=clip, seed=0, **SMALL | {"epochs": 4})
    assert metrics.auc(test.labels, detector.score(test)) > 0.95
    assert {"epoch", "loss", "train_auc", "validation_auc", "best"} <= set(detector.history[0])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(clip, cued, detector):
    again = lora.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)
    other = lora.fit(cued[0], cued[1], clip=clip, seed=1, **SMALL)
    np.testing.assert_array_equal(again.score(cued[2]), detector.score(cued[2]))
    assert again.history == detector.history
    assert not np.array_equal(other.score(cued[2]), detector.score(cued[2]))


def test_training_from_the_kept_prefix_equals_training_without_it(clip, cued):
    options = SMALL | {"blocks": 1}
    kept = lora.fit(cued[0], cued[1], clip=clip, seed=0, **options)
    assert len(list(files.cache().rglob("*-block1.npy"))) == 1  # one array for all splits
    fresh = lora.fit(cued[0], cued[1], clip=clip, seed=0, prefix=False, **options)
    np.testing.assert_allclose(kept.score(cued[2]), fresh.score(cued[2]), rtol=0, atol=1e-5)


def test_mirroring_switches_the_kept_prefix_off(clip, cued):
    detector = lora.fit(cued[0], cued[1], clip=clip, seed=0, blocks=1, flip=True, **SMALL)
    assert list(files.cache().rglob("*-block1.npy")) == [] and detector.card["options"]["prefix"] is False


def test_a_saved_detector_scores_the_same_bits(clip, cued, detector, tmp_path):
    detector.card["threshold"] = 0.25
    detector.save(tmp_path)
    state = torch.random.get_rng_state()
    loaded = lora.load(tmp_path, clip)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(loaded.score(cued[2]), detector.score(cued[2]))
    assert loaded.card == detector.card and loaded.trainable == detector.trainable
    paths = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert paths == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors",
                     "head.safetensors", "detector.json"}  # fmt: skip


def test_saving_twice_gives_the_same_bytes(clip, cued, detector, tmp_path):
    again = lora.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)
    for folder, one in (("a", detector), ("b", again)):
        one.save(tmp_path / folder)
    paths = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in paths)


def test_plain_peft_loads_the_adapter(clip, cued, clip_folder, detector, pixels, tmp_path):
    detector.save(tmp_path)
    base = transformers.CLIPVisionModel.from_pretrained(clip_folder)
    tower = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    head = load_file(tmp_path / "head.safetensors")
    with torch.no_grad():
        pooled = tower(clip.pixels(cued[2].images())).pooler_output
        scores = torch.sigmoid(pooled @ head["weight"][0] + head["bias"]).numpy()
    np.testing.assert_allclose(scores, detector.score(cued[2]), rtol=0, atol=1e-6)


def test_an_adapter_of_another_base_is_refused(clip, detector, tmp_path):
    detector.save(tmp_path)
    with pytest.raises(UserError, match="was fitted on the CLIP"):
        lora.load(tmp_path, clip.untrained(1))


def test_missing_and_extra_keys_are_listed(clip, detector, tmp_path):
    detector.save(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    save_file(
        {name: value for name, value in tensors.items() if name != lost} | {"junk": torch.ones(1)}, path
    )
    with pytest.raises(UserError, match=f"missing: {lost}; extra: junk"):
        lora.load(tmp_path, clip)
    save_file(tensors | {lost: torch.ones(2, 2)}, path)
    with pytest.raises(UserError, match=f"of another shape: {lost}"):
        lora.load(tmp_path, clip)
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        lora.load(tmp_path, clip)


def test_an_adapter_whose_configuration_was_changed_is_refused(clip, detector, tmp_path):
    detector.save(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 99}))
    with pytest.raises(UserError, match="says lora_alpha = 99, the card beside it 16"):
        lora.load(tmp_path, clip)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must lie between 1 and the tower's width 48, got 0"),
        ({"alpha": 0}, "alpha must be positive, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"blocks": 3}, "blocks must lie between 1 and the tower's 2, got 3"),
        ({"blocks": 0}, "blocks must lie between 1 and the tower's 2, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_senseless_options_are_refused(clip, cued, options, message):
    with pytest.raises(UserError, match=message):
        lora.fit(cued[0], cued[1], clip=clip, seed=0, **options)
