"""LoRA on the image encoder; its contract is in test_detectors.py."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from dfnb import UserError, files
from dfnb.detectors import lora
from dfnb.detectors.lora import Lora
from dfnb.detectors.training import balanced_loss
from dfnb.models.encoder import enter

SMALL = {"rank": 4, "alpha": 16, "dropout": 0.1, "epochs": 2, "batch": 16, "learning_rate": 5e-3}


@pytest.fixture
def pixels(clip, cued):
    return clip.pixels(cued[0].images(np.arange(8)))


@pytest.fixture
def detector(clip, cued):
    return Lora.fit(*cued[:2], clip=clip, **SMALL)


@pytest.mark.parametrize("blocks", [1, 2])
def test_adapting_changes_nothing_before_the_first_step(clip, pixels, blocks):
    before = clip.trainable_encoder()(pixels).pooler_output  # (n, width)
    adapted = lora.adapt(clip.trainable_encoder(), rank=4, alpha=8, dropout=0.0, blocks=blocks)
    torch.testing.assert_close(adapted(pixels).pooler_output, before, rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [1, 2])
def test_every_lora_b_moves_in_one_step_and_only_adapter_and_head_get_gradients(
        clip, pixels, blocks):
    model = Lora.build(clip, {"rank": 4, "alpha": 8, "dropout": 0.0, "blocks": blocks})
    logits = model(enter(clip.model.vision_model, pixels, model.block))
    balanced_loss(logits, torch.arange(8) % 2).backward()
    moving = {name for name, value in model.named_parameters() if value.grad is not None}
    assert all("lora_" in name or name.startswith("head.") for name in moving)
    assert len(moving) == 2 * 2 * blocks + 2  # A and B of q and v, weight and bias
    torch.optim.AdamW([value for value in model.parameters() if value.requires_grad]).step()
    moved = [bool(value.any()) for name, value in model.named_parameters() if "lora_B" in name]
    assert moved == [True] * 2 * blocks


def test_the_classifier_is_the_adapted_encoder_and_its_head(clip, pixels, detector):
    model = detector.model
    with torch.no_grad():
        whole = model.head(model.encoder(pixels).pooler_output).squeeze(-1)
        from_block = model(enter(clip.model.vision_model, pixels, model.block))
    torch.testing.assert_close(from_block, whole)


@pytest.mark.parametrize(("rank", "blocks"), [(1, 1), (4, 1), (8, None)])
def test_trainable_equals_the_formula(clip, rank, blocks):
    options = {"rank": rank, "alpha": 8, "dropout": 0.0, "blocks": blocks or clip.layers}
    assert Lora(clip, options).trainable == 2 * 2 * rank * 48 * (blocks or 2) + 48 + 1


def test_training_from_the_kept_prefix_equals_training_without_it(clip, cued):
    kept = Lora.fit(*cued[:2], clip=clip, blocks=1, **SMALL)
    assert len(list(files.cache().rglob("*-block1.npy"))) == 1  # one array for all splits
    fresh = Lora.fit(*cued[:2], clip=clip, blocks=1, prefix=False, **SMALL)
    np.testing.assert_allclose(kept.score(cued[2]), fresh.score(cued[2]), rtol=0, atol=1e-5)


def test_mirroring_switches_the_kept_prefix_off(clip, cued):
    detector = Lora.fit(*cued[:2], clip=clip, blocks=1, flip=True, **SMALL)
    assert list(files.cache().rglob("*-block1.npy")) == []
    assert detector.options["prefix"] is False


def test_plain_peft_loads_the_adapter(clip, cued, clip_folder, detector, tmp_path):
    detector.save(tmp_path)
    base = transformers.CLIPVisionModel.from_pretrained(clip_folder)
    encoder = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    head = load_file(tmp_path / "head.safetensors")
    with torch.no_grad():
        pooled = encoder(clip.pixels(cued[2].images())).pooler_output
        scores = torch.sigmoid(pooled @ head["weight"][0] + head["bias"]).numpy()
    np.testing.assert_allclose(scores, detector.score(cued[2]), rtol=0, atol=1e-6)


def test_an_adapter_whose_configuration_was_changed_is_refused(clip, detector, tmp_path):
    detector.save(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 99}))
    with pytest.raises(UserError, match="says lora_alpha = 99, the metadata beside it 16"):
        Lora.load(tmp_path, clip)
