"""The linear probe: logistic regression on frozen CLIP image features."""

from typing import Self

import numpy as np
import scipy.special
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from dfnb import UserError
from dfnb.detectors import training
from dfnb.detectors.base import Detector
from dfnb.evaluation import metrics
from dfnb.models.clip import KINDS, Clip

CS = tuple(10.0**exponent for exponent in range(-5, 3))


class Probe(Detector):
    """p(fake) = sigmoid(w . x + b) of the features x of a crop. `trainable` = dim + 1."""

    name = "probe"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, features: str = "projected",
            cs: tuple[float, ...] = CS) -> Self:
        """Fit one probe per C on the training split and keep the best on validation.

        Features are standardised with the training split's mean and deviation, which are folded
        into w and b afterwards, so that one grid of C serves both kinds of features. The classes
        have the same weight. Nothing is drawn: `seed` has no effect.
        """
        if features not in KINDS:
            raise UserError(f"features must be one of {', '.join(KINDS)}, got {features!r}")
        if not cs or any(not c > 0 for c in cs):
            raise UserError(f"cs must be positive numbers, got {list(cs)}")
        training.check_classes(training=train, validation=validation)
        detector = cls(clip, {"features": features})
        x, y = detector.features(train).astype(np.float64), np.asarray(train.labels)
        history, fitted = [], {}
        for c, weight, bias in _regressions(x, y, cs):
            fitted[c] = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
            detector.model.load_state_dict(fitted[c])
            judged = training.judge(detector._probabilities(validation), validation.labels)
            history.append({"C": c, "train_auc": metrics.auc(y, x @ weight)} | judged)
        best = max(history, key=training.merit)
        detector.model.load_state_dict(fitted[best["C"]])
        detector.options["C"] = best["C"]
        detector.metadata["history"] = training.mark_best(history)
        return detector

    @staticmethod
    def build(clip: Clip, options: dict) -> nn.ParameterDict:
        """Return `weight` (dim,) and `bias` (1,), float64."""
        dim = clip.dim if options["features"] == "projected" else clip.width
        return nn.ParameterDict({"weight": torch.zeros(dim, dtype=torch.float64),
                                 "bias": torch.zeros(1, dtype=torch.float64)})

    def score(self, crops) -> np.ndarray:
        """Return the probability of fake (n,) float32 of each crop."""
        return self._probabilities(crops).astype(np.float32)

    def _probabilities(self, crops) -> np.ndarray:
        values, x = self.arrays(), self.features(crops).astype(np.float64)
        return scipy.special.expit(x @ values["weight"] + values["bias"])

    def features(self, crops) -> np.ndarray:
        """Return the frozen features (n, dim) float32 that are weighed."""
        return self.clip.image_features(crops, kind=self.options["features"])

    def logit_of_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return w . x (n,), without the bias."""
        x = pooled if self.options["features"] == "pooled" else self.project(pooled)
        return x @ self.model["weight"].detach().to(x)


def _regressions(x: np.ndarray, y: np.ndarray, cs: tuple[float, ...]):
    """Yield C, weight (dim,) and bias (1,) of a regression on features x (n, dim) for each C."""
    mean, std = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-8)
    # Newton's method: exact in a few steps where lbfgs needs thousands at a large C
    model = LogisticRegression(class_weight="balanced", solver="newton-cholesky", max_iter=200,
                               warm_start=True)
    for c in sorted(float(c) for c in cs):
        model.set_params(C=c).fit((x - mean) / std, y)
        weight = model.coef_[0] / std
        yield c, weight, model.intercept_ - weight @ mean
