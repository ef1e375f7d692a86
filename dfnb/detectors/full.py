"""Full fine-tuning: every weight of the image tower, and a linear head on its pooled feature."""

import dataclasses
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from dfnb import files
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, read_tensors, write_card
from dfnb.detectors.training import Schedule
from dfnb.models.clip import Clip
from dfnb.models.encoder import enter, leave

WEIGHTS = "full.safetensors"


class Classifier(nn.Module):
    """A copy of CLIP's image tower and a linear head: normalised pixels (n, 3, size, size) to logits of fake (n,)."""

    def __init__(self, clip: Clip):
        super().__init__()
        self.tower, self.head = clip.vision_tower(), nn.Linear(clip.width, 1)
        self.to(clip.device)

    def pool(self, pixels: torch.Tensor) -> torch.Tensor:
        return leave(self.tower, enter(self.tower, pixels, 0), 0)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(pixels)).squeeze(-1)


class Full:
    """A tuned tower and its head.

    With w the tower's width, L blocks, MLPs m wide, patches of p pixels and n tokens (patches + 1), `trainable` =
    3 p^2 w + (n + 1) w + 2 (2 w) + L (4 (w^2 + w) + (2 w m + m + w) + 2 (2 w)) + w + 1.
    """

    def __init__(self, clip: Clip, model: Classifier, card: dict):
        self.clip, self.model, self.card = clip, model.eval(), card
        self.trainable, self.history = card["trainable"], card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        return training.predict(self.model, crops, self.clip)

    def features(self, crops) -> np.ndarray:
        """(n, width) float32, the pooled features that the head sees."""
        return training.features(self.model, crops, self.clip)

    def save(self, folder: Path) -> None:
        """Write the weights of tower and head, last the card."""
        weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        files.atomic_write(Path(folder) / WEIGHTS, safetensors.torch.save(weights))
        write_card(folder, self.card)


def fit(train, validation, *, clip: Clip, seed: int, learning_rate: float = 1e-4, **schedule) -> Full:
    """Train the whole tower and a head; keep the best epoch on validation.

    `schedule`: fields of `training.Schedule`, such as epochs, batch, patience, weight_decay. The learning rate is
    a tenth of LoRA's, since every weight moves.
    """
    plan = Schedule(lr=learning_rate, **schedule)
    with training.seeded(seed, clip):
        model = Classifier(clip)
    history = training.fit(model, train, validation, clip=clip, schedule=plan, seed=seed)
    options = {"seed": seed, "schedule": dataclasses.asdict(plan)}
    return Full(clip, model, card("full", clip, training.trainable(model), history, **options))


def load(folder: Path, clip: Clip) -> Full:
    """The detector that `save` wrote, on the CLIP it was fitted on."""
    about = read_card(folder, "full", clip)
    with training.seeded(0, clip):
        model = Classifier(clip)
    weights = read_tensors(Path(folder) / WEIGHTS)
    check_keys(f"the weights in {folder}", weights, model.state_dict())
    model.load_state_dict(weights)
    return Full(clip, model, about)
