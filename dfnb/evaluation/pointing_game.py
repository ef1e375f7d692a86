"""Compare where a detector looks with where a fake was changed: the pointing game.

The idea is that of Zhang et al. (2018): the most relevant patch of a crop hits or misses.
"""

import cv2
import numpy as np
import pandas as pd

from dfnb.data import faces
from dfnb.data.crops import CropView

INSIDE = 0.5  # share of a patch's pixels that must be changed for it to count as changed


def crop_masks(masks: np.ndarray, frames: pd.DataFrame, *, size: int, margin: float) -> np.ndarray:
    """Cut masks uint8 (f, h, w) of one video's file like its crops: uint8 (n, size, size).

    `frames` has a row per crop with its frame in the file and the box x0, y0, x1, y1
    (`CropView.frames`).
    """
    rows = zip(frames["frame"], frames[["x0", "y0", "x1", "y1"]].to_numpy(), strict=True)
    return np.stack([faces.crop(masks[frame], faces.widen(box, margin), size)
                     for frame, box in rows])


def pointing(maps: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Return hit, chance and area of each crop: does the most relevant patch lie in the change?

    `maps` (n, side, side) holds the relevance of each patch, `masks` (n, size, size) the change of
    each pixel, 0 .. 255. A patch counts as changed when half of it is. `hit` is 1 or 0, or between
    where several patches are equally relevant. `chance` is the share of changed patches, which is
    the rate of pointing at random; `area` is the mask's share of the pixels. Hit and chance are NaN
    for crops without a changed patch. Raises ValueError for shapes that do not match and for maps
    that are not finite.
    """
    maps, masks = np.asarray(maps, float), np.asarray(masks)
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError("maps (n, side, side) and masks (n, size, size) must have the same n, "
                         f"got {maps.shape} and {masks.shape}")
    if broken := int((~np.isfinite(maps)).any(axis=(1, 2)).sum()):
        raise ValueError(f"{broken} of {len(maps)} maps contain numbers that are not finite")
    shape = maps.shape[1:][::-1]
    shares = [cv2.resize(mask.astype(np.float32) / 255, shape, interpolation=cv2.INTER_AREA)
              for mask in masks]
    changed = np.array(shares).reshape(maps.shape) >= INSIDE
    top = maps == maps.max(axis=(1, 2), keepdims=True)
    rows = pd.DataFrame({"hit": (top & changed).sum(axis=(1, 2)) / top.sum(axis=(1, 2)),
                         "chance": changed.mean(axis=(1, 2)),
                         "area": masks.mean(axis=(1, 2)) / 255})
    rows.loc[~changed.any(axis=(1, 2)), ["hit", "chance"]] = np.nan
    return rows


def game(view: CropView, maps: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Return videos, crops, pointing accuracy, chance and their difference by manipulation."""
    rows = view.frames[["manipulation", "video"]].join(pointing(maps, masks)).dropna()
    table = rows.groupby("manipulation", sort=False).agg(
        videos=("video", "nunique"), crops=("hit", "size"), pointing=("hit", "mean"),
        chance=("chance", "mean"))
    return table.assign(gain=table["pointing"] - table["chance"]).reset_index()
