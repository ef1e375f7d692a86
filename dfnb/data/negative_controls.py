"""Make negative controls: data from which a detector can learn a manipulation only by a leak."""

from dataclasses import replace

import numpy as np
import pandas as pd

from dfnb import KEY
from dfnb.data.crops import CropView


def shuffled(view: CropView, split_table: pd.DataFrame, *, seed: int) -> CropView:
    """Flip the labels of half of each class's training and validation videos; test labels stay.

    Exactly half is flipped: a free permutation leaves a chance correlation with the true label,
    which a detector then finds. ValueError where a test video is also trained on.
    """
    rng, flipped = np.random.default_rng(seed), []
    videos = split_table.drop_duplicates([*KEY, "split"]).sort_values(KEY)
    learnt = videos[videos["split"] != "test"]
    for _, rows in learnt.groupby(["split", learnt["manipulation"] == "real"]):
        flipped.append(rows.iloc[rng.permutation(len(rows))[: len(rows) // 2]])
    keys = pd.MultiIndex.from_frame(pd.concat(flipped)[KEY])
    if keys.isin(pd.MultiIndex.from_frame(videos.loc[videos["split"] == "test", KEY])).any():
        raise ValueError("labels can only be shuffled where no test video trains")
    flip = pd.MultiIndex.from_frame(view.frames[KEY]).isin(keys)
    labels = np.where(flip, 1 - view.labels, view.labels)
    return replace(view, frames=view.frames.assign(label=labels), whole=view.root)


def background(view: CropView, margin: float) -> CropView:
    """Return the crops without their faces, in memory: one colour fills the detector's box.

    The box is the middle 1 / margin of a crop; the colour is the mean over all boxes.
    """
    images = view.images()  # (n, size, size, 3)
    inner = round(view.size / margin)
    box = slice((view.size - inner) // 2, (view.size - inner) // 2 + inner)
    images[:, box, box] = images[:, box, box].mean(axis=(0, 1, 2)).round().astype(np.uint8)
    return CropView.of_arrays(images, view.frames)


def missing(all_frames: pd.DataFrame) -> pd.DataFrame:
    """Return each video's share of lost frames as its score, with its key, group and label."""
    lost = all_frames.assign(score=(all_frames["row"] < 0).astype(float))
    return lost.groupby([*KEY, "group", "label"], as_index=False)["score"].mean()
