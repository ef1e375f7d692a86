"""Visual reprogramming: a border around the shrunken picture trains, CLIP and its prompts do not.

Lin et al., "Standing on the Shoulders of Giants: Reprogramming Visual-Language Model for General
Deepfake Detection" (arXiv 2409.02664, RepDFD).
"""

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dfnb import UserError
from dfnb.detectors.base import Detector
from dfnb.detectors.schedule import Schedule
from dfnb.models.clip import Clip, Reader
from dfnb.models.encoder import enter, leave

REAL, FAKE = "A real photo of a person", "A fake photo of a {} person"
PROMPTS = 256  # prompts in one pass of the text encoder

# Face embeddings that say whose face it is: (clip, crops) -> float32 (n, length). RepDFD uses a
# face recogniser. The usual ones carry non-commercial weights, so the default is CLIP's own feature
# of the crop. Add another one here.
FACES: dict[str, Callable] = {"clip": lambda clip, crops: clip.image_features(crops)}


class Border(nn.Module):
    """Pixels (n, 3, S, S) and their `contrasts` t_fake - t_real (n, dim) to logits of fake (n,).

    x' = pad(resize(x, s)) + delta, with s = int(share S); delta is 0 on the picture and starts at 0
    around it. The logit is exp(logit_scale) (cos(f(x'), t_fake) - cos(f(x'), t_real)), which is
    that of the softmax over both prompts.
    """

    def __init__(self, clip: Clip, *, share: float, length: int):
        super().__init__()
        self.side, self.inner = clip.size, int(share * clip.size)
        self.start = (self.side - self.inner) // 2  # first row and column of the picture
        around = torch.ones(self.side, self.side, dtype=torch.bool)
        around[self.start:self.start + self.inner, self.start:self.start + self.inner] = False
        self.register_buffer("around", around.flatten().nonzero().flatten(), persistent=False)
        self.register_buffer("projection", torch.randn(length, clip.text_width) / length)
        self.delta = nn.Parameter(torch.zeros(3, len(self.around)))
        self._clip = clip
        self._scale = math.exp(min(max(clip.logit_scale, 0.0), math.log(100)))

    def surround(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return x', the shrunken picture in its border (n, 3, S, S)."""
        small = F.interpolate(pixels, (self.inner, self.inner), mode="bicubic", antialias=True)
        rest = self.side - self.inner - self.start
        border = self.delta.new_zeros(3, self.side**2).index_copy(1, self.around, self.delta)
        padded = F.pad(small, (self.start, rest, self.start, rest))
        return padded + border.view(3, self.side, self.side)

    @torch.no_grad()
    def contrasts(self, faces: np.ndarray) -> torch.Tensor:
        """Return t_fake - t_real (n, dim) for face embeddings (n, length).

        One token of the fake prompt is the projected embedding.
        """
        tokens = torch.from_numpy(faces).to(self.projection) @ self.projection  # (n, text width)
        fakes = [self._clip.text_around(FAKE, some[:, None]) for some in tokens.split(PROMPTS)]
        return torch.cat(fakes) - torch.from_numpy(self._clip.text_features([REAL])).to(tokens)

    def forward(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the logits (n,) of pixels and contrasts."""
        pixels, contrasts = inputs
        encoder = self._clip.model.vision_model
        pooled = leave(encoder, enter(encoder, self.surround(pixels), 0), 0)
        image = F.normalize(self._clip.model.visual_projection(pooled).float(), dim=-1)
        return self._scale * (image * contrasts).sum(dim=-1)


class Reprogramming(Detector):
    """A tuned border. With S the input's side and s = int(share S), `trainable` = 3 (S^2 - s^2)."""

    name = "reprogramming"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, share: float = 0.7,
            face: str = "clip", learning_rate: float = 1.0, weight_decay: float = 2e-4,
            warmup: float = 0.0, **schedule: Any) -> Self:
        """Train the border by AdamW, its rate falling to 0 along a cosine; keep the best epoch.

        `face` names a face embedding in `FACES`, which a random projection drawn from `seed` turns
        into a token. `schedule`: other fields of `Schedule`, such as epochs, batch, steps, whose
        defaults are ours.
        """
        if not 0 < int(share * clip.size) < clip.size:
            raise UserError("share of the input's side must leave a picture and a border, "
                            f"got {share}")
        if schedule.get("flip"):
            raise UserError("flip is not for reprogramming: the face embeddings are of crops that "
                            "are not mirrored")
        plan = Schedule(lr=learning_rate, weight_decay=weight_decay, warmup=warmup, **schedule)
        length = _faces(clip, face, train).shape[1]
        detector = cls(clip, {"share": share, "face": face, "length": length}, seed=seed)
        return detector.learn(train, validation, plan, seed)

    @staticmethod
    def build(clip: Clip, options: dict) -> Border:
        """Return an empty border, and a projection drawn at random."""
        return Border(clip, share=options["share"], length=options["length"])

    def reader(self, view) -> Reader:
        """Return what maps rows of a view to pixels (n, 3, S, S) and contrasts (n, dim).

        The prompts do not train, so they are encoded once.
        """
        read, device = self.clip.pixel_reader(view), self.clip.device
        contrasts = self.model.contrasts(_faces(self.clip, self.options["face"], view))
        return lambda rows, flip=None: (read(rows), contrasts[torch.as_tensor(rows, device=device)])


def _faces(clip: Clip, face: str, view) -> np.ndarray:
    if face not in FACES:
        raise UserError(f"face must be one of {', '.join(FACES)}, got {face!r}; add it to "
                        "reprogramming.FACES")
    return FACES[face](clip, view)
