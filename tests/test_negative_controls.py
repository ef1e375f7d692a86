"""Negative controls: shuffled labels, crops without faces, and lost frames as the only feature."""

import numpy as np
import pandas as pd
import pytest

from dfnb import KEY
from dfnb.data import negative_controls
from dfnb.data.crops import CropView


@pytest.fixture
def view():
    """Return two frames of each of twelve reals and twelve fakes, 8 x 8 pixels of noise."""
    videos = pd.DataFrame({"corpus": "c", "manipulation": np.repeat(["real", "FaceSwap"], 12),
                           "group": range(24), "video": [f"{at:02d}" for at in range(24)],
                           "label": np.repeat([0, 1], 12)})
    frames = videos.merge(pd.DataFrame({"frame": range(2)}), how="cross")
    images = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3), np.uint8)
    return CropView.of_arrays(images, frames)


@pytest.fixture
def split_table(view):
    """Return a split with eight training, two validation and two test videos of each class."""
    videos = view.frames.drop_duplicates(KEY)[KEY]
    return videos.assign(split=np.tile(["train"] * 8 + ["validation"] * 2 + ["test"] * 2, 2))


def test_half_of_each_class_gets_the_other_label_in_training_and_none_in_test(view, split_table):
    fingerprint = view.fingerprint
    mixed = negative_controls.shuffled(view, split_table, seed=0)
    rows = mixed.frames.merge(split_table, on=KEY).assign(flipped=mixed.labels != view.labels)
    shares = rows.groupby(["split", "manipulation"]).flipped.mean()
    assert shares["train"].tolist() == shares["validation"].tolist() == [0.5, 0.5]
    assert shares["test"].tolist() == [0, 0]
    assert (rows.groupby("video").flipped.nunique() == 1).all()  # a video has one label
    assert mixed.root is view.root and mixed.fingerprint != fingerprint
    assert (view.labels == (view.frames.manipulation == "FaceSwap")).all()  # as before


def test_shuffling_depends_on_the_seed(view, split_table):
    first, again, other = (negative_controls.shuffled(view, split_table, seed=seed).labels
                           for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_labels_are_not_shuffled_where_a_test_video_trains(view, split_table):
    leaky = pd.concat([split_table, split_table[split_table.split == "train"].assign(split="test")])
    with pytest.raises(ValueError, match="no test video trains"):
        negative_controls.shuffled(view, leaky, seed=0)


def test_the_background_is_kept_and_the_box_has_one_colour_in_all_crops(view):
    masked = negative_controls.background(view, margin=2)
    box = np.zeros((8, 8), bool)
    box[2:6, 2:6] = True  # the middle half
    images, before = masked.images(), view.images()
    np.testing.assert_array_equal(images[:, ~box], before[:, ~box])
    assert len(np.unique(images[:, box].reshape(-1, 3), axis=0)) == 1
    np.testing.assert_allclose(images[0, 2, 2], before[:, box].mean((0, 1)), atol=0.5)
    pd.testing.assert_frame_equal(masked.frames, view.frames)


def test_the_share_of_lost_frames_is_counted_per_video():
    frames = pd.DataFrame({"corpus": "c", "manipulation": "real", "video": list("00001"),
                           "group": [7, 7, 7, 7, 8], "label": 0, "row": [0, -1, 1, 2, -1]})
    scores = negative_controls.missing(frames).set_index("video").score
    assert scores.to_dict() == {"0": 0.25, "1": 1.0}
