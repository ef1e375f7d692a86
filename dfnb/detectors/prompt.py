"""Prompt tuning: context vectors in the text prompts train, both towers of CLIP stay frozen.

Zhou et al., "Learning to Prompt for Vision-Language Models" (2022), as Khan and Dang-Nguyen, "CLIPping the Deception"
(2024), use it.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, read_tensors, write_card
from dfnb.detectors.training import Schedule
from dfnb.models.clip import Clip, Reader

WEIGHTS = "prompt.safetensors"
SPREAD = 0.02  # standard deviation of the context vectors at the start


class Prompts(nn.Module):
    """Logits of fake (n,) = exp(logit_scale) (cos(x, t_fake) - cos(x, t_real)) of unit-length image features x (n, dim).

    t_c is CLIP's text feature of [start] [word of c] [context] [.] [end]. This is the logit of the softmax over both.
    """

    def __init__(self, clip: Clip, *, context: int, words: tuple[str, str]):
        super().__init__()
        self.words, self._text_around, self._scale = words, clip.text_around, math.exp(clip.logit_scale)
        self.context = nn.Parameter(SPREAD * torch.randn(context, clip.text_width))
        self.to(clip.device)

    def text(self) -> torch.Tensor:
        """Features (2, dim) of the real and of the fake prompt; the words may differ in their number of tokens."""
        return torch.cat([self._text_around(f"{word} {{}} .", self.context[None]) for word in self.words])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        real, fake = self.text()
        return self._scale * (features * (fake - real)).sum(dim=-1)  # no matrix product: bfloat16 would blur it


class Prompt:
    """Two prompts that share a tuned context. `trainable` = context * text width."""

    def __init__(self, clip: Clip, model: Prompts, card: dict):
        self.clip, self.model, self.card = clip, model.eval(), card
        self.trainable, self.history = card["trainable"], card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        return training.predict(self.model, crops, self.clip, read=_reader(self.clip, crops))

    def save(self, folder: Path) -> None:
        files.atomic_write(Path(folder) / WEIGHTS, safetensors.torch.save(self.model.state_dict()))
        write_card(folder, self.card)


def fit(
    train, validation, *, clip: Clip, seed: int, context: int = 16, words: tuple[str, str] = ("real", "fake"),
    learning_rate: float = 2e-3, batch: int = 16, weight_decay: float = 5e-4, epochs: int = 10,
    patience: int | None = None, steps: int | None = None,
) -> Prompt:  # fmt: skip
    """Train the context by SGD: one epoch of warm-up, then a cosine to 0; keep the best epoch on validation.

    `words` of the real and the fake prompt: equal AUCs after swapping or replacing them mean that they carry nothing.
    Momentum (0.9) and weight decay are those of CoOp; `epochs` is the house's.
    """
    words = _check(context, words)
    schedule = Schedule(
        epochs=epochs, batch=batch, lr=learning_rate, weight_decay=weight_decay, patience=patience, steps=steps,
        warmup=1 / epochs if epochs > 1 else 0.0, optimiser="sgd",
    )  # fmt: skip
    with training.seeded(seed, clip):
        model = Prompts(clip, context=context, words=words)
    model.text()  # prompts that do not fit are refused before the image features are computed
    history = training.fit(
        model, train, validation, clip=clip, schedule=schedule, seed=seed, reader=lambda view: _reader(clip, view)
    )
    options = {"context": context, "words": list(words), "seed": seed, "schedule": dataclasses.asdict(schedule)}
    return Prompt(clip, model, card("prompt", clip, training.trainable(model), history, **options))


def _reader(clip: Clip, view) -> Reader:
    """Rows of a view to their frozen image features (n, dim) of length one, from the cache."""
    features = torch.from_numpy(clip.image_features(view)).to(clip.device)
    return lambda rows, flip=None: features[torch.as_tensor(rows, device=clip.device)]


def _check(context: int, words: tuple[str, str]) -> tuple[str, str]:
    if context < 1:
        raise UserError(f"context must be at least 1 vector, got {context}")
    if isinstance(words, str) or len(words) != 2 or any("{" in word or "}" in word for word in words):
        raise UserError(f"words must be two, for the real and the fake prompt, without braces, got {words!r}")
    return tuple(words)


def load(folder: Path, clip: Clip) -> Prompt:
    """The detector that `save` wrote, on the CLIP it was fitted on."""
    about = read_card(folder, "prompt", clip)
    with training.seeded(0, clip):
        model = Prompts(clip, context=about["options"]["context"], words=tuple(about["options"]["words"]))
    weights = read_tensors(Path(folder) / WEIGHTS)
    check_keys(f"the context in {folder}", weights, model.state_dict())
    model.load_state_dict(weights)
    return Prompt(clip, model, about)
