"""The detectors of the study: crops with labels come in, a fitted detector with scores goes out.

`DETECTORS` maps a name to a module with `fit(train, validation, *, clip, seed, **options)`, which
returns a `Detector`, and `load(folder, clip)`. Open `probe.py` first, the smallest one.
`training.py` holds the loop of all that train by gradients, `base.py` saving and loading.
"""

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from dfnb import UserError
from dfnb.detectors import base
from dfnb.models.clip import Clip

NAMES = (
    "probe",
    "lora",
    "full",
    "layernorm",
    "prompt",
    "reprogramming",
    "zero_shot",
    "neighbours",
    "components",
    "multimodal",
    "baselines",
)
DETECTORS = {name: import_module(f"dfnb.detectors.{name}") for name in NAMES}


class Detector(Protocol):
    """A fitted detector."""

    trainable: int  # number of trained parameters
    history: list[dict]  # one row per epoch or candidate
    card: dict  # options and whatever else is to be kept, e.g. "threshold"; all JSON

    def score(self, crops) -> np.ndarray: ...  # (n,) float32, probability of fake per frame

    def save(self, folder: Path) -> None: ...  # safetensors and JSON, never pickle


def load(folder: Path, clip: Clip) -> Detector:
    """Return the detector in a folder, by the name that its metadata holds."""
    name = base.peek(folder)["detector"]
    if name not in DETECTORS:
        raise UserError(f"{folder} was fitted by {name!r}, which is none of {', '.join(DETECTORS)}")
    return DETECTORS[name].load(folder, clip)
