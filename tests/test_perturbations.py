"""More strength is more distortion, and a crop's result does not depend on the other crops."""

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError
from dfnb.data import perturbations
from dfnb.data.crops import CropView
from dfnb.demo import people, render

KINDS = list(perturbations.KINDS)


@pytest.fixture(scope="module")
def view():
    """Return four faces of two people of the demo world, (4, 64, 64, 3)."""
    scenes = [render.Scene(people.person(77, id)) for id in range(2)]
    images = [scene.frame(pose).image[64:192:2, 64:192:2] for scene in scenes
              for pose in render.performance(scene.person, 2)]
    names = ["000", "000", "001", "001"]
    frames = pd.DataFrame({"corpus": "demo", "manipulation": "real", "video": names,
                           "frame": [0, 1, 0, 1], "label": 0})
    return CropView.of_arrays(np.stack(images), frames)


def distortion(view, changed) -> float:
    return float(np.abs(changed.images().astype(int) - view.images()).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_more_strength_is_more_distortion_in_the_same_shape(view, kind):
    changed = [perturbations.apply(view, kind, strength) for strength in range(6)]
    amounts = [distortion(view, each) for each in changed]
    assert amounts[0] == 0 and np.all(np.diff(amounts) > 0)
    images = changed[3].images()
    assert images.shape == view.images().shape and images.dtype == np.uint8
    pd.testing.assert_frame_equal(changed[3].frames, view.frames)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_repeatable_and_depends_neither_on_other_crops_nor_the_order(view, kind):
    whole = perturbations.apply(view, kind, 4, seed=3).images()
    np.testing.assert_array_equal(perturbations.apply(view, kind, 4, seed=3).images(), whole)
    two = perturbations.apply(view.select([2, 1]), kind, 4, seed=3).images()
    np.testing.assert_array_equal(two, whole[[2, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_noise_depends_on_the_seed(view, kind):
    first, second = (perturbations.apply(view, kind, 2, seed=seed).images() for seed in (0, 1))
    assert (first != second).any() == (kind == "noise")


def test_noise_and_brightness_have_their_amount(view):
    grey = CropView.of_arrays(np.full((4, 64, 64, 3), 128, np.uint8), view.frames)
    for strength, deviation in enumerate(perturbations.KINDS["noise"].amounts, start=1):
        found = perturbations.apply(grey, "noise", strength).images().std()
        assert found == pytest.approx(deviation, rel=0.05)
    assert np.unique(perturbations.apply(grey, "brightness", 5).images()) == [198]


def test_the_width_of_the_blur_is_a_share_of_the_side():
    """A white square in the middle is blurred, in a crop of 64 and of 128 pixels."""
    widths, frames = [], pd.DataFrame({"corpus": ["x"], "manipulation": "real", "video": "0",
                                       "frame": 0, "label": 0})
    for size in (64, 128):
        middle = slice(size * 15 // 32, size * 17 // 32)
        point = np.zeros((1, size, size, 3), np.uint8)
        point[0, middle, middle] = 255
        view = CropView.of_arrays(point, frames)
        row = perturbations.apply(view, "blur", 5).images()[0, size // 2, :, 0]
        widths.append((row > row.max() / 2).sum() / size)
    assert widths[0] == pytest.approx(widths[1], abs=0.02)


def test_strengths_have_names():
    names = ["none", *(f"quantiser {amount}" for amount in (23, 28, 33, 38, 43))]
    assert perturbations.KINDS["H.264"].names() == names
    assert all(len(set(kind.names())) == 6 for kind in perturbations.KINDS.values())


def test_h264_keeps_odd_sizes():
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 35, 3), dtype=np.uint8)
    assert perturbations.recompress(images, 23).shape == images.shape


def test_an_empty_view_stays_empty(view):
    assert len(perturbations.apply(view.select([]), "JPEG", 3)) == 0


@pytest.mark.parametrize(("kind", "strength", "words"), [
    ("sharpening", 1, "no perturbation 'sharpening'; there are H.264, JPEG"),
    ("JPEG", 6, "from 0 .none. to 5, got 6"), ("JPEG", 0.5, "whole number"),
    ("blur", -1, "got -1")])
def test_unknown_kinds_and_strengths_are_errors(view, kind, strength, words):
    with pytest.raises(UserError, match=words):
        perturbations.apply(view, kind, strength)
