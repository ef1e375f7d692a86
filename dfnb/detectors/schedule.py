"""How long and how fast a detector trains."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from dfnb import UserError


def check_least(options: Mapping, **least: float) -> None:
    """Raise UserError where an option is below its least value; None is allowed."""
    for name, bound in least.items():
        if options[name] is not None and not options[name] >= bound:
            raise UserError(f"{name} must be at least {bound}, got {options[name]}")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    `epochs` counts validations. An epoch shows as many crops as the training split has; with
    `steps`, that number of gradient steps is spread evenly over the epochs instead. `warmup` is a
    share of all steps, `floor` the learning rate at the end. `flip` mirrors half of the crops.
    Training stops after `patience` epochs without a better one (None: never). `optimiser` is
    "adamw" or "sgd", the latter with momentum 0.9.
    """

    epochs: int = 4
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int | None = 2
    steps: int | None = None
    flip: bool = False
    floor: float = 0.0
    optimiser: str = "adamw"

    def __post_init__(self):
        least = {"epochs": 1, "batch": 2, "patience": 1, "weight_decay": 0, "steps": self.epochs}
        check_least(vars(self), **least)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"learning_rate must be a positive number, got {self.lr}")
        if not 0 <= self.floor <= self.lr:
            raise UserError(f"floor must lie between 0 and the learning rate {self.lr:g}, "
                            f"got {self.floor}")
        if self.optimiser not in ("adamw", "sgd"):
            raise UserError(f"optimiser must be adamw or sgd, got {self.optimiser!r}")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup is a share of all steps and must lie in [0, 1), "
                            f"got {self.warmup}")

    def lengths(self, examples: int) -> list[int]:
        """Return the number of gradient steps of each epoch for a number of training examples."""
        if self.steps is None:
            return [math.ceil(examples / self.batch)] * self.epochs
        ends = [round(self.steps * epoch / self.epochs) for epoch in range(self.epochs + 1)]
        return [after - before for before, after in itertools.pairwise(ends)]

    def factor(self, step: int, total: int) -> float:
        """Return the share of `lr` at a step: a linear rise, then half a cosine down to `floor`."""
        rise = round(self.warmup * total)
        if step < rise:
            return (step + 1) / (rise + 1)
        least, fall = self.floor / self.lr, (step - rise) / max(1, total - rise)
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * fall))
