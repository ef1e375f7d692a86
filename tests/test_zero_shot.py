"""Zero-shot CLIP."""

import cv2
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

import dfnb.models.clip
from dfnb import UserError
from dfnb.data.crops import CropView
from dfnb.demo import people
from dfnb.detectors import DETECTORS, zero_shot
from dfnb.evaluation import metrics
from tools.tiny_clip import portraits


@pytest.fixture
def detector(clip, cued):
    return zero_shot.fit(cued[0], cued[1], clip=clip)


def test_with_one_template_it_is_the_softmax_of_transformers_own_logits(clip, clip_folder, cued):
    words = ("real", "fake")
    detector = zero_shot.fit(cued[0], cued[1], clip=clip, words=words, templates=("a {} photo",))
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    tokens = clip.tokenizer([f"a {word} photo" for word in words], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(pixel_values=clip.pixels(cued[2].images()), **tokens).logits_per_image  # (n, 2)
    np.testing.assert_allclose(detector.score(cued[2]), logits.softmax(dim=1)[:, 1].numpy(), rtol=0, atol=1e-4)


def test_nothing_trains_and_training_crops_have_no_effect(clip, cued, detector):
    assert detector.trainable == 0
    other = zero_shot.fit(cued[2], cued[1], clip=clip, seed=7)
    np.testing.assert_array_equal(other.score(cued[2]), detector.score(cued[2]))
    auc = metrics.auc(cued[1].labels, detector.score(cued[1]))
    assert detector.history == [{"validation_auc": auc, "best": True} | {
        "validation_loss": detector.history[0]["validation_loss"]}]  # fmt: skip


def test_swapped_words_turn_the_score_around(clip, cued, detector):
    swapped = DETECTORS["zero_shot"].fit(cued[0], cued[1], clip=clip, words=("manipulated", "real"))
    np.testing.assert_allclose(swapped.score(cued[2]), 1 - detector.score(cued[2]), rtol=0, atol=1e-6)
    aucs = [metrics.auc(cued[2].labels, one.score(cued[2])) for one in (detector, swapped)]
    assert sum(aucs) == pytest.approx(1)
    same = zero_shot.fit(cued[0], cued[1], clip=clip, words=("face", "face"))
    assert (same.score(cued[2]) == 0.5).all()


def test_the_ensemble_is_the_mean_direction_of_its_prompts(clip, detector):
    prompts = [template.replace("{}", "real") for template in zero_shot.TEMPLATES]
    mean = clip.text_features(prompts).mean(axis=0)
    np.testing.assert_allclose(detector.text[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(detector.text, axis=1), 1, atol=1e-6)


def test_the_right_words_find_blur_with_the_tiny_clip_and_swapped_ones_do_not(clip, cued):
    tiny = dfnb.models.clip.load("tiny", device="cpu")
    shots = [shot for at in range(8) for shot, *_ in portraits._shots(people.person(905, at), 1)]
    sharp = np.array(shots)[:, 4:68, 4:68]  # (8, 64, 64, 3), people whom the tiny CLIP has not seen
    blurred = np.array([cv2.GaussianBlur(image, (0, 0), 2) for image in sharp])
    frames = cued[0].frames.iloc[: 2 * len(sharp)].assign(label=np.repeat([0, 1], len(sharp)))
    view = CropView.of_arrays(np.concatenate([sharp, blurred]), frames)
    templates = ("a {} photo of a person",)
    words = ("sharp", "blurry")
    for order, expected in ((words, 1.0), (words[::-1], 0.0)):
        detector = zero_shot.fit(view, view, clip=tiny, words=order, templates=templates)
        assert metrics.auc(view.labels, detector.score(view)) == pytest.approx(expected, abs=0.1)


def test_a_saved_detector_scores_the_same_bits(clip, cued, detector, tmp_path):
    folder = tmp_path / "d"
    detector.card["threshold"] = 0.25
    detector.save(folder)
    loaded = zero_shot.load(folder, clip)
    np.testing.assert_array_equal(loaded.score(cued[2]), detector.score(cued[2]))
    assert loaded.card == detector.card and loaded.trainable == 0
    save_file({"text": torch.ones(3, 24)}, folder / "zero_shot.safetensors")
    with pytest.raises(UserError, match="of another shape: text"):
        zero_shot.load(folder, clip)
    with pytest.raises(UserError, match="was fitted on the CLIP"):
        zero_shot.load(folder, clip.untrained(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": "real"}, "words must be two"),
        ({"words": ("real",)}, "words must be two"),
        ({"templates": ()}, 'templates must each have a "{}" for the word'),
        ({"templates": ("a photo",)}, 'templates must each have a "{}" for the word'),
    ],
)
def test_senseless_options_are_refused(clip, cued, options, message):
    with pytest.raises(UserError, match=message):
        zero_shot.fit(cued[0], cued[1], clip=clip, **options)
