"""Prompt tuning: context vectors in the text prompts train, CLIP's two encoders stay frozen.

Zhou et al., "Learning to Prompt for Vision-Language Models" (2022), in the form of Khan and
Dang-Nguyen, "CLIPping the Deception" (2024).
"""

import math
from typing import Self

import torch
from torch import nn

from dfnb import UserError
from dfnb.detectors.base import Detector
from dfnb.detectors.schedule import Schedule, check_least
from dfnb.models.clip import Clip, Reader

SPREAD = 0.02  # standard deviation of the context vectors at the start


class Prompts(nn.Module):
    """Unit-length image features x (n, dim) to logits of fake (n,).

    The logit is exp(logit_scale) (cos(x, t_fake) - cos(x, t_real)), which is that of the softmax
    over both prompts. t_c is CLIP's text feature of [start] [word of c] [context] [.] [end].
    """

    def __init__(self, clip: Clip, *, context: int, words: tuple[str, str]):
        super().__init__()
        self.words, self._text_around = words, clip.text_around
        self._scale = math.exp(clip.logit_scale)
        self.context = nn.Parameter(SPREAD * torch.randn(context, clip.text_width))

    def text(self) -> torch.Tensor:
        """Return the features (2, dim) of both prompts, whose lengths may differ."""
        return torch.cat([self._text_around(f"{word} {{}} .", self.context[None])
                          for word in self.words])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (n,)."""
        real, fake = self.text()
        # a sum of products: a matrix product would be rounded to bfloat16
        return self._scale * (features * (fake - real)).sum(dim=-1)


class Prompt(Detector):
    """Two prompts that share a tuned context. `trainable` = context * text width."""

    name = "prompt"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, context: int = 16,
            words: tuple[str, str] = ("real", "fake"), learning_rate: float = 2e-3,
            batch: int = 16, weight_decay: float = 5e-4, epochs: int = 10,
            patience: int | None = None, steps: int | None = None) -> Self:
        """Train the context by SGD: one epoch of warm-up, then a cosine to 0; keep the best epoch.

        `words` of the real and the fake prompt: where the AUC stays the same after swapping or
        replacing them, they contribute nothing. Momentum (0.9) and weight decay are those of CoOp;
        the default of `epochs` is ours.
        """
        check_least({"context": context}, context=1)
        if isinstance(words, str) or len(words) != 2 or set("{}") & set("".join(words)):
            raise UserError("words must be two, for the real and the fake prompt, without braces, "
                            f"got {words!r}")
        plan = Schedule(epochs=epochs, batch=batch, lr=learning_rate, weight_decay=weight_decay,
                        patience=patience, steps=steps, optimiser="sgd",
                        warmup=1 / epochs if epochs > 1 else 0.0)
        detector = cls(clip, {"context": context, "words": list(words)}, seed=seed)
        detector.model.text()  # refuses prompts that are too long before features are computed
        return detector.learn(train, validation, plan, seed)

    @staticmethod
    def build(clip: Clip, options: dict) -> Prompts:
        """Return the prompts with a context drawn at random."""
        return Prompts(clip, context=options["context"], words=tuple(options["words"]))

    def reader(self, view) -> Reader:
        """Return what maps rows of a view to their frozen features (n, dim), from the cache."""
        features = torch.from_numpy(self.clip.image_features(view)).to(self.clip.device)
        return lambda rows, flip=None: features[torch.as_tensor(rows, device=self.clip.device)]

    def logit_of_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits (n,) of pooled features (n, width)."""
        return self.model(self.project(pooled))
