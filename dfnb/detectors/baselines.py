"""Baselines that look for no manipulation, or at no picture at all; a detector must beat them."""

from typing import Self

import cv2
import numpy as np
import pandas as pd
import scipy.special
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from dfnb import KEY, UserError
from dfnb.detectors import training
from dfnb.detectors.base import Detector
from dfnb.models.clip import Clip

BATCH = 1024  # crops held in memory at a time
KINDS = {  # kind -> the number of values it learns from the training split
    "constant": 0,  # always "fake"
    "prior": 1,  # the share of fakes in training
    "missingness": 0,  # the share of the video's frames in which no face was kept
    "sharpness": 2,  # slope and intercept over the logarithm of the sharpness
}


class Baseline(Detector):
    """An answer of one of `KINDS`. `trainable` = the number of values learnt: 0, 1, 0 or 2."""

    name = "baselines"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, kind: str = "constant") -> Self:
        """Learn the values of a kind on the training split; `validation` is only judged.

        CLIP is not used, and nothing is drawn from `seed`.
        """
        if kind not in KINDS:
            raise UserError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        training.check_classes(training=train)
        detector, values = cls(clip, {"kind": kind}), np.zeros(0)
        if kind == "prior":
            values = np.array([np.mean(train.labels)])
        elif kind == "sharpness":
            model = LogisticRegression(class_weight="balanced", C=np.inf)
            model.fit(log_sharpness(train)[:, None], train.labels)
            values = np.array([model.coef_[0, 0], model.intercept_[0]])
        detector.model.load_state_dict({"learnt": torch.from_numpy(values)})
        judged = training.judge(detector.score(validation), validation.labels)
        detector.metadata["history"] = training.mark_best([judged])
        return detector

    @staticmethod
    def build(clip: Clip, options: dict) -> nn.ParameterDict:
        """Return `learnt` (0, 1 or 2 values), float64."""
        return nn.ParameterDict({"learnt": torch.zeros(KINDS[options["kind"]],
                                                       dtype=torch.float64)})

    def score(self, crops) -> np.ndarray:
        """Return the answer (n,) float32 for each crop."""
        kind, values = self.options["kind"], self.arrays()["learnt"]
        if kind == "sharpness":
            scores = scipy.special.expit(values[0] * log_sharpness(crops) + values[1])
        elif kind == "missingness":
            scores = missingness(crops)
        else:
            scores = np.full(len(crops), values[0] if kind == "prior" else 1.0)
        return scores.astype(np.float32)


def log_sharpness(crops) -> np.ndarray:
    """Return the log of the variance of the Laplacian of each grey crop (n,), at least log 1e-3."""
    batches = np.split(np.arange(len(crops)), range(BATCH, len(crops), BATCH))
    greys = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
             for rows in batches for image in crops.images(rows))
    return np.log(np.maximum([cv2.Laplacian(grey, cv2.CV_64F).var() for grey in greys], 1e-3))


def missingness(crops) -> np.ndarray:
    """Return the share (n,) of the frames of each crop's video that gave no crop."""
    if "row" not in crops.all_frames:
        raise UserError("missingness needs crops of a store; crops in memory do not say which "
                        "frames were lost")
    keys = [crops.all_frames[name] for name in KEY]
    shares = (crops.all_frames["row"] < 0).groupby(keys).mean()
    return shares.loc[pd.MultiIndex.from_frame(crops.frames[KEY])].to_numpy()
