"""Zero-shot CLIP: how close a crop lies to text prompts of a real and of a manipulated face. Nothing trains."""

import math
from pathlib import Path

import numpy as np
import safetensors.numpy
import scipy.special

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, read_tensors, write_card
from dfnb.models.clip import Clip

WEIGHTS = "zero_shot.safetensors"
TEMPLATES = ("a {} photo of a face", "a {} photo of a person", "a {} picture of a face", "a close-up of a {} face",
             "a {} video frame of a face", "a {} portrait")  # fmt: skip


class ZeroShot:
    """p(fake) = softmax over both classes of exp(logit_scale) cos(x, t_c), x the image feature. `trainable` = 0.

    `text` (2, dim) float32: t_real and t_fake, the mean of the class's unit-length text features over the templates,
    scaled to length one (the prompt ensemble of Radford et al., 2021, section 3.1.4).
    """

    trainable = 0

    def __init__(self, clip: Clip, text: np.ndarray, card: dict):
        self.clip, self.text, self.card, self.history = clip, text, card, card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        cosines = self.clip.image_features(crops) @ self.text.T.astype(np.float64)  # (n, 2)
        logits = math.exp(self.clip.logit_scale) * (cosines[:, 1] - cosines[:, 0])
        return scipy.special.expit(logits).astype(np.float32)

    def save(self, folder: Path) -> None:
        files.atomic_write(Path(folder) / WEIGHTS, safetensors.numpy.save({"text": self.text}))
        write_card(folder, self.card)


def fit(
    train, validation, *, clip: Clip, seed: int = 0, words: tuple[str, str] = ("real", "manipulated"),
    templates: tuple[str, ...] = TEMPLATES,
) -> ZeroShot:  # fmt: skip
    """Read the prompts; `train` and `seed` have no effect, `validation` is only judged.

    `words` of the real and of the fake class take the place of "{}" in each template: swapped words must turn the AUC to
    1 - AUC, and words without a meaning show what the prompts are worth.
    """
    if isinstance(words, str) or len(words) != 2:
        raise UserError(f"words must be two, for the real and the fake class, got {words!r}")
    if isinstance(templates, str) or not templates or any("{}" not in template for template in templates):
        raise UserError(f'templates must each have a "{{}}" for the word, got {templates!r}')
    text = np.stack([_ensemble(clip, [template.replace("{}", word) for template in templates]) for word in words])
    detector = ZeroShot(clip, text, card("zero_shot", clip, 0, [], words=list(words), templates=list(templates)))
    detector.history.append(training.judge(detector.score(validation), validation.labels) | {"best": True})
    return detector


def _ensemble(clip: Clip, prompts: list[str]) -> np.ndarray:
    """The mean (dim,) of the prompts' features, scaled to length one."""
    mean = clip.text_features(prompts).mean(axis=0)
    return mean / np.linalg.norm(mean)


def load(folder: Path, clip: Clip) -> ZeroShot:
    """The detector that `save` wrote, on the CLIP it was made for."""
    about = read_card(folder, "zero_shot", clip)
    tensors = {name: value.numpy() for name, value in read_tensors(Path(folder) / WEIGHTS).items()}
    check_keys(f"the prompts in {folder}", tensors, {"text": np.empty((2, clip.dim))})
    return ZeroShot(clip, tensors["text"], about)
