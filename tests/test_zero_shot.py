"""Zero-shot CLIP; its contract is in test_detectors.py."""

import cv2
import numpy as np
import pytest
import torch
import transformers

import dfnb.models.clip
from dfnb.data.crops import CropView
from dfnb.demo import people
from dfnb.detectors.zero_shot import TEMPLATES, ZeroShot
from dfnb.evaluation import metrics
from tools.tiny_clip import portraits


@pytest.fixture
def detector(clip, cued):
    return ZeroShot.fit(cued[0], cued[1], clip=clip)


def test_with_one_template_it_is_the_softmax_of_transformers_own_logits(clip, clip_folder, cued):
    words = ("real", "fake")
    detector = ZeroShot.fit(cued[0], cued[1], clip=clip, words=words, templates=("a {} photo",))
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    tokens = clip.tokenizer([f"a {word} photo" for word in words], return_tensors="pt",
                            padding=True)
    with torch.no_grad():
        pixels = clip.pixels(cued[2].images())
        logits = model(pixel_values=pixels, **tokens).logits_per_image  # (n, 2)
    expected = logits.softmax(dim=1)[:, 1].numpy()
    np.testing.assert_allclose(detector.score(cued[2]), expected, rtol=0, atol=1e-4)


def test_nothing_trains_and_training_crops_have_no_effect(clip, cued, detector):
    other = ZeroShot.fit(cued[2], cued[1], clip=clip, seed=7)
    np.testing.assert_array_equal(other.score(cued[2]), detector.score(cued[2]))
    assert len(detector.history) == 1


def test_swapped_words_turn_the_score_around(clip, cued, detector):
    swapped = ZeroShot.fit(cued[0], cued[1], clip=clip, words=("manipulated", "real"))
    np.testing.assert_allclose(swapped.score(cued[2]), 1 - detector.score(cued[2]), rtol=0,
                               atol=1e-6)
    aucs = [metrics.auc(cued[2].labels, one.score(cued[2])) for one in (detector, swapped)]
    assert sum(aucs) == pytest.approx(1)
    same = ZeroShot.fit(cued[0], cued[1], clip=clip, words=("face", "face"))
    assert (same.score(cued[2]) == 0.5).all()


def test_the_ensemble_is_the_mean_direction_of_its_prompts(clip, detector):
    prompts = [template.replace("{}", "real") for template in TEMPLATES]
    mean = clip.text_features(prompts).mean(axis=0)
    text = detector.arrays()["text"]
    np.testing.assert_allclose(text[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-6)


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
        detector = ZeroShot.fit(view, view, clip=tiny, words=order, templates=templates)
        assert metrics.auc(view.labels, detector.score(view)) == pytest.approx(expected, abs=0.1)
