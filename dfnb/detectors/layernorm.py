"""LN-tuning: the LayerNorms of the image encoder and a head on the unit-length feature train.

Yermakov, Cech and Matas, "Unlocking the Hidden Potential of CLIP in Generalizable Deepfake
Detection" (arXiv 2503.19683).
"""

import functools
import warnings
from pathlib import Path
from typing import Any, Self

import peft
import torch
import torch.nn.functional as F
from torch import nn

from dfnb.detectors import training, tuning
from dfnb.detectors.schedule import Schedule, check_least
from dfnb.models.clip import Clip

NORMS = ["pre_layrnorm", "layer_norm1", "layer_norm2", "post_layernorm"]  # as transformers spells


class SphereClassifier(tuning.Classifier):
    """An encoder and a linear head on its feature of length one."""

    def feature(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the pooled features scaled to length one."""
        return F.normalize(pooled.float(), dim=-1)


class LayerNorm(tuning.Tuned):
    """An encoder with tuned LayerNorms and its head.

    `trainable` = 2 * width * (2 * blocks + 2) + width + 1.
    """

    name = "layernorm"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, uniform: float = 0.5,
            align: float = 0.1, learning_rate: float = 3e-4, floor: float = 1e-6,
            weight_decay: float = 0.0, warmup: float = 0.0, **schedule: Any) -> Self:
        """Train LayerNorms and head; keep the best epoch on validation.

        `uniform` and `align` are the weights of the two terms on the sphere; the learning rate
        falls to `floor` along a cosine. These defaults are the paper's. `schedule`: other fields
        of `Schedule`, such as epochs, batch, patience, whose defaults are ours.
        """
        options = {"uniform": uniform, "align": align}
        check_least(options, uniform=0, align=0)
        plan = Schedule(lr=learning_rate, floor=floor, weight_decay=weight_decay, warmup=warmup,
                        **schedule)
        loss = functools.partial(spherical_loss, **options)
        return cls(clip, options, seed=seed).learn(train, validation, plan, seed, loss=loss)

    @staticmethod
    def build(clip: Clip, options: dict) -> SphereClassifier:
        """Return an encoder whose LayerNorms train, and a new head."""
        return SphereClassifier(clip, adapt(clip.trainable_encoder()))

    def save_model(self, folder: Path) -> None:
        """Write adapter/ as PEFT does, and the head."""
        tuning.save(self.model, folder)

    def load_model(self, folder: Path) -> None:
        """Read adapter and head."""
        tuning.load(self.model, folder)


def adapt(encoder: nn.Module) -> peft.PeftModel:
    """Let PEFT put trainable copies in the place of all LayerNorms; freeze the rest."""
    with warnings.catch_warnings():  # PEFT only looks for the layer's number of features
        warnings.filterwarnings("ignore", "Unsupported layer type .*LayerNorm", UserWarning)
        return tuning.adapt(encoder, peft.LNTuningConfig(task_type=None, target_modules=NORMS))


def spherical_loss(model: SphereClassifier, pixels, labels: torch.Tensor, *, uniform: float,
                   align: float) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Return cross-entropy + uniform * uniformity + align * alignment, logits (n,), no terms."""
    features = model.pool(pixels)
    logits = model.head(features).squeeze(-1).float()
    terms = uniform * uniformity(features) + align * alignment(features, labels)
    return training.balanced_loss(logits, labels) + terms, logits, {}


def uniformity(features: torch.Tensor) -> torch.Tensor:
    """Return log mean exp(-2 |x - y|^2) over all pairs of features (n, width) on the sphere.

    Wang and Isola, 2020, eq. 9.
    """
    return _distances(features).mul(-2).exp()[_pairs(len(features))].mean().log()


def alignment(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean of |x - y|^2 over the pairs of one class; 0 where there is no such pair.

    Wang and Isola, 2020, eq. 8.
    """
    alike = _pairs(len(labels)).to(labels.device) & (labels[:, None] == labels)
    return _distances(features)[alike].sum() / alike.sum().clamp(min=1)


def _distances(features: torch.Tensor) -> torch.Tensor:
    # (n, n); 2 - 2 x.y would be a matrix product, too coarse in bfloat16
    return (features[:, None] - features).square().sum(dim=-1)


def _pairs(count: int) -> torch.Tensor:
    return torch.ones(count, count, dtype=torch.bool).triu(1)
