"""Nearest neighbours: a crop is as fake as the training crops that CLIP finds most like it; nothing trains.

Ojha, Li and Lee, "Towards Universal Fake Image Detectors that Generalize Across Generative Models" (CVPR 2023).
"""

from pathlib import Path

import numpy as np
import safetensors.numpy

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, read_tensors, write_card
from dfnb.models.clip import Clip

BANK = "neighbours.safetensors"
KS = (1, 3, 9)


class Neighbours:
    """The frozen features of the training crops, reals and fakes apart. `trainable` = 0."""

    def __init__(self, clip: Clip, bank: dict[str, np.ndarray], card: dict):
        self.clip, self.bank, self.card = clip, bank, card
        self.trainable, self.history = card["trainable"], card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32 in [0, 1]: one half plus a quarter of the difference of the mean cosines to k fakes and k reals."""
        return _lean(self.features(crops), self.bank, self.card["options"]["k"])

    def features(self, crops) -> np.ndarray:
        """(n, dim) float32 of length one."""
        return self.clip.image_features(crops)

    def save(self, folder: Path) -> None:
        """Write the bank of features, last the card."""
        files.atomic_write(Path(folder) / BANK, safetensors.numpy.save(self.bank))
        write_card(folder, self.card)


def fit(train, validation, *, clip: Clip, seed: int = 0, ks: tuple[int, ...] = KS) -> Neighbours:
    """Keep the training features, and the k of `ks` with the best validation AUC; `seed` has no effect."""
    training.check_classes(training=train, validation=validation)
    features, labels = clip.image_features(train), np.asarray(train.labels)
    bank = {name: np.ascontiguousarray(features[labels == label]) for label, name in enumerate(("real", "fake"))}
    least = min(map(len, bank.values()))
    if not ks or any(not 1 <= k <= least for k in ks):
        raise UserError(f"ks must lie between 1 and the {least} training crops of the smaller class, got {list(ks)}")
    asked = clip.image_features(validation)
    history = [{"k": k, **training.judge(_lean(asked, bank, k), validation.labels)} for k in ks]
    best = max(history, key=training.merit)
    history = [row | {"best": row is best} for row in history]
    return Neighbours(clip, bank, card("neighbours", clip, 0, history, k=best["k"]))


def _lean(features: np.ndarray, bank: dict[str, np.ndarray], k: int) -> np.ndarray:
    real, fake = (np.sort(features @ bank[name].T, axis=1)[:, -k:].mean(axis=1) for name in ("real", "fake"))
    return (0.5 + (fake - real) / 4).astype(np.float32)


def load(folder: Path, clip: Clip) -> Neighbours:
    """The detector that `save` wrote, on the CLIP it was fitted on."""
    about = read_card(folder, "neighbours", clip)
    bank = read_tensors(Path(folder) / BANK)
    check_keys(f"the bank in {folder}", bank, {"real": bank.get("real"), "fake": bank.get("fake")})
    return Neighbours(clip, {name: bank[name].numpy() for name in ("real", "fake")}, about)
