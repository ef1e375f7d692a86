"""The linear probe: logistic regression on frozen CLIP image features."""

from pathlib import Path

import numpy as np
import safetensors.numpy
import scipy.special
from sklearn.linear_model import LogisticRegression

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, write_card
from dfnb.evaluation import metrics
from dfnb.models.clip import KINDS, Clip

WEIGHTS = "probe.safetensors"
CS = tuple(10.0**exponent for exponent in range(-5, 3))


class Probe:
    """p(fake) = sigmoid(w . x + b) of the features x of a crop; `weight` (dim,), `bias` (1,), float64."""

    def __init__(self, clip: Clip, weight: np.ndarray, bias: np.ndarray, card: dict):
        self.clip, self.weight, self.bias, self.card = clip, weight, bias, card
        self.trainable, self.history = weight.size + bias.size, card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        return _sigmoid(self.features(crops).astype(np.float64), self.weight, self.bias).astype(np.float32)

    def features(self, crops) -> np.ndarray:
        """(n, dim) float32, the frozen features that it weighs."""
        return self.clip.image_features(crops, kind=self.card["options"]["features"])

    def save(self, folder: Path) -> None:
        tensors = {"weight": self.weight, "bias": self.bias}
        files.atomic_write(Path(folder) / WEIGHTS, safetensors.numpy.save(tensors))
        write_card(folder, self.card)


def fit(
    train, validation, *, clip: Clip, seed: int = 0, features: str = "projected", cs: tuple[float, ...] = CS
) -> Probe:
    """Fit one probe per C on the training split and keep the one with the best validation AUC of frames.

    Features are standardised with the training split's mean and deviation (folded into w and b afterwards), so
    that one grid of C serves both kinds of features; classes weigh the same; of equal AUCs the smaller
    loss is taken. Nothing is drawn: `seed` has no effect.
    """
    if features not in KINDS:
        raise UserError(f"features must be one of {', '.join(KINDS)}, got {features!r}")
    if not cs or any(not c > 0 for c in cs):
        raise UserError(f"cs must be positive numbers, got {list(cs)}")
    training.check_classes(training=train, validation=validation)
    x, y = clip.image_features(train, kind=features).astype(np.float64), np.asarray(train.labels)
    x_validation = clip.image_features(validation, kind=features).astype(np.float64)
    mean, std = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-8)
    history, fitted = [], {}
    # Newton's method: exact in a few steps where lbfgs needs thousands at a large C
    model = LogisticRegression(
        class_weight="balanced", solver="newton-cholesky", max_iter=200, warm_start=True
    )
    for c in sorted(float(c) for c in cs):
        model.set_params(C=c).fit((x - mean) / std, y)
        weight = model.coef_[0] / std
        fitted[c] = weight, model.intercept_ - weight @ mean
        judged = training.judge(_sigmoid(x_validation, *fitted[c]), validation.labels)
        history.append({"C": c, "train_auc": metrics.auc(y, x @ weight)} | judged)
    best = max(history, key=training.merit)
    weight, bias = fitted[best["C"]]
    history = [row | {"best": row is best} for row in history]
    about = card("probe", clip, weight.size + bias.size, history, features=features, C=best["C"])
    return Probe(clip, weight, bias, about)


def _sigmoid(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """sigmoid(w . x + b) for x (n, dim); without overflow."""
    return scipy.special.expit(x @ weight + bias)


def load(folder: Path, clip: Clip) -> Probe:
    """The probe that `save` wrote, on the CLIP it was fitted on."""
    about = read_card(folder, "probe", clip)
    tensors = safetensors.numpy.load((Path(folder) / WEIGHTS).read_bytes())
    dim = clip.dim if about["options"]["features"] == "projected" else clip.width
    check_keys(f"the probe in {folder}", tensors, {"weight": np.empty(dim), "bias": np.empty(1)})
    return Probe(clip, tensors["weight"], tensors["bias"], about)
