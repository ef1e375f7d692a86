"""Facial component guidance: a side decoder reads CLIP's blocks over a few frames (DFD-FCG, arXiv 2404.05583).

CLIP stays frozen. Of every block the decoder sees queries, keys, values and output of each patch, in a clip of T frames.
Its spatial branch looks for lips, skin, eyes and nose, its temporal branch at how alike a patch is from frame to frame.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from dfnb import UserError, files
from dfnb.data.footage import clips_of, pairs, scenes_of
from dfnb.detectors import training
from dfnb.detectors.base import card, check_keys, read_card, read_tensors, write_card
from dfnb.detectors.training import Schedule
from dfnb.evaluation import metrics
from dfnb.models.clip import Clip

WEIGHTS = "components.safetensors"
FACE = 0.20, 0.10, 0.80, 0.90  # x0, y0, x1, y1 as shares of a crop of 1.3 times dlib's box
BOXES = {"lips": (0.30, 0.66, 0.70, 0.80), "eyes": (0.20, 0.24, 0.80, 0.38), "nose": (0.38, 0.38, 0.62, 0.62)}
PARTS = ("lips", "skin", "eyes", "nose")  # skin: what the other boxes leave of FACE
SHARPNESS, GUIDANCE_SCALE, FOCUS = 100, 30, 4  # the paper's factors of both cosines, and gamma
FOCAL_WEIGHT, GUIDANCE_WEIGHT = 10, 1.5


def part_weights(side: int) -> torch.Tensor:
    """(4, side^2): how much each patch of a grid belongs to each of PARTS; rows sum to 1."""
    edges = torch.linspace(0, 1, side + 1, dtype=torch.float64)

    def covered(box: tuple[float, ...]) -> torch.Tensor:
        across, down = (
            (edges[1:].clamp(low, high) - edges[:-1].clamp(low, high)) for low, high in (box[::2], box[1::2])
        )
        return torch.outer(down, across).flatten()

    areas = {name: covered(box) for name, box in BOXES.items()}
    areas["skin"] = covered(FACE) - sum(areas.values())
    weights = torch.stack([areas[name] for name in PARTS])
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def affinity(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Softmax over patches of 100 x cosine; queries (4, width), keys (n, heads, patches, d), result (n, 4, patches)."""
    cosines = F.normalize(queries, dim=-1) @ F.normalize(_joined(keys), dim=-1).mT
    return (SHARPNESS * cosines).softmax(dim=-1)


def _joined(heads: torch.Tensor) -> torch.Tensor:
    """(n, heads, patches, d) to (n, patches, heads d)."""
    return heads.transpose(1, 2).flatten(2)


class Temporal(nn.Module):
    """One block's temporal branch, for clips of T frames.

    Takes q, k and v, each (clips T, heads, patches, d), and gives one value a patch (clips, patches).
    """

    def __init__(self, heads: int, frames: int, hidden: int):
        super().__init__()
        self.frames = frames
        self.enter = nn.Conv2d(3 * heads * frames**2, hidden, 3, padding=1)
        self.mlp = nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.GELU(), nn.Conv2d(hidden, hidden, 1))
        self.leave = nn.Conv2d(hidden, 1, 3, padding=1)

    def forward(self, *attended: torch.Tensor) -> torch.Tensor:
        maps = torch.cat([self._alike(tokens) for tokens in attended], dim=1)  # (clips, 3 heads T T, patches)
        side = round(maps.shape[-1] ** 0.5)
        hidden = self.enter(maps.unflatten(-1, (side, side)))
        return self.leave(hidden + self.mlp(hidden)).flatten(1)

    def _alike(self, tokens: torch.Tensor) -> torch.Tensor:
        """Of each patch and head, how frame t attends to frame s of the clip: (clips, heads T T, patches)."""
        tokens = tokens.unflatten(0, (-1, self.frames)).permute(0, 2, 3, 1, 4)  # (clips, heads, patches, T, d)
        alike = (tokens @ tokens.mT / tokens.shape[-1] ** 0.5).softmax(dim=-1)
        return alike.flatten(3).transpose(2, 3).flatten(1, 2)


class Decoder(nn.Module):
    """Both branches, summed over the blocks, and three heads.

    Takes the traces of clips of T frames, gives logits of fake (clips, 3): spatial, temporal and joint. The softmax
    over two classes of the paper is the sigmoid of one logit.
    """

    def __init__(self, clip: Clip, *, frames: int, hidden: int):
        super().__init__()
        heads, patches = clip.model.config.vision_config.num_attention_heads, clip.tokens - 1
        self.frames = frames
        # cosines forget a query's length, but its length decides how fast a step of AdamW turns it
        self.queries = nn.Parameter(0.02 * torch.randn(clip.layers, len(PARTS), clip.width))
        self.temporal = nn.ModuleList(Temporal(heads, frames, hidden) for _ in range(clip.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in (clip.width, patches))
        self.heads = nn.ModuleList(nn.Linear(size, 1) for size in (clip.width, patches, clip.width + patches))
        self.to(clip.device)

    def branches(self, traces: Iterator) -> tuple[torch.Tensor, torch.Tensor]:
        """What the spatial (clips, width) and the temporal branch (clips, patches) saw, summed over the blocks."""
        space, time = 0, 0
        for queries, temporal, (query, key, value, out) in zip(self.queries, self.temporal, traces, strict=True):
            seen = (affinity(queries, key) @ out).mean(dim=1)  # (clips T, width)
            space = space + seen.unflatten(0, (-1, self.frames)).mean(dim=1)
            time = time + temporal(query, key, value)
        return space, time

    def forward(self, traces: Iterator) -> torch.Tensor:
        space, time = (norm(seen) for norm, seen in zip(self.norms, self.branches(traces), strict=True))
        seen = space, time, torch.cat([space, time], dim=1)
        return torch.cat([head(one) for head, one in zip(self.heads, seen, strict=True)], dim=1)


class Components:
    """A side decoder on a frozen CLIP.

    With w the tower's width, h its heads, L blocks, P patches, clips of T frames and m hidden channels, `trainable` =
    L (4 w + 9 m 3 h T^2 + m + 2 (m^2 + m) + 9 m + 1) + 2 w + 2 P + (w + 1) + (P + 1) + (w + P + 1).
    """

    def __init__(self, clip: Clip, decoder: Decoder, card: dict):
        self.clip, self.decoder, self.card = clip, decoder.eval(), card
        self.trainable, self.history = card["trainable"], card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32: the probability of fake of the clip that a frame is in, the mean of both where it is in two."""
        return _scores(self.decoder, self.clip, crops)

    @torch.inference_mode()
    def maps(self, crops) -> np.ndarray:
        """(n, side, side) float32: where the component queries look, mean over queries and blocks; each sums to 1."""
        read, side = self.clip.pixel_reader(crops), round((self.clip.tokens - 1) ** 0.5)
        found = np.empty((len(crops), side, side), np.float32)
        for rows in _steps(len(crops), self.clip, 1):
            traces = zip(self.decoder.queries, self.clip.traces(read(rows)), strict=True)
            looks = [affinity(queries, key).mean(dim=1) for queries, (_, key, _, _) in traces]
            found[rows] = torch.stack(looks).mean(dim=0).unflatten(-1, (side, side)).cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        weights = {name: value.contiguous() for name, value in self.decoder.state_dict().items()}
        files.atomic_write(Path(folder) / WEIGHTS, safetensors.torch.save(weights))
        write_card(folder, self.card)


def _steps(count: int, clip: Clip, frames: int) -> Iterator[np.ndarray]:
    """Rows 0 .. count - 1 in groups that fit a forward pass, each row being some frames."""
    step = max(1, clip.pieces().size // frames)
    return (np.arange(start, min(start + step, count)) for start in range(0, count, step))


@torch.inference_mode()
def _scores(decoder: Decoder, clip: Clip, crops) -> np.ndarray:
    rows, read = clips_of(crops.frames, decoder.frames), clip.pixel_reader(crops)
    total, times = np.zeros(len(crops)), np.zeros(len(crops))
    for chosen in _steps(len(rows), clip, decoder.frames):
        logits = decoder(clip.traces(read(rows[chosen].ravel())))
        fake = torch.sigmoid(logits).mean(dim=1).cpu().numpy()  # the three heads weigh the same
        np.add.at(total, rows[chosen], fake[:, None])
        np.add.at(times, rows[chosen], 1)
    return (total / times).astype(np.float32)


@torch.inference_mode()
def part_keys(clip: Clip, reals) -> torch.Tensor:
    """(blocks, 4, width): the mean key of each of PARTS over the crops of a view of real faces, block by block."""
    read, weights = clip.pixel_reader(reals), part_weights(round((clip.tokens - 1) ** 0.5)).to(clip.device)
    total = 0
    for rows in _steps(len(reals), clip, 1):
        keys = [(weights @ _joined(key)).sum(dim=0) for _, key, _, _ in clip.traces(read(rows))]
        total = total + torch.stack(keys)
    return total / len(reals)


def guidance(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the parts of 30 x cosine(query, mean key of a part); both (blocks, 4, width)."""
    cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT  # (blocks, query, part)
    own = torch.arange(len(PARTS), device=queries.device).repeat(len(queries))
    return F.cross_entropy(GUIDANCE_SCALE * cosines.flatten(0, 1), own)


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of (1 - p)^4 x -log p over clips and heads, p being the probability of the truth; logits (clips, 3)."""
    losses = F.binary_cross_entropy_with_logits(
        logits, labels[:, None].expand_as(logits).to(logits.dtype), reduction="none"
    )
    return ((1 - torch.exp(-losses)) ** FOCUS * losses).mean()


def _batches(clip: Clip, train, frames: int, schedule: Schedule, seed: int) -> Iterator[tuple]:
    """Endless (pixels of clips, labels of clips); with `schedule.flip` half of the clips are mirrored as a whole."""
    rows, read, generator = clips_of(train.frames, frames), clip.pixel_reader(train), np.random.default_rng(seed)
    labels, scenes = train.labels[rows[:, 0]], scenes_of(train.frames)[rows[:, 0]]
    drawn = pairs(labels, scenes, generator)
    while True:
        chosen = np.array([next(drawn) for _ in range(schedule.batch // 2)]).ravel()
        flip = np.repeat(generator.random(len(chosen)) < 0.5, frames) if schedule.flip else None
        yield read(rows[chosen].ravel(), flip), torch.from_numpy(labels[chosen])


def _train(decoder: Decoder, clip: Clip, train, validation, schedule: Schedule, seed: int) -> list[dict]:
    """As `training.fit`, on pairs of clips: the decoder of the best validation epoch stays."""
    keys = part_keys(clip, train.select(train.labels == 0)).clone()  # a clone may take part in gradients
    lengths, history, best = schedule.lengths(len(clips_of(train.frames, decoder.frames))), [], {}
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule.factor(step, sum(lengths)))
    batches = _batches(clip, train, decoder.frames, schedule, seed)
    with training.seeded(seed, clip), tqdm(total=sum(lengths), desc="training", disable=None, leave=False) as bar:
        for epoch, length in enumerate(lengths, start=1):
            row = {"epoch": epoch, "steps": sum(lengths[:epoch])}
            row |= _learn(decoder.train(), clip, keys, batches, length, optimiser, rates, bar)
            row |= training.judge(_scores(decoder.eval(), clip, validation), validation.labels)
            history.append(row)
            best_row = max(history, key=training.merit)
            if best_row is row:
                best = {name: value.clone() for name, value in decoder.state_dict().items()}
            if schedule.patience is not None and epoch - best_row["epoch"] >= schedule.patience:
                break
    decoder.load_state_dict(best)
    return [row | {"best": row is best_row} for row in history]


def _learn(decoder, clip, keys, batches, length, optimiser, rates, bar) -> dict:
    losses, guided, seen = [], [], []
    for _ in range(length):
        pixels, labels = next(batches)
        logits = decoder(clip.traces(pixels))
        guide = guidance(decoder.queries, keys)
        loss = FOCAL_WEIGHT * focal(logits, labels.to(logits.device)) + GUIDANCE_WEIGHT * guide
        if not torch.isfinite(loss):
            raise training.Diverged(f"training diverged at step {rates.last_epoch + 1}: the loss is {loss.item()}; "
                                    f"lower learning_rate (it was {rates.base_lrs[0]:g})")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        losses.append(loss.item())
        guided.append(guide.item())
        seen.append((labels.numpy(), torch.sigmoid(logits.detach()).mean(dim=1).cpu().numpy()))
        bar.update()
    truth, scores = (np.concatenate(part) for part in zip(*seen, strict=True))
    return {"loss": float(np.mean(losses)), "guidance": float(np.mean(guided)), "train_auc": metrics.auc(truth, scores)}


def fit(train, validation, *, clip: Clip, seed: int, frames_per_clip: int = 10, hidden: int = 16,
        learning_rate: float = 1e-4, weight_decay: float = 1e-3, batch: int = 8, **schedule) -> Components:
    """Train the decoder on clips of `frames_per_clip` frames; keep the best epoch on validation.

    `batch` counts clips, half of them fake, each beside the real of its scene; `schedule`: other fields of
    `training.Schedule`, of which `flip` mirrors whole clips. `hidden`: channels of the temporal branch.
    """
    training.check_classes(training=train, validation=validation)
    for name, value in (("frames_per_clip", frames_per_clip), ("hidden", hidden)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if batch % 2:
        raise UserError(f"batch counts clips, half of them fake: it must be even, got {batch}")
    plan = Schedule(lr=learning_rate, weight_decay=weight_decay, batch=batch, **schedule)
    with training.seeded(seed, clip):
        decoder = Decoder(clip, frames=frames_per_clip, hidden=hidden)
    history = _train(decoder, clip, train, validation, plan, seed)
    options = {"frames_per_clip": frames_per_clip, "hidden": hidden, "seed": seed, "schedule": dataclasses.asdict(plan)}
    return Components(clip, decoder, card("components", clip, training.trainable(decoder), history, **options))


def load(folder: Path, clip: Clip) -> Components:
    """The detector that `save` wrote, on the CLIP it was fitted on."""
    about = read_card(folder, "components", clip)
    options = about["options"]
    with training.seeded(0, clip):
        decoder = Decoder(clip, frames=options["frames_per_clip"], hidden=options["hidden"])
    weights = read_tensors(Path(folder) / WEIGHTS)
    check_keys(f"the decoder in {folder}", weights, decoder.state_dict())
    decoder.load_state_dict(weights)
    return Components(clip, decoder, about)
