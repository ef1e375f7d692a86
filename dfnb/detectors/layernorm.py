"""LN-tuning: only the gains and biases of the image tower's LayerNorms and a head on the unit-length feature train.

Yermakov, Cech and Matas, "Unlocking the Hidden Potential of CLIP in Generalizable Deepfake Detection" (2503.19683).
"""

import dataclasses
import functools
import warnings
from pathlib import Path

import numpy as np
import peft
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import (
    ADAPTER,
    card,
    check_keys,
    read_card,
    read_tensors,
    write_adapter,
    write_card,
)
from dfnb.detectors.training import Schedule
from dfnb.models.clip import Clip
from dfnb.models.encoder import enter, leave

HEAD = "head.safetensors"
NORMS = ["pre_layrnorm", "layer_norm1", "layer_norm2", "post_layernorm"]  # the first as transformers spells it


def adapt(tower: nn.Module) -> peft.PeftModel:
    """Let PEFT put trainable copies in the place of all LayerNorms; freeze the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads an attribute that transformers renames
        warnings.filterwarnings("ignore", "Unsupported layer type .*LayerNorm", UserWarning)  # it only counts features
        return peft.get_peft_model(tower, peft.LNTuningConfig(task_type=None, target_modules=NORMS))


class Classifier(nn.Module):
    """The adapted tower and a linear head on its feature of length one: pixels (n, 3, size, size) to logits (n,)."""

    def __init__(self, clip: Clip):
        super().__init__()
        self.tower, self.head = adapt(clip.vision_tower()), nn.Linear(clip.width, 1)
        self.to(clip.device)

    def pool(self, pixels: torch.Tensor) -> torch.Tensor:
        tower = self.tower.get_base_model()
        return F.normalize(leave(tower, enter(tower, pixels, 0), 0).float(), dim=-1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(pixels)).squeeze(-1)

    def logit(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits (n,) of what leaves the tower (n, width); `relevance` asks for them."""
        return self.head(F.normalize(pooled.float(), dim=-1)).squeeze(-1)


def uniformity(features: torch.Tensor) -> torch.Tensor:
    """Log mean exp(-2 |x - y|^2) over all pairs of features (n, width) on the sphere (Wang and Isola, 2020, eq. 9)."""
    return _distances(features).mul(-2).exp()[_pairs(len(features))].mean().log()


def alignment(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of |x - y|^2 over the pairs of one class (Wang and Isola, 2020, eq. 8); 0 where there is no such pair."""
    alike = _pairs(len(labels)).to(labels.device) & (labels[:, None] == labels)
    return _distances(features)[alike].sum() / alike.sum().clamp(min=1)


def _distances(features: torch.Tensor) -> torch.Tensor:
    return (features[:, None] - features).square().sum(dim=-1)  # (n, n); not 2 - 2 x.y: bfloat16 would blur it


def _pairs(count: int) -> torch.Tensor:
    return torch.ones(count, count, dtype=torch.bool).triu(1)


def spherical_loss(model: Classifier, pixels, labels: torch.Tensor, *, spread: float, pull: float) -> tuple:
    """Cross-entropy + spread * uniformity + pull * alignment, and the logits of fake (n,)."""
    features = model.pool(pixels)
    logits = model.head(features).squeeze(-1).float()
    terms = spread * uniformity(features) + pull * alignment(features, labels)
    return training.balanced_loss(logits, labels) + terms, logits


class LayerNorm:
    """A tower with tuned LayerNorms and its head. `trainable` = 2 * width * (2 * blocks + 2) + width + 1."""

    def __init__(self, clip: Clip, model: Classifier, card: dict):
        self.clip, self.model, self.card = clip, model.eval(), card
        self.trainable, self.history = card["trainable"], card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        return training.predict(self.model, crops, self.clip)

    def features(self, crops) -> np.ndarray:
        """(n, width) float32 of length one, the features that the head sees."""
        return training.features(self.model, crops, self.clip)

    def save(self, folder: Path) -> None:
        """Write adapter/ as PEFT does, the head, last the card."""
        write_adapter(folder, self.model.tower)
        files.atomic_write(Path(folder) / HEAD, safetensors.torch.save(self.model.head.state_dict()))
        write_card(folder, self.card)


def fit(
    train, validation, *, clip: Clip, seed: int, uniform: float = 0.5, align: float = 0.1,
    learning_rate: float = 3e-4, floor: float = 1e-6, weight_decay: float = 0.0, warmup: float = 0.0, **schedule,
) -> LayerNorm:  # fmt: skip
    """Train LayerNorms and head; keep the best epoch on validation.

    `uniform` and `align` weigh the two terms on the sphere; the learning rate falls to `floor` along a cosine: the
    paper's. `schedule`: other fields of `training.Schedule`, such as epochs, batch, patience; these are the house's.
    """
    for name, weight in (("uniform", uniform), ("align", align)):
        if not weight >= 0:
            raise UserError(f"{name} is a weight and must be at least 0, got {weight}")
    plan = Schedule(lr=learning_rate, floor=floor, weight_decay=weight_decay, warmup=warmup, **schedule)
    with training.seeded(seed, clip):
        model = Classifier(clip)
    loss = functools.partial(spherical_loss, spread=uniform, pull=align)
    history = training.fit(model, train, validation, clip=clip, schedule=plan, seed=seed, loss=loss)
    options = {"uniform": uniform, "align": align, "seed": seed, "schedule": dataclasses.asdict(plan)}
    return LayerNorm(clip, model, card("layernorm", clip, training.trainable(model), history, **options))


def load(folder: Path, clip: Clip) -> LayerNorm:
    """The detector that `save` wrote, on the CLIP it was fitted on; PEFT would only warn of missing keys."""
    about = read_card(folder, "layernorm", clip)
    with training.seeded(0, clip):
        model = Classifier(clip)
    weights = read_tensors(Path(folder) / ADAPTER / "adapter_model.safetensors")
    check_keys(f"the adapter in {folder}", weights, peft.get_peft_model_state_dict(model.tower))
    peft.set_peft_model_state_dict(model.tower, weights)
    head = read_tensors(Path(folder) / HEAD)
    check_keys(f"the head in {folder}", head, model.head.state_dict())
    model.head.load_state_dict(head)
    return LayerNorm(clip, model, about)
