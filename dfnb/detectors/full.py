"""Full fine-tuning: every weight of the image encoder and a linear head on its pooled feature."""

from typing import Any, Self

from dfnb.detectors.schedule import Schedule
from dfnb.detectors.tuning import Classifier, Tuned
from dfnb.models.clip import Clip


class Full(Tuned):
    """A tuned encoder and its head.

    With w the encoder's width, L blocks, MLPs m wide, patches of p pixels and n tokens
    (patches + 1), `trainable` = 3 p^2 w + (n + 1) w + 2 (2 w)
    + L (4 (w^2 + w) + (2 w m + m + w) + 2 (2 w)) + w + 1.
    """

    name = "full"

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
