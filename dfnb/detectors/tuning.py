"""What detectors with a tuned image encoder under a linear head share, and PEFT's adapters."""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import peft
import torch
from torch import nn

from dfnb import files
from dfnb.detectors import training
from dfnb.detectors.base import Detector, load_tensors, read_tensors, save_tensors
from dfnb.models.clip import Clip
from dfnb.models.encoder import enter, leave

CONFIG, WEIGHTS = "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
HEAD = "head.safetensors"


class Classifier(nn.Module):
    """An image encoder and a linear head on its pooled feature; gives logits of fake (n,).

    It takes normalised pixels (n, 3, size, size), or with `block` the activations
    (n, tokens, width) that enter this block.
    """

    def __init__(self, clip: Clip, encoder: nn.Module, block: int | None = None):
        super().__init__()
        self.encoder, self.head, self.block = encoder, nn.Linear(clip.width, 1), block

    @property
    def vision(self) -> nn.Module:
        """The encoder without PEFT's wrapping."""
        adapted = isinstance(self.encoder, peft.PeftModel)
        return self.encoder.get_base_model() if adapted else self.encoder

    def feature(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return what the head takes of the pooled features (n, width): here themselves."""
        return pooled

    def pool(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the head takes (n, width)."""
        hidden = enter(self.vision, inputs, 0) if self.block is None else inputs
        return self.feature(leave(self.vision, hidden, self.block or 0))

    def logit(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits (n,) of the encoder's pooled features (n, width)."""
        return self.head(self.feature(pooled)).squeeze(-1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (n,) of the inputs."""
        return self.head(self.pool(inputs)).squeeze(-1)


class Tuned(Detector):
    """A detector whose `build` returns a `Classifier`."""

    head = "head"

    @property
    def encoder(self) -> nn.Module:
        """The tuned encoder, with the blocks that stay frozen."""
        return self.model.vision

    def logit_of_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the head's logits (n,)."""
        return self.model.logit(pooled)

    def features(self, crops) -> np.ndarray:
        """Return the features (n, width) float32 that the head takes, without dropout."""
        return training.apply(self.model, lambda inputs: self.model.pool(inputs).float(), crops,
                              self.clip, self.reader(crops), self.clip.width)


def adapt(encoder: nn.Module, config: peft.PeftConfig) -> peft.PeftModel:
    """Put PEFT's adapters into an encoder and freeze all other weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads an attribute that is renamed
        return peft.get_peft_model(encoder, config)


def save(model: Classifier, folder: Path) -> None:
    """Write adapter/ as PEFT does (`PeftModel.from_pretrained` takes it), and the head.

    The bytes are the same in every process.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model.encoder.save_pretrained(scratch, save_embedding_layers=False)
        config = json.loads(Path(scratch, "adapter_config.json").read_text())
        weights = Path(scratch, "adapter_model.safetensors").read_bytes()
    config["target_modules"].sort()  # PEFT keeps a set, whose order changes between processes
    files.write_json(folder / CONFIG, config)
    files.atomic_write(folder / WEIGHTS, weights)
    save_tensors(folder / HEAD, model.head)


def load(model: Classifier, folder: Path) -> None:
    """Read adapter and head; UserError for missing tensors, of which PEFT would only warn."""
    expected = peft.get_peft_model_state_dict(model.encoder)
    peft.set_peft_model_state_dict(model.encoder, read_tensors(folder / WEIGHTS, expected))
    load_tensors(folder / HEAD, model.head)
