"""Full fine-tuning of the image encoder; its contract is in test_detectors.py."""

import numpy as np
import torch

from dfnb.detectors.full import Full


def test_before_the_first_step_its_features_are_those_of_clip(clip, cued):
    pixels = clip.pixels(cued[0].images(np.arange(8)))
    with torch.no_grad():
        torch.testing.assert_close(Full.build(clip, {}).eval().pool(pixels), clip.pooled(pixels))


def test_every_weight_trains(clip, cued):
    detector = Full.fit(*cued[:2], clip=clip, epochs=1, batch=16)  # NoGradient where one is idle
    start = dict(Full(clip, {}).model.named_parameters())
    assert [name for name, value in detector.model.named_parameters()
            if torch.equal(value, start[name])] == []


def test_the_score_is_the_head_on_the_features(clip, cued):
    detector = Full.fit(*cued[:2], clip=clip, epochs=1, batch=16)
    features, head = detector.features(cued[2]), detector.model.head
    assert features.shape == (32, 48) and features.dtype == np.float32
    logits = features @ head.weight.detach().numpy()[0] + head.bias.item()
    np.testing.assert_allclose(detector.score(cued[2]), 1 / (1 + np.exp(-logits)), atol=1e-6)
