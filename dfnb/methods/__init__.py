"""The detectors of the study: `METHODS` maps a name to a module with `fit` and `load`.

fit(train, validation, *, clip, seed, **options) -> Detector, load(folder, clip) -> Detector.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from dfnb.methods import (
    components,
    full,
    layernorm,
    lora,
    multimodal,
    probe,
    prompt,
    reprogram,
    trivial,
    zero_shot,
)

METHODS = {
    "probe": probe,
    "lora": lora,
    "full": full,
    "layernorm": layernorm,
    "prompt": prompt,
    "reprogram": reprogram,
    "components": components,
    "zero_shot": zero_shot,
    "multimodal": multimodal,
    "trivial": trivial,
}


class Detector(Protocol):
    """A fitted method."""

    trainable: int  # number of trained parameters
    history: list[dict]  # one row per epoch or candidate
    card: dict  # options and whatever else is to be kept, e.g. "threshold"; all JSON

    def score(self, crops) -> np.ndarray: ...  # (n,) float32, probability of fake per frame

    def save(self, folder: Path) -> None: ...  # safetensors and JSON, never pickle
