"""Perturbations: more strength is more distortion, strength 0 is nothing, and a crop does not depend on its company."""

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError
from dfnb.data import encoding, perturbations
from dfnb.data.crops import CropView
from dfnb.demo import people, render

KINDS = list(perturbations.KINDS)


@pytest.fixture(scope="module")
def view():
    """Four faces of two people of the demo world, (4, 64, 64, 3)."""
    scenes = [render.Scene(people.person(77, id)) for id in range(2)]
    images = [scene.frame(pose).image[64:192:2, 64:192:2] for scene in scenes
              for pose in render.performance(scene.person, 2)]
    frames = pd.DataFrame({"corpus": "demo", "manipulation": "real", "video": ["000", "000", "001", "001"],
                           "frame": [0, 1, 0, 1], "label": 0})
    return CropView.of_arrays(np.stack(images), frames)


def distortion(view, changed) -> float:
    return float(np.abs(changed.images().astype(int) - view.images()).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_more_strength_is_more_distortion(view, kind):
    amounts = [distortion(view, perturbations.apply(view, kind, strength)) for strength in range(6)]
    assert amounts[0] == 0
    assert np.all(np.diff(amounts) > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_shape_type_and_keys_stay(view, kind):
    changed = perturbations.apply(view, kind, 3)
    assert changed.images().shape == view.images().shape and changed.images().dtype == np.uint8
    pd.testing.assert_frame_equal(changed.frames, view.frames)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_comes_out_the_same_in_any_company_and_again(view, kind):
    whole = perturbations.apply(view, kind, 4, seed=3).images()
    np.testing.assert_array_equal(perturbations.apply(view, kind, 4, seed=3).images(), whole)
    np.testing.assert_array_equal(perturbations.apply(view.select([2, 1]), kind, 4, seed=3).images(), whole[[2, 1]])


def test_only_the_noise_follows_the_seed(view):
    moved = {kind for kind in KINDS
             if (perturbations.apply(view, kind, 2, seed=0).images() != perturbations.apply(view, kind, 2, seed=1).images()).any()}
    assert moved == {"noise"}


def test_noise_and_brightness_have_their_amount(view):
    grey = CropView.of_arrays(np.full((4, 64, 64, 3), 128, np.uint8), view.frames)
    for strength, deviation in enumerate(perturbations.KINDS["noise"].amounts, start=1):
        assert perturbations.apply(grey, "noise", strength).images().std() == pytest.approx(deviation, rel=0.05)
    assert np.unique(perturbations.apply(grey, "brightness", 5).images()) == [198]


def test_blur_is_in_shares_of_the_side():
    """One white pixel, blurred by 4 % of a side of 64 and of 128: the same width in shares of the side."""
    widths = []
    for size in (64, 128):
        point = np.zeros((1, size, size, 3), np.uint8)
        point[0, size // 2 - size // 32: size // 2 + size // 32, size // 2 - size // 32: size // 2 + size // 32] = 255
        frames = pd.DataFrame({"corpus": "x", "manipulation": "real", "video": ["0"], "frame": [0], "label": [0]})
        row = perturbations.apply(CropView.of_arrays(point, frames), "blur", 5).images()[0, size // 2, :, 0]
        widths.append((row > row.max() / 2).sum() / size)
    assert widths[0] == pytest.approx(widths[1], abs=0.02)


def test_strengths_have_names():
    assert perturbations.KINDS["H.264"].names() == ["none", "quantiser 23", "quantiser 28", "quantiser 33", "quantiser 38",
                                              "quantiser 43"]
    assert all(len(set(kind.names())) == 6 for kind in perturbations.KINDS.values())


def test_odd_sizes_pass_through_h264():
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 35, 3), dtype=np.uint8)
    assert encoding.recompress(images, 23).shape == images.shape
    with pytest.raises(ValueError, match="0 to 51, got 60"):
        encoding.recompress(images, 60)


def test_an_empty_view_stays_empty(view):
    assert len(perturbations.apply(view.select([]), "JPEG", 3)) == 0


@pytest.mark.parametrize(("kind", "strength", "words"), [
    ("sharpening", 1, "no perturbation 'sharpening'; there are H.264, JPEG"), ("JPEG", 6, "from 0 .none. to 5, got 6"),
    ("JPEG", 0.5, "whole number"), ("blur", -1, "got -1")])
def test_what_does_not_exist_is_refused(view, kind, strength, words):
    with pytest.raises(UserError, match=words):
        perturbations.apply(view, kind, strength)
