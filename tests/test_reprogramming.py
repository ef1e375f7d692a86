"""Visual reprogramming; its contract is in test_detectors.py."""

import inspect

import numpy as np
import pytest
import torch

from dfnb import UserError
from dfnb.detectors import reprogramming
from dfnb.detectors.reprogramming import Border, Reprogramming
from dfnb.evaluation import metrics

SMALL = {"epochs": 2, "batch": 16}
INNER = 44  # int(0.7 * 64), so the border is 10 wide


@pytest.fixture
def border(clip):
    torch.manual_seed(0)
    return Border(clip, share=0.7, length=24)


@pytest.fixture
def pixels(clip, cued):
    return clip.pixels(cued[2].images(np.arange(4)))


@pytest.fixture
def detector(clip, cued):
    return Reprogramming.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)


def test_the_border_lies_around_the_picture_and_never_on_it(border, pixels):
    empty = border.surround(pixels)
    small = torch.nn.functional.interpolate(pixels, (INNER, INNER), mode="bicubic", antialias=True)
    torch.testing.assert_close(empty[..., 10:54, 10:54], small)
    with torch.no_grad():
        border.delta += 5.0
        full = border.surround(pixels)
    assert torch.equal(full[..., 10:54, 10:54], empty[..., 10:54, 10:54])
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[10:54, 10:54] = False
    assert (empty[..., outside] == 0).all() and (full[..., outside] == 5).all()


def test_every_value_of_the_border_has_its_own_place(border, pixels):
    with torch.no_grad():
        border.delta.copy_(torch.arange(border.delta.numel()).view_as(border.delta) + 1.0)
        drawn = border.surround(0 * pixels[:1])[0]
    assert len(drawn[drawn != 0].unique()) == 3 * (64**2 - INNER**2)


def test_a_border_of_zeros_gives_the_zero_shot_score_of_the_padded_picture(clip, cued, border):
    contrasts = border.contrasts(np.zeros((4, 24), np.float32))
    pixels = clip.pixels(cued[2].images(np.arange(4)))
    with torch.no_grad():
        logits = border((pixels, contrasts))
        small = torch.nn.functional.interpolate(pixels, (INNER, INNER), mode="bicubic",
                                                antialias=True)
        padded = torch.nn.functional.pad(small, (10, 10, 10, 10))
        image = clip.model.get_image_features(padded).pooler_output
        image = torch.nn.functional.normalize(image, dim=-1)
        fake = clip.text_around("A fake photo of a {} person", torch.zeros(1, 1, 32))
    text = torch.cat([torch.from_numpy(clip.text_features(["A real photo of a person"])), fake])
    both = np.exp(clip.logit_scale) * image @ text.T  # (4, 2)
    torch.testing.assert_close(torch.sigmoid(logits), both.softmax(dim=1)[:, 1], rtol=0, atol=1e-5)


def test_the_fake_prompt_depends_on_the_face(border):
    faces = np.eye(3, 24, dtype=np.float32)
    faces[2] = faces[0]
    contrasts = border.contrasts(faces)
    assert contrasts.shape == (3, 24) and not contrasts.requires_grad
    assert torch.equal(contrasts[0],
                       contrasts[2]) and not torch.allclose(contrasts[0], contrasts[1], atol=1e-6)
    assert border.projection.shape == (24, 32)
    assert border.projection.std().item() == pytest.approx(1 / 24, rel=0.1)


def test_only_the_border_trains_and_it_moves_the_score(clip, cued, detector):
    assert [name for name, _ in detector.model.named_parameters()] == ["delta"]
    assert (detector.model.delta != 0).float().mean() > 0.99
    moved = detector.score(cued[2])
    with torch.no_grad():
        detector.model.delta.zero_()
    assert np.abs(moved - detector.score(cued[2])).max() > 1e-3


def test_the_published_size(clip):
    assert 3 * (224**2 - int(0.7 * 224) ** 2) == 77_520
    defaults = inspect.signature(Reprogramming.fit).parameters
    paper = {
        "share": 0.7, "face": "clip", "learning_rate": 1.0, "weight_decay": 2e-4, "warmup": 0.0}
    assert {name: defaults[name].default for name in paper} == paper


def test_the_logit_scale_is_clamped(clip):
    for scale, expected in ((9.0, 100.0), (-1.0, 1.0), (2.0, np.exp(2.0))):
        clip.logit_scale = scale
        assert Border(clip, share=0.7, length=24)._scale == pytest.approx(expected)


def test_a_border_learns_a_planted_cue(clip, cued):
    train, validation, test = cued
    options = {"epochs": 8, "batch": 16, "learning_rate": 0.3}
    detector = Reprogramming.fit(train, validation, clip=clip, seed=0, **options)
    assert detector.history[-1]["loss"] < detector.history[0]["loss"]
    assert metrics.auc(test.labels, detector.score(test)) > 0.9


def test_another_face_embedding_can_be_plugged_in(clip, cued, tmp_path, monkeypatch):
    monkeypatch.setitem(reprogramming.FACES, "colour", lambda clip, crops: crops.images().mean(
        (1, 2)).astype(np.float32))
    detector = Reprogramming.fit(cued[0], cued[1], clip=clip, seed=0, face="colour", **SMALL)
    assert detector.model.projection.shape == (3, 32)
    detector.save(tmp_path)
    np.testing.assert_array_equal(
        Reprogramming.load(tmp_path, clip).score(cued[2]), detector.score(cued[2]))
    monkeypatch.delitem(reprogramming.FACES, "colour")
    with pytest.raises(UserError, match="face must be one of clip, got 'colour'"):
        Reprogramming.load(tmp_path, clip).score(cued[2])
