"""The one fit loop: balanced batches, warm-up and cosine, early stop on validation AUC, the same bits."""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from dfnb import UserError
from dfnb.evaluation import metrics
from dfnb.models.clip import Clip, Reader
from dfnb.models.device import Pieces

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it


class Diverged(UserError):
    """The loss is no longer a finite number."""


class NoGradient(UserError):
    """A parameter that should train is not part of the computation."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    `epochs` counts validations. With `steps` that many gradient steps are spread evenly over them, whatever
    the amount of data; else an epoch shows as many crops as there are. `warmup` is a share of all steps;
    `flip` mirrors half of the crops; `patience` epochs without a better one end it (None: never).
    `floor` is the learning rate at the end; `optimiser`: "adamw" or "sgd", the latter with momentum 0.9.
    """

    epochs: int = 4
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int | None = 2
    steps: int | None = None
    flip: bool = False
    floor: float = 0.0
    optimiser: str = "adamw"

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch", 2), ("patience", 1), ("steps", self.epochs)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, got {value}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"learning_rate must be a positive number, got {self.lr}")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.floor <= self.lr:
            raise UserError(f"floor must lie between 0 and the learning rate {self.lr:g}, got {self.floor}")
        if self.optimiser not in ("adamw", "sgd"):
            raise UserError(f"optimiser must be adamw or sgd, got {self.optimiser!r}")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup is a share of all steps and must lie in [0, 1), got {self.warmup}")

    def lengths(self, crops: int) -> list[int]:
        """Gradient steps of each epoch for so many training crops."""
        if self.steps is None:
            return [math.ceil(crops / self.batch)] * self.epochs
        ends = [round(self.steps * epoch / self.epochs) for epoch in range(self.epochs + 1)]
        return [after - before for before, after in zip(ends, ends[1:], strict=False)]

    def factor(self, step: int, total: int) -> float:
        """Share of `lr` at a step: a linear rise over the warm-up, then half a cosine down to `floor`."""
        rise = round(self.warmup * total)
        if step < rise:
            return (step + 1) / (rise + 1)
        least, fall = self.floor / self.lr, (step - rise) / max(1, total - rise)
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * fall))


@contextlib.contextmanager
def seeded(seed: int, clip: Clip) -> Iterator[None]:
    """Draw initialisation and dropout from `seed`, with deterministic kernels; put the state before back."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if clip.device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def balanced_loss(logits: torch.Tensor, labels: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over the classes present of their mean cross-entropy; logits of fake (n,), labels (n,) 0 or 1.

    `sizes` (2,) of the classes in a batch: then this is the share of the loss that some of its crops have.
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    sizes = torch.bincount(labels, minlength=2) if sizes is None else sizes
    return (losses / sizes[labels]).sum() / (sizes > 0).sum()


def plain_loss(model: nn.Module, inputs, labels: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple:
    """The class-balanced cross-entropy of a model's logits of fake (n,), and these logits as float32."""
    logits = model(inputs).float()
    return balanced_loss(logits, labels, sizes), logits


def balanced_rows(labels: np.ndarray, batch: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches of rows, half real, half fake (the odd one); a class used up is shuffled anew."""
    streams = [_endless(np.flatnonzero(labels == label), generator) for label in (0, 1)]
    while True:
        yield np.array([next(streams[at >= batch // 2]) for at in range(batch)])


def _endless(rows: np.ndarray, generator: np.random.Generator) -> Iterator[int]:
    while True:
        yield from generator.permutation(rows)


def _batches(view, read: Reader, schedule: Schedule, seed: int) -> Iterator[tuple]:
    """Endless (inputs, labels); with `schedule.flip` every other crop, drawn at random, is mirrored."""
    labels, generator = np.asarray(view.labels), np.random.default_rng(seed)
    for rows in balanced_rows(labels, schedule.batch, generator):
        flip = generator.random(len(rows)) < 0.5 if schedule.flip else None
        yield read(rows, flip), torch.from_numpy(labels[rows].astype(np.int64))


def predict(model: nn.Module, view, clip: Clip, *, read: Reader | None = None) -> np.ndarray:
    """float32 (n,): the probability of fake of each crop, without dropout."""
    return _apply(model, lambda inputs: torch.sigmoid(model(inputs).float()), view, clip, read)


def features(model: nn.Module, view, clip: Clip, *, read: Reader | None = None) -> np.ndarray:
    """float32 (n, width): what enters the head of a `model` that has `pool`, without dropout."""
    return _apply(model, lambda inputs: model.pool(inputs).float(), view, clip, read, clip.width)


def _apply(model: nn.Module, of: Callable, view, clip: Clip, read: Reader | None, *width: int) -> np.ndarray:
    """float32 (n, *width): `of` the crops, step by step, with the model in evaluation mode."""
    read, pieces = read or clip.pixel_reader(view), clip.pieces()
    was, found = model.training, np.empty((len(view), *width), np.float32)
    model.eval()
    with torch.inference_mode(), clip.precision():
        for rows, values in pieces.of(np.arange(len(view)), lambda rows: of(read(rows)).cpu()):
            found[rows] = values.numpy()
    model.train(was)
    return found


def trainable(model: nn.Module) -> int:
    """How many values `fit` trains."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def fit(
    model: nn.Module,
    train,
    validation,
    *,
    clip: Clip,
    schedule: Schedule,
    seed: int,
    reader: Callable[..., Reader] | None = None,
    loss: Callable = plain_loss,
) -> list[dict]:
    """Train the parameters that require a gradient; leave those of the best validation AUC in the model.

    The model maps what `reader(view)` reads (default `clip.pixel_reader`) to logits of fake (n,);
    `loss(model, inputs, labels)` gives what is minimised and these logits, as float32. The AUC is of frames, not
    videos: ten validation videos are too few to tell epochs apart; the lower loss breaks ties.
    Returns one row per epoch: epoch, steps, loss, train_auc (of the batches as they were learnt from),
    validation_auc, validation_loss, best. Raises `Diverged`, `NoGradient`, `UserError` if a class is absent.
    """
    check_classes(training=train, validation=validation)
    reader = reader or clip.pixel_reader
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    batches, check = _batches(train, reader(train), schedule, seed), reader(validation)
    lengths, history, best = schedule.lengths(len(train)), [], {}
    optimiser, rates = _optimiser(trained, schedule, sum(lengths))
    pieces = Pieces(schedule.batch)
    with seeded(seed, clip), tqdm(total=sum(lengths), desc="training", disable=None, leave=False) as bar:
        for epoch, length in enumerate(lengths, start=1):
            row = {"epoch": epoch, "steps": sum(lengths[:epoch])}
            todo = itertools.islice(batches, length)
            row |= _learn(model.train(), trained, todo, optimiser, rates, clip, bar, pieces, loss)
            scores = predict(model, validation, clip, read=check)
            _check_finite("a validation score", scores, rates)
            row |= judge(scores, validation.labels)
            history.append(row)
            best_row = max(history, key=merit)
            if best_row is row:
                best = {name: value.detach().clone() for name, value in trained.items()}
            if schedule.patience is not None and epoch - best_row["epoch"] >= schedule.patience:
                break
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(best[name])
    model.eval()
    return [row | {"best": row is best_row} for row in history]


def _learn(model, trained, batches, optimiser, rates, clip, bar, pieces, minimised) -> dict:
    """One gradient step per batch; the mean loss, and the AUC of the logits as they were before each step."""
    losses, logits_seen, labels_seen = [], [], []
    for inputs, labels in batches:
        loss, logits = _gradient(model, inputs, labels, optimiser, clip, pieces, minimised)
        _check_finite("the loss", loss, rates)
        if idle := [name for name, value in trained.items() if value.grad is None]:
            raise NoGradient(f"{len(idle)} trainable parameters get no gradient: {', '.join(idle[:5])}")
        optimiser.step()
        rates.step()
        losses.append(loss.item())
        logits_seen.append(logits.cpu())
        labels_seen.append(labels)
        bar.update()
    seen = torch.cat(labels_seen).numpy(), torch.cat(logits_seen).numpy()
    return {"loss": float(np.mean(losses)), "train_auc": metrics.auc(*seen)}


def _gradient(model, inputs, labels, optimiser, clip, pieces: Pieces, minimised) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and logits (n,) of one batch, its gradient in the parameters: summed over pieces that fit into memory.

    Pieces change the gradient by rounding alone, but for dropout, whose draws come in another order. Only the plain
    loss is a sum over crops: another one, that may compare them, takes the batch whole.
    """
    sizes, plain = torch.bincount(labels, minlength=2).to(clip.device), minimised is plain_loss
    of = partial(plain_loss, sizes=sizes) if plain else minimised
    while True:
        optimiser.zero_grad()
        try:
            parts = [_share(of, model, _cut(inputs, rows), labels[rows], clip) for rows in pieces.slices(len(labels))]
        except torch.OutOfMemoryError as error:
            if not plain:
                raise
            pieces.halve(len(labels), error)
            continue
        return sum(loss for loss, _ in parts), torch.cat([logits for _, logits in parts])


def _cut(inputs, rows: slice):
    """Some crops of a batch; a model may take several tensors."""
    return tuple(part[rows] for part in inputs) if isinstance(inputs, tuple) else inputs[rows]


def _share(minimised, model, inputs, labels, clip) -> tuple[torch.Tensor, torch.Tensor]:
    with clip.precision():
        loss, logits = minimised(model, inputs, labels.to(clip.device))
    loss.backward()
    return loss.detach(), logits.detach()


def judge(scores: np.ndarray, labels: np.ndarray) -> dict:
    """AUC of frames and class-balanced cross-entropy of probabilities of fake (n,) on the validation part."""
    logits = torch.logit(torch.tensor(scores, dtype=torch.float64), eps=1e-7)
    loss = balanced_loss(logits, torch.tensor(labels))
    return {"validation_auc": metrics.auc(labels, scores), "validation_loss": float(loss)}


def merit(row: dict) -> tuple[float, float]:
    """What is best on validation: the largest AUC, and of equals the smallest loss."""
    return row["validation_auc"], -row["validation_loss"]


def _check_finite(what: str, values: torch.Tensor | np.ndarray, rates) -> None:
    if not (finite := torch.isfinite(torch.as_tensor(values).detach())).all():
        value = torch.as_tensor(values).detach()[~finite].flatten()[0].item()
        raise Diverged(
            f"training diverged at step {rates.last_epoch + 1}: {what} is {value}; "
            f"lower learning_rate (it was {rates.base_lrs[0]:g}) or alpha"
        )


def _optimiser(trained: dict, schedule: Schedule, total: int):
    """The optimiser and its rate; gains, biases and other vectors are not decayed."""
    groups = [
        {"params": [value for value in trained.values() if (value.ndim > 1) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, schedule.weight_decay), (False, 0.0))
    ]
    if schedule.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9)
    else:
        optimiser = torch.optim.AdamW(groups, lr=schedule.lr, fused=True)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule.factor(step, total))


def check_classes(**parts) -> None:
    for part, view in parts.items():
        reals, fakes = (int((np.asarray(view.labels) == label).sum()) for label in (0, 1))
        if not reals or not fakes:
            raise UserError(f"{part} needs crops of both classes, it has {reals} real and {fakes} fake")
