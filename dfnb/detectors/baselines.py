"""Trivial answers: a table that one of them tops says something about the table."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import safetensors.numpy
import scipy.special
from sklearn.linear_model import LogisticRegression

from dfnb import KEY, UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, read_tensors, write_card
from dfnb.models.clip import Clip

WEIGHTS, BATCH = "trivial.safetensors", 1024  # crops held in memory at a time
KINDS = {  # kind -> how many numbers it learns from the training split
    "constant": 0,  # always "fake"
    "prior": 1,  # the share of fakes in training
    "missingness": 0,  # the share of the video's frames in which no face was kept
    "sharpness": 2,  # slope and intercept over the logarithm of the sharpness
}


class Trivial:
    """An answer that sees no face. `trainable` = the numbers learnt: 0, 1, 0 and 2 in the order of `KINDS`."""

    def __init__(self, values: np.ndarray, card: dict):
        self.values, self.card, self.history = values, card, card["history"]
        self.trainable, self.kind = values.size, card["options"]["kind"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        if self.kind == "sharpness":
            scores = scipy.special.expit(self.values[0] * log_sharpness(crops) + self.values[1])
        elif self.kind == "missingness":
            scores = lost(crops)
        else:
            scores = np.full(len(crops), self.values[0] if self.kind == "prior" else 1.0)
        return scores.astype(np.float32)

    def save(self, folder: Path) -> None:
        files.atomic_write(Path(folder) / WEIGHTS, safetensors.numpy.save({"values": self.values}))
        write_card(folder, self.card)


def log_sharpness(crops) -> np.ndarray:
    """(n,) log of the variance of the Laplacian of each crop's grey picture; an even one counts as variance 1e-3."""
    batches = np.split(np.arange(len(crops)), range(BATCH, len(crops), BATCH))
    greys = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for rows in batches for image in crops.images(rows))
    return np.log(np.maximum([cv2.Laplacian(grey, cv2.CV_64F).var() for grey in greys], 1e-3))


def lost(crops) -> np.ndarray:
    """(n,) share of the frames of each crop's video that gave no crop."""
    if "row" not in crops.all_frames:
        raise UserError("missingness needs crops of a store; crops in memory do not say which frames were lost")
    shares = (crops.all_frames["row"] < 0).groupby([crops.all_frames[name] for name in KEY]).mean()
    return shares.loc[pd.MultiIndex.from_frame(crops.frames[KEY])].to_numpy()


def fit(train, validation, *, clip: Clip, seed: int = 0, kind: str = "constant") -> Trivial:
    """The answer of one of `KINDS`; CLIP only signs the card, nothing is drawn from `seed`, `validation` is only judged."""
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    training.check_classes(training=train)
    values = np.zeros(0)
    if kind == "prior":
        values = np.array([np.mean(train.labels)])
    elif kind == "sharpness":
        model = LogisticRegression(class_weight="balanced", C=np.inf).fit(log_sharpness(train)[:, None], train.labels)
        values = np.array([model.coef_[0, 0], model.intercept_[0]])
    detector = Trivial(values, card("baselines", clip, values.size, [], kind=kind))
    detector.history.append(training.judge(detector.score(validation), validation.labels) | {"best": True})
    return detector


def load(folder: Path, clip: Clip) -> Trivial:
    """The detector that `save` wrote."""
    about = read_card(folder, "baselines", clip)
    tensors = {name: value.numpy() for name, value in read_tensors(Path(folder) / WEIGHTS).items()}
    check_keys(f"the values in {folder}", tensors, {"values": np.empty(KINDS[about["options"]["kind"]])})
    return Trivial(tensors["values"], about)
