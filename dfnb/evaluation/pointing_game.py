"""Where a detector looks, held against where a fake was changed: the pointing game (Zhang et al., 2018)."""

import cv2
import numpy as np
import pandas as pd

from dfnb.data import faces
from dfnb.data.crops import CropView

INSIDE = 0.5  # share of a patch that must be new for it to count as changed


def crop_masks(masks: np.ndarray, frames: pd.DataFrame, *, size: int, margin: float) -> np.ndarray:
    """Cut masks uint8 (f, h, w) of one video's file as its crops were cut: uint8 (n, size, size).

    `frames` has a row a crop with its frame in the file and the box x0, y0, x1, y1 (`CropView.frames`).
    """
    rows = zip(frames["frame"], frames[["x0", "y0", "x1", "y1"]].to_numpy(), strict=True)
    return np.stack([faces.crop(masks[frame], faces.widen(box, margin), size) for frame, box in rows])


def pointing(maps: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Does the most relevant patch lie where the fake was changed? One row a crop: hit, chance, area.

    `maps` (n, side, side) says how relevant a patch is, `masks` (n, size, size) how new a pixel is, 0 .. 255. A
    patch counts as changed when half of it is. `hit` is 1 or 0, or between where several patches are equally
    relevant; `chance` is the share of changed patches, what pointing blindly would hit; `area` the mask's share
    of the pixels. Crops without a changed patch have nothing to be found: NaN.
    """
    maps, masks = np.asarray(maps, float), np.asarray(masks)
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(f"maps (n, side, side) and masks (n, size, size) belong together, got {maps.shape} "
                         f"and {masks.shape}")
    if not np.isfinite(maps).all():
        raise ValueError(f"{int((~np.isfinite(maps)).any(axis=(1, 2)).sum())} of {len(maps)} maps hold no finite numbers")
    side = maps.shape[1:][::-1]
    small = [cv2.resize(mask.astype(np.float32) / 255, side, interpolation=cv2.INTER_AREA) for mask in masks]
    changed = np.array(small).reshape(maps.shape) >= INSIDE
    top = maps == maps.max(axis=(1, 2), keepdims=True)
    rows = pd.DataFrame({"hit": (top & changed).sum(axis=(1, 2)) / top.sum(axis=(1, 2)),
                         "chance": changed.mean(axis=(1, 2)), "area": masks.mean(axis=(1, 2)) / 255})
    rows.loc[~changed.any(axis=(1, 2)), ["hit", "chance"]] = np.nan
    return rows


def game(view: CropView, maps: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """The pointing game by manipulation: crops, videos, pointing accuracy, chance, their difference."""
    rows = view.frames[["manipulation", "video"]].assign(**pointing(maps, masks)).dropna()  # pyrefly: ignore
    table = rows.groupby("manipulation", sort=False).agg(
        videos=("video", "nunique"), crops=("hit", "size"), pointing=("hit", "mean"), chance=("chance", "mean"))
    return table.assign(gain=table["pointing"] - table["chance"]).reset_index()
