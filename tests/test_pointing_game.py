"""The pointing game on maps and masks drawn by hand, and masks that are cut like the crops."""

import numpy as np
import pandas as pd
import pytest

from dfnb.data import corpora, crops, faces, identity, video
from dfnb.demo import corpus as demo
from dfnb.evaluation import pointing_game


def mask(*patches: tuple[int, int]) -> np.ndarray:
    """A mask (8, 8) in which whole patches of 2 x 2 pixels are new."""
    whole = np.zeros((8, 8), np.uint8)
    for row, column in patches:
        whole[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 255
    return whole


def peak(row: int, column: int) -> np.ndarray:
    relevance = np.zeros((4, 4), np.float32)
    relevance[row, column] = 1
    return relevance


def test_a_peak_inside_hits_and_one_outside_does_not():
    masks = np.stack([mask((1, 2), (2, 2))] * 2)
    rows = pointing_game.pointing(np.stack([peak(1, 2), peak(2, 1)]), masks)
    assert rows.hit.tolist() == [1, 0]
    assert rows.chance.tolist() == [2 / 16, 2 / 16]
    assert rows.area.tolist() == [2 / 16, 2 / 16]


def test_a_patch_counts_from_half_of_it_on():
    half, less = mask(), mask()
    half[0, :2] = 255
    less[0, 0] = 255
    both = np.stack([half, less | mask((3, 3))])
    assert pointing_game.pointing(np.stack([peak(0, 0)] * 2), both).hit.tolist() == [1, 0]


def test_a_map_without_a_peak_scores_by_chance():
    rows = pointing_game.pointing(np.full((1, 4, 4), 0.3), mask((0, 0), (0, 1), (1, 0), (1, 1))[None])
    assert rows.hit.tolist() == rows.chance.tolist() == [0.25]


def test_random_maps_score_by_chance():
    generator = np.random.default_rng(0)
    masks = np.stack([mask(*map(tuple, np.argwhere(generator.random((4, 4)) < 0.3)), (0, 0)) for _ in range(2000)])
    rows = pointing_game.pointing(generator.random((2000, 4, 4)), masks)
    assert rows.hit.mean() == pytest.approx(rows.chance.mean(), abs=0.03)


def test_a_crop_without_a_changed_patch_has_no_answer():
    rows = pointing_game.pointing(np.stack([peak(0, 0)] * 2), np.stack([mask(), mask((0, 0))]))
    assert np.isnan(rows.hit[0]) and rows.hit[1] == 1


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="belong together"):
        pointing_game.pointing(np.zeros((2, 4, 4)), np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="1 of 2 maps"):
        pointing_game.pointing(np.stack([peak(0, 0), np.full((4, 4), np.nan)]), np.zeros((2, 8, 8)))


def test_the_game_counts_by_method():
    frames = pd.DataFrame({"manipulation": ["A", "A", "A", "B"], "video": ["1", "1", "2", "1"], "label": 1})
    view = crops.CropView.of_arrays(np.zeros((4, 8, 8, 3), np.uint8), frames)
    masks = np.stack([mask((0, 0))] * 4)
    found = pointing_game.game(view, np.stack([peak(0, 0), peak(0, 0), peak(1, 1), peak(1, 1)]), masks).set_index("manipulation")
    assert found.loc["A", ["videos", "crops"]].tolist() == [2, 3]
    assert found.pointing.tolist() == pytest.approx([2 / 3, 0])
    assert found.gain.tolist() == pytest.approx([2 / 3 - 1 / 16, -1 / 16])


@pytest.fixture(scope="module")
def cut(corpus, tmp_path_factory):
    """One FaceSwap video of the demo corpus: its crops and the file's masks (12, 256, 256)."""
    videos = corpora.index(corpus, manipulations=["FaceSwap"]).query("manipulation == 'FaceSwap'").head(1)
    videos = videos.assign(group=identity.identity_groups(videos))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        view = crops.build(videos, frames=4, size=64, workers=1, progress=False)
    return view, demo.masks(corpus, "FaceSwap", videos.video.iloc[0]), videos.path.iloc[0]


def test_a_mask_is_cut_where_its_crop_was(cut):
    """A picture whose pixels say where they are, cut as a mask, shows the very pixels that the crop shows."""
    view, _, path = cut
    grey = video.read(path, 12).frames[..., 1]  # a channel of the file's pictures taken for masks
    again = pointing_game.crop_masks(grey, view.frames, size=64, margin=1.3)
    np.testing.assert_array_equal(again, view.images()[..., 1])


def test_masks_show_the_changed_pixels_of_the_crops(cut, corpus):
    view, masks, path = cut
    real = video.read(demo.video_path(corpus, "real", "000"), 12).frames
    boxes = view.frames[["x0", "y0", "x1", "y1"]].to_numpy()
    before = np.stack([faces.crop(real[frame], faces.widen(box, 1.3), 64)
                       for frame, box in zip(view.frames.frame, boxes, strict=True)])
    change = np.abs(view.images().astype(int) - before).mean(axis=3)
    found = pointing_game.crop_masks(masks, view.frames, size=64, margin=1.3)
    assert change[found > 200].mean() > 5 * change[found == 0].mean()
