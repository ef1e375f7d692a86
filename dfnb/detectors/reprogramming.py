"""Visual reprogramming: a border around the shrunken picture trains, CLIP and its prompts stay as they are.

Lin et al., "Standing on the Shoulders of Giants: Reprogramming Visual-Language Model for General Deepfake Detection"
(2409.02664, RepDFD).
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, read_tensors, write_card
from dfnb.detectors.training import Schedule
from dfnb.models.clip import Clip, Reader
from dfnb.models.encoder import enter, leave

WEIGHTS = "reprogram.safetensors"
REAL, FAKE = "A real photo of a person", "A fake photo of a {} person"
PROMPTS = 256  # prompts in one pass of the text tower

# What tells the text tower whose face it is: (clip, crops) -> float32 (n, length). RepDFD uses a face recogniser; the
# usual ones carry non-commercial weights, so the default is CLIP's own feature of the crop. Another one: add it here.
FACES: dict[str, Callable] = {"clip": lambda clip, crops: clip.image_features(crops)}


class Border(nn.Module):
    """Logits of fake (n,) of pixels (n, 3, S, S) and their `contrasts` t_fake - t_real (n, dim).

    x' = pad(resize(x, s)) + delta, with s = int(share S); delta is 0 on the picture and starts at 0 around it. The logit
    is exp(logit_scale) (cos(f(x'), t_fake) - cos(f(x'), t_real)), the logit of the softmax over both prompts.
    """

    def __init__(self, clip: Clip, *, share: float, length: int):
        super().__init__()
        self.side, self.inner = clip.size, int(share * clip.size)
        self.start = (self.side - self.inner) // 2  # first row and column of the picture
        around = torch.ones(self.side, self.side, dtype=torch.bool)
        around[self.start : self.start + self.inner, self.start : self.start + self.inner] = False
        self.register_buffer("around", around.flatten().nonzero().flatten(), persistent=False)
        self.register_buffer("projection", torch.randn(length, clip.text_width) / length)
        self.delta = nn.Parameter(torch.zeros(3, len(self.around)))
        self._clip, self._scale = clip, math.exp(min(max(clip.logit_scale, 0.0), math.log(100)))
        self.to(clip.device)

    def surround(self, pixels: torch.Tensor) -> torch.Tensor:
        """x': the shrunken picture in its border, (n, 3, S, S)."""
        small = F.interpolate(pixels, (self.inner, self.inner), mode="bicubic", antialias=True)
        rest = self.side - self.inner - self.start
        border = self.delta.new_zeros(3, self.side**2).index_copy(1, self.around, self.delta)
        return F.pad(small, (self.start, rest, self.start, rest)) + border.view(3, self.side, self.side)

    @torch.no_grad()
    def contrasts(self, faces: np.ndarray) -> torch.Tensor:
        """t_fake - t_real (n, dim) for face embeddings (n, length): one token of the fake prompt is made of the face."""
        tokens = torch.from_numpy(faces).to(self.projection) @ self.projection  # (n, text width)
        fakes = [self._clip.text_around(FAKE, some[:, None]) for some in tokens.split(PROMPTS)]
        return torch.cat(fakes) - torch.from_numpy(self._clip.text_features([REAL])).to(tokens)

    def forward(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        pixels, contrasts = inputs
        tower = self._clip.model.vision_model
        pooled = leave(tower, enter(tower, self.surround(pixels), 0), 0)
        image = F.normalize(self._clip.model.visual_projection(pooled).float(), dim=-1)
        return self._scale * (image * contrasts).sum(dim=-1)


class Reprogram:
    """A tuned border. With S the input's side and s = int(share S), `trainable` = 3 (S^2 - s^2)."""

    def __init__(self, clip: Clip, model: Border, card: dict):
        self.clip, self.model, self.card = clip, model.eval(), card
        self.trainable, self.history = card["trainable"], card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        read = _reader(self.clip, self.model, self.card["options"]["face"], crops)
        return training.predict(self.model, crops, self.clip, read=read)

    def save(self, folder: Path) -> None:
        files.atomic_write(Path(folder) / WEIGHTS, safetensors.torch.save(self.model.state_dict()))
        write_card(folder, self.card)


def fit(
    train, validation, *, clip: Clip, seed: int, share: float = 0.7, face: str = "clip", learning_rate: float = 1.0,
    weight_decay: float = 2e-4, warmup: float = 0.0, **schedule,
) -> Reprogram:  # fmt: skip
    """Train the border by AdamW, its rate falling to 0 along a cosine; keep the best epoch on validation.

    `face` names a face embedding in `FACES`; a random projection, drawn from `seed`, makes a token of it. `schedule`:
    other fields of `training.Schedule`, such as epochs, batch, steps; these are the house's.
    """
    if not 0 < int(share * clip.size) < clip.size:
        raise UserError(f"share of the input's side must leave a picture and a border, got {share}")
    if schedule.get("flip"):
        raise UserError("flip is not for reprogram: the face embeddings are of crops that are not mirrored")
    plan = Schedule(lr=learning_rate, weight_decay=weight_decay, warmup=warmup, **schedule)
    length = _faces(clip, face, train).shape[1]
    with training.seeded(seed, clip):
        model = Border(clip, share=share, length=length)
    history = training.fit(
        model, train, validation, clip=clip, schedule=plan, seed=seed,
        reader=lambda view: _reader(clip, model, face, view),
    )  # fmt: skip
    options = {"share": share, "face": face, "length": length, "seed": seed, "schedule": dataclasses.asdict(plan)}
    return Reprogram(clip, model, card("reprogramming", clip, training.trainable(model), history, **options))


def _faces(clip: Clip, face: str, view) -> np.ndarray:
    if face not in FACES:
        raise UserError(f"face must be one of {', '.join(FACES)}, got {face!r}; add it to reprogram.FACES")
    return FACES[face](clip, view)


def _reader(clip: Clip, model: Border, face: str, view) -> Reader:
    """Rows of a view to pixels (n, 3, S, S) and contrasts (n, dim); the prompts are read once, they do not train."""
    read, contrasts = clip.pixel_reader(view), model.contrasts(_faces(clip, face, view))
    return lambda rows, flip=None: (read(rows), contrasts[torch.as_tensor(rows, device=clip.device)])


def load(folder: Path, clip: Clip) -> Reprogram:
    """The detector that `save` wrote, on the CLIP it was fitted on."""
    about = read_card(folder, "reprogramming", clip)
    with training.seeded(0, clip):
        model = Border(clip, share=about["options"]["share"], length=about["options"]["length"])
    weights = read_tensors(Path(folder) / WEIGHTS)
    check_keys(f"the border in {folder}", weights, model.state_dict())
    model.load_state_dict(weights)
    return Reprogram(clip, model, about)
