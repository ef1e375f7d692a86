"""Nearest neighbours: a crop is as fake as the training crops that CLIP finds most similar.

Ojha, Li and Lee, "Towards Universal Fake Image Detectors that Generalize Across Generative Models"
(CVPR 2023).
"""

from typing import Self

import numpy as np
import torch
from torch import nn

from dfnb import UserError
from dfnb.detectors import training
from dfnb.detectors.base import Detector
from dfnb.models.clip import Clip

KS = (1, 3, 9)


class Neighbours(Detector):
    """The frozen features of the training crops, reals and fakes apart. `trainable` = 0."""

    name = "neighbours"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0,
            ks: tuple[int, ...] = KS) -> Self:
        """Keep the training features and the k of `ks` with the best validation AUC.

        Nothing is drawn: `seed` has no effect.
        """
        training.check_classes(training=train, validation=validation)
        features, labels = torch.from_numpy(clip.image_features(train)), torch.tensor(train.labels)
        bank = {"real": features[labels == 0], "fake": features[labels == 1]}
        counts = {name: len(rows) for name, rows in bank.items()}
        least = min(counts.values())
        if not ks or any(not 1 <= k <= least for k in ks):
            raise UserError(f"ks must lie between 1 and the {least} training crops of the smaller "
                            f"class, got {list(ks)}")
        detector = cls(clip, counts)
        detector.model.load_state_dict(bank)
        history = []
        for k in ks:
            detector.options["k"] = k
            history.append({"k": k} | training.judge(detector.score(validation),
                                                     validation.labels))
        detector.options["k"] = max(history, key=training.merit)["k"]
        detector.metadata["history"] = training.mark_best(history)
        return detector

    @staticmethod
    def build(clip: Clip, options: dict) -> nn.ParameterDict:
        """Return room for the features of `options["real"]` reals and `options["fake"]` fakes."""
        return nn.ParameterDict({name: torch.zeros(options[name], clip.dim)
                                 for name in ("real", "fake")}).requires_grad_(False)

    def score(self, crops) -> np.ndarray:
        """Return scores (n,) float32 in [0, 1], one half where a crop is as near to both classes.

        A quarter of the difference of the mean cosines to k fakes and k reals is added.
        """
        return lean(self.features(crops), self.arrays(), self.options["k"])


def lean(features: np.ndarray, bank: dict[str, np.ndarray], k: int) -> np.ndarray:
    """Return the scores (n,) float32 of features (n, dim) for banks "real" and "fake" (m, dim)."""
    real, fake = (np.sort(features @ bank[name].T, axis=1)[:, -k:].mean(axis=1)
                  for name in ("real", "fake"))
    return (0.5 + (fake - real) / 4).astype(np.float32)
