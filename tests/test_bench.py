"""The bench's own functions on tiny sizes; `make bench` itself is no part of the tests."""

import json

import numpy as np
import pytest
import torch

from tools.bench import measure, page, parts, plain

OPTIONS = {
    "rank": 2, "alpha": 4, "dropout": 0.0, "blocks": 1, "learning_rate": 1e-3, "batch": 16,
    "epochs": 2}


def test_operations_of_a_product_are_counted_by_hand():
    one, other = torch.rand(3, 4), torch.rand(4, 5)
    assert measure.flops(lambda: one @ other) == 2 * 3 * 4 * 5


def test_the_peak_is_a_rate_and_a_median_forgives_one_slow_call():
    assert measure.matrix_peak(64, 2) > 0
    calls = iter([0, 0, 0.2, 0])
    assert measure.seconds(lambda: parts.time.sleep(next(calls)), 3) < 0.1


def test_overlap_by_hand():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [np.nan] * 4], float)
    others = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 1, 1]], float)
    np.testing.assert_allclose(measure.overlap(boxes, others), [1, 1 / 3, 0, np.nan])


def test_a_gap_is_judged_by_the_spread_of_the_repetitions():
    near, far = measure.gap([1.0, 1.2, 1.1], [1.05, 1.15, 1.25]), measure.gap([1.0, 1.01, 1.02],
                                                                              [2.0, 2.01, 2.02])
    assert abs(near["difference"]) < near["half"]
    assert abs(far["difference"]) > far["half"]
    assert far["half"] == pytest.approx(2.776445 * 0.01 *
                                        (2 / 3)**0.5)  # t(4) at 95 %, a spread of 0.01


def test_both_recipes_take_the_same_steps_on_the_same_encoder(clip, cued):
    found = parts.one_run(clip, dict(zip(parts.LEVELS, cued, strict=True)), OPTIONS, repeats=2)
    # 96 crops, 16 a step, 2 epochs
    assert found["ours"]["steps"] == found["plain"]["steps"] == [12, 12]
    assert np.isfinite(found["ours"]["losses"] + found["plain"]["losses"]).all()
    assert found["ratio"] > 0


def test_the_plain_encoder_starts_at_the_adapted_one(clip, cued):
    from dfnb.detectors.lora import Lora

    shape = {name: OPTIONS[name] for name in ("rank", "alpha", "dropout", "blocks")}
    theirs = plain.Tower(clip, torch.ones(2), **shape).eval()
    ours = Lora.build(clip, shape).eval()
    theirs.head.load_state_dict(ours.head.state_dict())
    pixels = clip.pixels(cued[0].images(slice(4)))
    with torch.inference_mode():
        hidden = clip.hidden_reader(cued[0], clip.layers - 1)(np.arange(4))
        torch.testing.assert_close(theirs(pixels)["logits"], ours(hidden), atol=1e-5, rtol=1e-5)


def test_faces_of_the_demo_lie_where_the_recipe_finds_them(corpus):
    path = next(corpus.glob("original_sequences/youtube/c23/videos/*.mp4"))
    found = parts.faces_per_second([path], 3, 64, repeats=1)
    assert found["frames"] == found["compared"] == 3
    assert found["IoU"] > 0.6
    larger = parts._enlarged(path, corpus.parent / "larger.mp4", 288)
    assert parts.video.read(larger, 2).frames.shape == (2, 288, 512, 3)


def test_the_page_says_by_how_much_a_target_is_missed_and_names_the_hardware():
    use = parts.utilisation(parts.random_clip("tiny test"), blocks=1, scored=3, batch=2, repeats=1)
    use["clip"] = "ViT-B/32 size, random weights"
    run = {
        "clip": "tiny", "options": OPTIONS, "crops": 96, "prefix_seconds": 0.5, "ratio": 2.4,
        "loss": {"difference": 0.5, "half": 0.1},
        "ours": {"seconds": [1.0], "losses": [0.6], "steps": [12]},
        "plain": {"seconds": [2.4], "losses": [0.1], "steps": [12]}}
    one = {
        "height": None, "frames": 3, "ours": 40.0, "plain": 10.0, "ratio": 4.0, "IoU": 0.95,
        "compared": 3}
    grew = {"frames": 8, "crops": 10, "crop_seconds": 1.0, "train_seconds": 1.0, "memory": 100.0}
    text = page.render({
        "hardware": "a machine", "peak": 100.0, "one_run": [run], "utilisation": [use],
        "crops": [one], "gpu": [], "start_up": {"fresh": [8.0], "forked": [1.0]},
        "grid": {"options": {"rank": 8}, "cells": 27, "ours": 90.0, "plain": [30.0, 33.0, 31.0],
                 "ratio": 9.3},
        "growth": [grew, grew | {"crops": 40, "crop_seconds": 7.0, "memory": 110.0}]})
    assert "CPU figures: a machine." in text
    assert ("tiny, 1 blocks: 2.40 times as fast, **20% below the target** of 3; what bounds it, "
            "in our reading:") in text
    assert "**not the same** within the noise" in text
    assert "27 of them take 837 s" in text and "scaled, not measured" in text
    assert "ratio: 9.30 times, the target of 9 is met" in text
    assert "With 4.0 times the crops it takes 4.0 times as long and 1.10 times the memory." in text
    assert "No GPU at hand" in text
    json.dumps(use)
