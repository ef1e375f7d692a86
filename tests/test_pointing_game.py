"""The pointing game on small maps and masks, and masks that are cut like the crops."""

import numpy as np
import pandas as pd
import pytest

from dfnb.data import corpora, crops, faces, identity, video
from dfnb.demo import corpus as demo
from dfnb.evaluation import pointing_game


def mask(*patches: tuple[int, int]) -> np.ndarray:
    """Return a mask (8, 8) in which the given patches of 2 x 2 pixels are changed."""
    small = np.zeros((4, 4), np.uint8)
    for patch in patches:
        small[patch] = 255
    return small.repeat(2, axis=0).repeat(2, axis=1)


def peaks(*patches: tuple[int, int]) -> np.ndarray:
    """Return a map (n, 4, 4) per patch, with its highest relevance there."""
    return np.stack([mask(patch)[::2, ::2] / 255 for patch in patches])


def test_a_peak_inside_hits_and_one_outside_does_not():
    masks = np.stack([mask((1, 2), (2, 2))] * 2)
    rows = pointing_game.pointing(peaks((1, 2), (2, 1)), masks)
    assert rows.hit.tolist() == [1, 0]
    assert rows.chance.tolist() == rows.area.tolist() == [2 / 16, 2 / 16]


def test_a_patch_counts_when_half_of_it_is_changed():
    half, less = mask(), mask()
    half[0, :2] = 255
    less[0, 0] = 255
    masks = np.stack([half, less | mask((3, 3))])
    assert pointing_game.pointing(peaks((0, 0), (0, 0)), masks).hit.tolist() == [1, 0]


def test_a_map_without_a_peak_scores_by_chance():
    masks = mask((0, 0), (0, 1), (1, 0), (1, 1))[None]
    rows = pointing_game.pointing(np.full((1, 4, 4), 0.3), masks)
    assert rows.hit.tolist() == rows.chance.tolist() == [0.25]


def test_random_maps_score_by_chance():
    generator = np.random.default_rng(0)
    changed = [map(tuple, np.argwhere(generator.random((4, 4)) < 0.3)) for _ in range(2000)]
    masks = np.stack([mask(*patches, (0, 0)) for patches in changed])
    rows = pointing_game.pointing(generator.random((2000, 4, 4)), masks)
    assert rows.hit.mean() == pytest.approx(rows.chance.mean(), abs=0.03)


def test_a_crop_without_a_changed_patch_has_no_answer():
    rows = pointing_game.pointing(peaks((0, 0), (0, 0)), np.stack([mask(), mask((0, 0))]))
    assert np.isnan(rows.hit[0]) and rows.hit[1] == 1


def test_shapes_that_do_not_match_and_maps_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="same n"):
        pointing_game.pointing(np.zeros((2, 4, 4)), np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="1 of 2 maps"):
        pointing_game.pointing(peaks((0, 0), (0, 0)) + [[[0]], [[np.nan]]], np.zeros((2, 8, 8)))


def test_the_game_counts_by_manipulation():
    frames = pd.DataFrame({"manipulation": list("AAAB"), "video": list("1121"), "label": 1})
    view = crops.CropView.of_arrays(np.zeros((4, 8, 8, 3), np.uint8), frames)
    maps = peaks((0, 0), (0, 0), (1, 1), (1, 1))
    table = pointing_game.game(view, maps, np.stack([mask((0, 0))] * 4)).set_index("manipulation")
    assert table.loc["A", ["videos", "crops"]].tolist() == [2, 3]
    assert table.pointing.tolist() == pytest.approx([2 / 3, 0])
    assert table.gain.tolist() == pytest.approx([2 / 3 - 1 / 16, -1 / 16])


@pytest.fixture(scope="module")
def cut(corpus, tmp_path_factory):
    """One FaceSwap video of the demo corpus: crops, masks (12, 256, 256) of its file, path."""
    videos = corpora.index(corpus, manipulations=["FaceSwap"])
    videos = videos[videos.manipulation == "FaceSwap"].head(1)
    videos = videos.assign(group=identity.identity_groups(videos))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        view = crops.build(videos, frames=4, size=64, workers=1, progress=False)
    return view, demo.masks(corpus, "FaceSwap", videos.video.iloc[0]), videos.path.iloc[0]


def test_a_mask_is_cut_where_its_crop_was(cut):
    """A channel of the file's frames, cut as a mask, shows the same pixels as the crop."""
    view, _, path = cut
    masks = video.read(path, 12).frames[..., 1]
    again = pointing_game.crop_masks(masks, view.frames, size=64, margin=1.3)
    np.testing.assert_array_equal(again, view.images()[..., 1])


def test_masks_show_the_changed_pixels_of_the_crops(cut, corpus):
    view, masks, _ = cut
    real = video.read(demo.video_path(corpus, "real", "000"), 12).frames
    boxes = view.frames[["x0", "y0", "x1", "y1"]].to_numpy()
    before = np.stack([faces.crop(real[frame], faces.widen(box, 1.3), 64)
                       for frame, box in zip(view.frames.frame, boxes, strict=True)])
    change = np.abs(view.images().astype(int) - before).mean(axis=3)
    cut_masks = pointing_game.crop_masks(masks, view.frames, size=64, margin=1.3)
    assert change[cut_masks > 200].mean() > 5 * change[cut_masks == 0].mean()
