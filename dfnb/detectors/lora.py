"""LoRA on the image encoder: y = W x + (alpha / rank) B A x for q and v of the last blocks."""

from pathlib import Path
from typing import Self

import peft
from torch import nn

from dfnb import UserError, files
from dfnb.detectors import tuning
from dfnb.detectors.schedule import Schedule
from dfnb.detectors.tuning import Classifier, Tuned
from dfnb.models.clip import Clip, Reader


class Lora(Tuned):
    """An adapted encoder and its head. `trainable` = 2 * 2 * rank * width * blocks + width + 1."""

    name = "lora"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, rank: int = 8,
            alpha: float = 64, dropout: float = 0.05, blocks: int | None = None,
            learning_rate: float = 1e-3, batch: int = 32, epochs: int = 4,
            patience: int | None = 2, steps: int | None = None, weight_decay: float = 0.01,
            warmup: float = 0.1, flip: bool = False, prefix: bool = True) -> Self:
        """Train q and v of the last `blocks` blocks (None: all) and a head; keep the best epoch.

        With `prefix` the activations of the frozen blocks are computed once and kept on disk, for
        this run and all others on the same crops. `flip` needs them anew for mirrored crops and
        switches that off.
        """
        plan = Schedule(lr=learning_rate, batch=batch, epochs=epochs, patience=patience,
                        steps=steps, weight_decay=weight_decay, warmup=warmup, flip=flip)
        options = {"rank": rank, "alpha": alpha, "dropout": dropout,
                   "blocks": clip.layers if blocks is None else blocks,
                   "prefix": prefix and not flip}
        return cls(clip, options, seed=seed).learn(train, validation, plan, seed)

    @staticmethod
    def build(clip: Clip, options: dict) -> Classifier:
        """Return the adapted blocks under a new head.

        The model takes the activations that enter the first adapted block. The blocks before it
        are frozen and the same for every run.
        """
        shape = {name: options[name] for name in ("rank", "alpha", "dropout", "blocks")}
        _check(clip, **shape)
        adapted = adapt(clip.trainable_encoder(), **shape)
        return Classifier(clip, adapted, clip.layers - shape["blocks"])

    def reader(self, view) -> Reader:
        """Return what maps rows of a view to the activations that enter the model."""
        keep = self.options["prefix"] and self.cache_prefix
        return self.clip.hidden_reader(view, self.model.block, keep=keep)

    def save_model(self, folder: Path) -> None:
        """Write adapter/ as PEFT does, and the head."""
        tuning.save(self.model, folder)

    def load_model(self, folder: Path) -> None:
        """Read adapter and head; PEFT's configuration must say what the metadata says."""
        _check_config(folder / tuning.CONFIG, self.model.encoder.peft_config["default"])
        tuning.load(self.model, folder)


def adapt(encoder: nn.Module, *, rank: int, alpha: float, dropout: float,
          blocks: int) -> peft.PeftModel:
    """Wrap q and v of the last `blocks` blocks with LoRA (Hu et al., 2021, eq. 3).

    B starts at zero, so adapting does not change the encoder's output until a step is taken.
    """
    layers = len(encoder.encoder.layers)
    return tuning.adapt(encoder, peft.LoraConfig(
        task_type=None,  # FEATURE_EXTRACTION expects a text model
        target_modules=["q_proj", "v_proj"], r=rank, lora_alpha=alpha, lora_dropout=dropout,
        layers_to_transform=list(range(layers - blocks, layers))))


def _check(clip: Clip, *, rank: int, alpha: float, dropout: float, blocks: int) -> None:
    if not 1 <= rank <= clip.width:
        raise UserError(f"rank must lie between 1 and the encoder's width {clip.width}, got {rank}")
    if not alpha > 0:
        raise UserError(f"alpha must be positive, got {alpha}")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout must lie in [0, 1), got {dropout}")
    if not 1 <= blocks <= clip.layers:
        raise UserError(f"blocks must lie between 1 and the encoder's {clip.layers}, got {blocks}")


def _check_config(path: Path, expected: peft.LoraConfig) -> None:
    """Raise UserError where plain PEFT would score otherwise than the metadata says."""
    config, wanted = files.read_json(path), expected.to_dict()
    wanted["target_modules"] = sorted(wanted["target_modules"])
    for name in ("r", "lora_alpha", "target_modules", "layers_to_transform"):
        if config.get(name) != wanted[name]:
            raise UserError(f"{path} says {name} = {config.get(name)!r}, the metadata beside it "
                            f"{wanted[name]!r}; save the detector again")
