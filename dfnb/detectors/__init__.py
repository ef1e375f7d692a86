"""Detectors: crops come in, a fitted `Detector` that scores each crop goes out.

Open `base` first: it holds all that detectors share and names what each one states itself. Then
`probe` for one without gradients, or `lora` and `training` for one that trains by them.
A new detector is one file in this folder and one line in `CLASSES`.
"""

from importlib import import_module
from pathlib import Path

from dfnb import UserError
from dfnb.detectors.base import Detector, read_metadata
from dfnb.models.clip import Clip

CLASSES = {  # the module's name -> its class
    "probe": "Probe",
    "lora": "Lora",
    "full": "Full",
    "layernorm": "LayerNorm",
    "prompt": "Prompt",
    "reprogramming": "Reprogramming",
    "zero_shot": "ZeroShot",
    "neighbours": "Neighbours",
    "components": "Components",
    "multimodal": "Multimodal",
    "baselines": "Baseline",
}
DETECTORS: dict[str, type[Detector]] = {
    name: getattr(import_module(f"dfnb.detectors.{name}"), kind) for name, kind in CLASSES.items()}


def load(folder: Path, clip: Clip) -> Detector:
    """Return the detector that was saved in a folder, whichever it is."""
    name = read_metadata(folder)["detector"]
    if name not in DETECTORS:
        raise UserError(f"{folder} was fitted by {name!r}, which is none of {', '.join(DETECTORS)}")
    return DETECTORS[name].load(folder, clip)
