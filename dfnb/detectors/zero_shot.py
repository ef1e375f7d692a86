"""Zero-shot CLIP: the similarity of a crop to text prompts of a real and of a manipulated face."""

import math
from typing import Self

import numpy as np
import scipy.special
import torch
from torch import nn

from dfnb import UserError
from dfnb.detectors import training
from dfnb.detectors.base import Detector
from dfnb.models.clip import Clip

TEMPLATES = ("a {} photo of a face", "a {} photo of a person", "a {} picture of a face",
             "a close-up of a {} face", "a {} video frame of a face", "a {} portrait")


class ZeroShot(Detector):
    """p(fake) = softmax over both classes of exp(logit_scale) cos(x, t_c), x the image feature.

    t_c is the mean of the class's unit-length text features over the templates, scaled to length
    one (the prompt ensemble of Radford et al., 2021, section 3.1.4). `trainable` = 0.
    """

    name = "zero_shot"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0,
            words: tuple[str, str] = ("real", "manipulated"),
            templates: tuple[str, ...] = TEMPLATES) -> Self:
        """Encode the prompts; `train` and `seed` have no effect, `validation` is only judged.

        `words` of the real and of the fake class replace "{}" in each template. Swapped words must
        turn the AUC into 1 - AUC; words without a meaning show how much the prompts contribute.
        """
        if isinstance(words, str) or len(words) != 2:
            raise UserError(f"words must be two, for the real and the fake class, got {words!r}")
        if isinstance(templates, str) or not templates or any("{}" not in one for one in templates):
            raise UserError(f'templates must each have a "{{}}" for the word, got {templates!r}')
        detector = cls(clip, {"words": list(words), "templates": list(templates)})
        text = np.stack([_ensemble(clip, [one.replace("{}", word) for one in templates])
                         for word in words])
        detector.model.load_state_dict({"text": torch.from_numpy(text)})
        judged = training.judge(detector.score(validation), validation.labels)
        detector.metadata["history"] = training.mark_best([judged])
        return detector

    @staticmethod
    def build(clip: Clip, options: dict) -> nn.ParameterDict:
        """Return `text` (2, dim) float32: t_real and t_fake."""
        return nn.ParameterDict({"text": torch.zeros(2, clip.dim)}).requires_grad_(False)

    def score(self, crops) -> np.ndarray:
        """Return the probability of fake (n,) float32 of each crop."""
        text = self.arrays()["text"].astype(np.float64)
        cosines = self.clip.image_features(crops) @ text.T  # (n, 2)
        logits = math.exp(self.clip.logit_scale) * (cosines[:, 1] - cosines[:, 0])
        return scipy.special.expit(logits).astype(np.float32)

    def logit_of_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return cos(x, t_fake) - cos(x, t_real) (n,), without the scale."""
        real, fake = self.model["text"].detach()
        return self.project(pooled) @ (fake - real).to(pooled)


def _ensemble(clip: Clip, prompts: list[str]) -> np.ndarray:
    """Return the mean (dim,) of the prompts' features, scaled to length one."""
    mean = clip.text_features(prompts).mean(axis=0)
    return mean / np.linalg.norm(mean)
