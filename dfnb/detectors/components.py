"""Facial component guidance: a side decoder on clips of frames (DFD-FCG, arXiv 2404.05583).

CLIP stays frozen. The decoder reads the queries, keys, values and output of each patch in every
block, for a clip of T frames. Its spatial branch attends to lips, skin, eyes and nose; its temporal
branch compares each patch with itself from frame to frame.
"""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dfnb import UserError
from dfnb.data.footage import clips_of, pairs, scenes_of
from dfnb.detectors import training
from dfnb.detectors.base import Detector
from dfnb.detectors.schedule import Schedule, check_least
from dfnb.models.clip import Clip

FACE = 0.20, 0.10, 0.80, 0.90  # x0, y0, x1, y1 as shares of a crop of 1.3 times dlib's box
BOXES = {"lips": (0.30, 0.66, 0.70, 0.80), "eyes": (0.20, 0.24, 0.80, 0.38),
         "nose": (0.38, 0.38, 0.62, 0.62)}
PARTS = ("lips", "skin", "eyes", "nose")  # skin: what the other boxes leave of FACE
SHARPNESS, GUIDANCE_SCALE, FOCUS = 100, 30, 4  # the paper's factors of both cosines, and gamma
FOCAL_WEIGHT, GUIDANCE_WEIGHT = 10, 1.5


class Components(Detector):
    """A side decoder on a frozen CLIP.

    With w the encoder's width, h its heads, L blocks, P patches, clips of T frames and m hidden
    channels, `trainable` = L (4 w + 9 m 3 h T^2 + m + 2 (m^2 + m) + 9 m + 1)
    + 2 w + 2 P + (w + 1) + (P + 1) + (w + P + 1).
    """

    name = "components"
    head = "heads"

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, frames_per_clip: int = 10,
            hidden: int = 16, learning_rate: float = 1e-4, weight_decay: float = 1e-3,
            batch: int = 8, **schedule: Any) -> Self:
        """Train the decoder on clips of `frames_per_clip` frames; keep the best epoch.

        `batch` counts clips, half of them fake, each beside the real of its scene. `hidden`:
        channels of the temporal branch. `schedule`: other fields of `Schedule`, of which `flip`
        mirrors whole clips.
        """
        training.check_classes(training=train, validation=validation)
        options = {"frames_per_clip": frames_per_clip, "hidden": hidden}
        check_least(options, frames_per_clip=1, hidden=1)
        if batch % 2:
            raise UserError(f"batch counts clips, half of them fake: it must be even, got {batch}")
        plan = Schedule(lr=learning_rate, weight_decay=weight_decay, batch=batch, **schedule)
        detector = cls(clip, options, seed=seed)
        keys = part_keys(clip, train.select(train.labels == 0)).clone()  # clones allow gradients
        return detector.learn(
            train, validation, plan, seed, optimiser=adamw, score=detector.score,
            loss=lambda model, pixels, labels: guided_loss(
                model, clip.traces(pixels), labels, keys),
            batches=clip_batches(clip, train, frames_per_clip, plan, seed),
            examples=len(clips_of(train.frames, frames_per_clip)))

    @staticmethod
    def build(clip: Clip, options: dict) -> "Decoder":
        """Return a decoder drawn at random."""
        return Decoder(clip, frames=options["frames_per_clip"], hidden=options["hidden"])

    @torch.inference_mode()
    def score(self, crops) -> np.ndarray:
        """Return the probability of fake (n,) float32 of the clip that a frame is in.

        Its mean over the three heads; a frame of two clips gets the mean of both.
        """
        rows, read = clips_of(crops.frames, self.model.frames), self.reader(crops)
        total, times = np.zeros(len(crops)), np.zeros(len(crops))
        for chosen in _steps(len(rows), self.clip, self.model.frames):
            logits = self.model(self.clip.traces(read(rows[chosen].ravel())))
            np.add.at(total, rows[chosen], fake_scores(logits).cpu().numpy()[:, None])
            np.add.at(times, rows[chosen], 1)
        return (total / times).astype(np.float32)

    @torch.inference_mode()
    def maps(self, crops, *, blocks: int | None = None) -> np.ndarray:
        """Return the attention of the component queries (n, side, side) float32.

        It is the mean over queries and blocks, always of all blocks; each map sums to 1.
        """
        read, side = self.reader(crops), round((self.clip.tokens - 1) ** 0.5)
        maps = np.empty((len(crops), side, side), np.float32)
        for rows in _steps(len(crops), self.clip, 1):
            traces = zip(self.model.queries, self.clip.traces(read(rows)), strict=True)
            looks = [affinity(queries, key).mean(dim=1) for queries, (_, key, _, _) in traces]
            mean = torch.stack(looks).mean(dim=0).unflatten(-1, (side, side))
            maps[rows] = mean.cpu().numpy()
        return maps


class Decoder(nn.Module):
    """Both branches, summed over the blocks, and three heads.

    Takes the traces of clips of T frames, gives logits of fake (clips, 3): spatial, temporal and
    joint. The paper's softmax over two classes is the sigmoid of one logit.
    """

    def __init__(self, clip: Clip, *, frames: int, hidden: int):
        super().__init__()
        heads, patches = clip.model.config.vision_config.num_attention_heads, clip.tokens - 1
        self.frames = frames
        # cosines ignore a query's length, but the length decides how fast a step of AdamW turns it
        self.queries = nn.Parameter(0.02 * torch.randn(clip.layers, len(PARTS), clip.width))
        self.temporal = nn.ModuleList(Temporal(heads, frames, hidden) for _ in range(clip.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in (clip.width, patches))
        self.heads = nn.ModuleList(nn.Linear(size, 1)
                                   for size in (clip.width, patches, clip.width + patches))

    def branches(self, traces: Iterator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the spatial (clips, width) and the temporal features (clips, patches)."""
        space, time = 0, 0
        blocks = zip(self.queries, self.temporal, traces, strict=True)
        for queries, temporal, (query, key, value, out) in blocks:
            seen = (affinity(queries, key) @ out).mean(dim=1)  # (clips T, width)
            space = space + seen.unflatten(0, (-1, self.frames)).mean(dim=1)
            time = time + temporal(query, key, value)
        return space, time

    def forward(self, traces: Iterator) -> torch.Tensor:
        """Return the logits (clips, 3)."""
        branches = zip(self.norms, self.branches(traces), strict=True)
        space, time = (norm(features) for norm, features in branches)
        features = space, time, torch.cat([space, time], dim=1)
        return torch.cat([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)


class Temporal(nn.Module):
    """One block's temporal branch, for clips of T frames.

    Takes q, k and v, each (clips T, heads, patches, d), gives a value per patch (clips, patches).
    """

    def __init__(self, heads: int, frames: int, hidden: int):
        super().__init__()
        self.frames = frames
        self.enter = nn.Conv2d(3 * heads * frames**2, hidden, 3, padding=1)
        self.mlp = nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.GELU(),
                                 nn.Conv2d(hidden, hidden, 1))
        self.leave = nn.Conv2d(hidden, 1, 3, padding=1)

    def forward(self, *attended: torch.Tensor) -> torch.Tensor:
        """Return a value per patch (clips, patches)."""
        maps = torch.cat([self.frame_affinity(tokens) for tokens in attended], dim=1)
        side = round(maps.shape[-1] ** 0.5)  # maps (clips, 3 heads T T, patches)
        hidden = self.enter(maps.unflatten(-1, (side, side)))
        return self.leave(hidden + self.mlp(hidden)).flatten(1)

    def frame_affinity(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return how each patch and head attends from frame t to frame s (clips, heads T T, P)."""
        tokens = tokens.unflatten(0, (-1, self.frames))
        tokens = tokens.permute(0, 2, 3, 1, 4)  # (clips, heads, patches, T, d)
        alike = (tokens @ tokens.mT / tokens.shape[-1] ** 0.5).softmax(dim=-1)
        return alike.flatten(3).transpose(2, 3).flatten(1, 2)


def affinity(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the softmax over patches of 100 x cosine (n, 4, patches).

    `queries` (4, width), `keys` (n, heads, patches, d).
    """
    cosines = F.normalize(queries, dim=-1) @ F.normalize(_joined(keys), dim=-1).mT
    return (SHARPNESS * cosines).softmax(dim=-1)


def _joined(heads: torch.Tensor) -> torch.Tensor:
    """Return (n, heads, patches, d) as (n, patches, heads d)."""
    return heads.transpose(1, 2).flatten(2)


def fake_scores(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean (clips,) over the heads of the probability of fake; logits (clips, 3)."""
    return torch.sigmoid(logits).mean(dim=1)


def guided_loss(model: Decoder, traces: Iterator, labels: torch.Tensor,
                keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Return 10 x focal + 1.5 x guidance, the scores (clips,), and the guidance."""
    with torch.autocast(labels.device.type, enabled=False):  # float32, on a GPU too
        logits, guide = model(traces), guidance(model.queries, keys)
        loss = FOCAL_WEIGHT * focal(logits, labels) + GUIDANCE_WEIGHT * guide
    return loss, fake_scores(logits), {"guidance": guide}


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean of (1 - p)^4 x -log p over clips and heads; logits (clips, 3).

    p is the probability of the true class.
    """
    targets = labels[:, None].expand_as(logits).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((1 - torch.exp(-losses)) ** FOCUS * losses).mean()


def guidance(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy over the parts of 30 x cosine(query, mean key of a part).

    Both are (blocks, 4, width).
    """
    cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT  # (blocks, query, part)
    own = torch.arange(len(PARTS), device=queries.device).repeat(len(queries))
    return F.cross_entropy(GUIDANCE_SCALE * cosines.flatten(0, 1), own)


@torch.inference_mode()
def part_keys(clip: Clip, reals) -> torch.Tensor:
    """Return the mean key of each of PARTS over crops of real faces (blocks, 4, width)."""
    read, total = clip.pixel_reader(reals), 0
    weights = part_weights(round((clip.tokens - 1) ** 0.5)).to(clip.device)
    for rows in _steps(len(reals), clip, 1):
        keys = [(weights @ _joined(key)).sum(dim=0) for _, key, _, _ in clip.traces(read(rows))]
        total = total + torch.stack(keys)
    return total / len(reals)


def part_weights(side: int) -> torch.Tensor:
    """Return how much each patch of a grid belongs to each of PARTS (4, side^2); rows sum to 1."""
    edges = torch.linspace(0, 1, side + 1, dtype=torch.float64)

    def covered(low: float, high: float) -> torch.Tensor:
        return edges[1:].clamp(low, high) - edges[:-1].clamp(low, high)

    areas = {name: torch.outer(covered(top, bottom), covered(left, right)).flatten()
             for name, (left, top, right, bottom) in {**BOXES, "skin": FACE}.items()}
    areas["skin"] = areas["skin"] - sum(areas[name] for name in BOXES)
    weights = torch.stack([areas[name] for name in PARTS])
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def clip_batches(clip: Clip, train, frames: int, schedule: Schedule, seed: int) -> Iterator[tuple]:
    """Yield (pixels of clips, labels of clips) without end, each fake beside a real of its scene.

    With `schedule.flip` half of the clips are mirrored as a whole.
    """
    rows, read = clips_of(train.frames, frames), clip.pixel_reader(train)
    labels, scenes = train.labels[rows[:, 0]], scenes_of(train.frames)[rows[:, 0]]
    rng = np.random.default_rng(seed)
    drawn = pairs(labels, scenes, rng)
    while True:
        chosen = np.array([next(drawn) for _ in range(schedule.batch // 2)]).ravel()
        flip = np.repeat(rng.random(len(chosen)) < 0.5, frames) if schedule.flip else None
        yield read(rows[chosen].ravel(), flip), torch.from_numpy(labels[chosen])


def adamw(trained: dict[str, nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    """Return AdamW that decays all parameters alike."""
    return torch.optim.AdamW(trained.values(), lr=schedule.lr, weight_decay=schedule.weight_decay)


def _steps(count: int, clip: Clip, frames: int) -> Iterator[np.ndarray]:
    """Yield rows 0 .. count - 1 in groups that fit a forward pass; a row is `frames` frames."""
    step = max(1, clip.pieces().size // frames)
    return (np.arange(start, min(start + step, count)) for start in range(0, count, step))
