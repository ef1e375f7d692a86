"""Prompt tuning; its contract is in test_detectors.py."""

import numpy as np
import pytest
import torch

import dfnb.models.clip
from dfnb import UserError
from dfnb.detectors.prompt import Prompt, Prompts
from dfnb.evaluation import metrics

SMALL = {"epochs": 4, "learning_rate": 0.2}


@pytest.fixture
def detector(clip, cued):
    return Prompt.fit(cued[0], cued[1], clip=clip, seed=0, context=4, **SMALL)


def test_the_context_alone_trains_and_no_image_feature_changes(clip, cued):
    pixels = clip.pixels(cued[2].images())
    features = clip.pooled(pixels)
    detector = Prompt.fit(cued[0], cued[1], clip=clip, seed=0, **SMALL)
    torch.testing.assert_close(clip.pooled(pixels), features, rtol=0, atol=0)
    assert [name for name, value in detector.model.named_parameters()] == ["context"]
    torch.manual_seed(0)
    start = Prompts(clip, context=16, words=("real", "fake")).context
    assert (detector.model.context != start).all() and 0.018 < start.std() < 0.022
    assert detector.trainable == 16 * 32


def test_the_score_is_the_softmax_over_both_prompts(clip, cued, detector):
    with torch.no_grad():
        text = detector.model.text().numpy()
    logits = np.exp(clip.logit_scale) * clip.image_features(cued[2]) @ text.T  # (n, 2)
    expected = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(detector.score(cued[2]), expected, rtol=0, atol=1e-5)


def test_a_context_made_of_words_gives_the_ordinary_prompts(clip):
    model = Prompts(clip, context=3, words=("real", "fake"))
    ids = clip.tokenizer("a bc", add_special_tokens=False).input_ids  # a, b and c</w>
    with torch.no_grad():
        model.context.copy_(clip.model.text_model.embeddings.token_embedding(torch.tensor(ids)))
        text = model.text().numpy()
    # "." is no token of this vocabulary; the last token is the end, pooled at its first place
    tokens = clip.tokenizer([f"{word} a bc" for word in ("real", "fake")]).input_ids
    end = clip.tokenizer.eos_token_id
    embeddings = clip.model.text_model.embeddings.token_embedding(
        torch.tensor([[*ids, end] for ids in tokens]))
    with torch.no_grad():
        np.testing.assert_allclose(text,
                                   clip.text_from_embeddings(embeddings).numpy(), rtol=0, atol=1e-5)


def test_a_context_learns_a_planted_cue(clip, cued):
    train, validation, test = cued
    detector = Prompt.fit(train, validation, clip=clip, seed=0, **SMALL | {"epochs": 6})
    assert metrics.auc(test.labels, detector.score(test)) > 0.95
    assert detector.history[-1]["loss"] < detector.history[0]["loss"]


def test_before_training_swapped_words_turn_the_score_around(clip, cued):
    def score(words):
        torch.manual_seed(0)
        model = Prompts(clip, context=4, words=words)
        return model(torch.from_numpy(clip.image_features(cued[2]))).detach()

    torch.testing.assert_close(score(("real", "fake")), -score(("fake", "real")))
    assert (score(("same", "same")) == 0).all()


def test_equal_words_cannot_be_told_apart(clip, cued):
    detector = Prompt.fit(cued[0], cued[1], clip=clip, seed=0, words=("face", "face"), **SMALL)
    assert (detector.score(cued[2]) == 0.5).all()


def test_the_paper_s_defaults_fit_the_tiny_clip(clip, cued):
    tiny = dfnb.models.clip.load("tiny", device="cpu")
    detector = Prompt.fit(cued[0], cued[1], clip=tiny, seed=0, epochs=1)
    assert detector.trainable == 16 * 128
    schedule = detector.options["schedule"]
    assert (schedule["optimiser"], schedule["lr"], schedule["batch"]) == ("sgd", 2e-3, 16)
    with pytest.raises(UserError,
                       match="with a gap of 44 has 50 tokens, but tiny takes at most 48"):
        Prompt.fit(cued[0], cued[1], clip=tiny, seed=0, context=44)
