"""Full fine-tuning: every weight of the image encoder and a linear head on its pooled feature."""

from typing import Any, Self

import numpy as np
import torch
from torch import nn

from dfnb.detectors import tuning
from dfnb.detectors.base import Detector
from dfnb.detectors.schedule import Schedule
from dfnb.detectors.tuning import Classifier
from dfnb.models.clip import Clip


class Full(Detector):
    """A tuned encoder and its head.

    With w the encoder's width, L blocks, MLPs m wide, patches of p pixels and n tokens
    (patches + 1), `trainable` = 3 p^2 w + (n + 1) w + 2 (2 w)
    + L (4 (w^2 + w) + (2 w m + m + w) + 2 (2 w)) + w + 1.
    """

    name = "full"
    head = "head"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, learning_rate: float = 1e-4,
            **schedule: Any) -> Self:
        """Train all weights and a head; keep the best epoch on validation.

        `schedule`: fields of `Schedule`, such as epochs, batch, patience, weight_decay. The
        learning rate is a tenth of LoRA's, since every weight moves.
        """
        plan = Schedule(lr=learning_rate, **schedule)
        return cls(clip, {}, seed=seed).learn(train, validation, plan, seed)

    @staticmethod
    def build(clip: Clip, options: dict) -> Classifier:
        """Return a copy of CLIP's encoder, of which all weights train, and a new head."""
        return Classifier(clip, clip.trainable_encoder())

    @property
    def encoder(self) -> nn.Module:
        """The tuned encoder."""
        return self.model.vision

    def logit_of_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the head's logits (n,)."""
        return self.model.logit(pooled)

    def features(self, crops) -> np.ndarray:
        """Return the pooled features (n, width) float32 that the head takes."""
        return tuning.features(self, crops)
