"""Fit a detector: balanced batches, warm-up and cosine, early stop on validation, the same bits.

All detectors that train by gradients use this one loop.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from dfnb import UserError
from dfnb.detectors.schedule import Schedule
from dfnb.evaluation import metrics
from dfnb.models.clip import Clip, Reader
from dfnb.models.device import Pieces

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it


class Diverged(UserError):
    """The loss is no longer a finite number."""


class NoGradient(UserError):
    """A parameter that should train is not part of the computation."""


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from `seed` with deterministic kernels; restore both states afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def balanced_loss(logits: torch.Tensor, labels: torch.Tensor,
                  sizes: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean cross-entropy of each class present, averaged over the classes.

    `logits` of fake (n,), `labels` (n,) 0 or 1. With `sizes` (2,), the numbers of reals and fakes
    in a whole batch, the result is the share of the batch's loss that these crops have.
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    sizes = torch.bincount(labels, minlength=2) if sizes is None else sizes
    return (losses / sizes[labels]).sum() / (sizes > 0).sum()


def plain_loss(model: nn.Module, inputs, labels: torch.Tensor,
               sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Return the class-balanced loss, the model's logits of fake (n,) as float32, and no terms."""
    logits = model(inputs).float()
    return balanced_loss(logits, labels, sizes), logits, {}


def balanced_rows(labels: np.ndarray, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches of rows without end: half real, half fake (the odd one is fake).

    All crops of a class are drawn once before any of them is drawn again.
    """
    streams = [_endless(np.flatnonzero(labels == label), rng) for label in (0, 1)]
    while True:
        yield np.array([next(streams[at >= batch // 2]) for at in range(batch)])


def _endless(rows: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(rows)


def crop_batches(view, read: Reader, schedule: Schedule, seed: int) -> Iterator[tuple]:
    """Yield (inputs, labels) without end; `schedule.flip` mirrors crops with chance one half."""
    labels, rng = np.asarray(view.labels), np.random.default_rng(seed)
    for rows in balanced_rows(labels, schedule.batch, rng):
        flip = rng.random(len(rows)) < 0.5 if schedule.flip else None
        yield read(rows, flip), torch.from_numpy(labels[rows].astype(np.int64))


def predict(model: nn.Module, view, clip: Clip, *, read: Reader | None = None) -> np.ndarray:
    """Return the probability of fake (n,) float32 of each crop, without dropout."""
    return apply(model, lambda inputs: torch.sigmoid(model(inputs).float()), view, clip, read)


def apply(model: nn.Module, compute: Callable, view, clip: Clip, read: Reader | None = None,
          *width: int) -> np.ndarray:
    """Return what `compute` gives for the crops (n, *width) float32, with the model not training.

    `read` maps rows of the view to the inputs of `compute`; the default reads pixels.
    """
    read, training = read or clip.pixel_reader(view), model.training
    results = np.empty((len(view), *width), np.float32)
    model.eval()
    with torch.inference_mode(), clip.precision():
        every = np.arange(len(view))
        for rows, values in clip.pieces().of(every, lambda rows: compute(read(rows)).cpu()):
            results[rows] = values.numpy()
    model.train(training)
    return results


def trainable(model: nn.Module) -> int:
    """Return the number of values that `fit` trains."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def decayed(trained: dict[str, nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    """Return the schedule's optimiser; gains, biases and other vectors are not decayed."""
    groups = [{"params": [value for value in trained.values() if (value.ndim > 1) == matrix],
               "weight_decay": decay}
              for matrix, decay in ((True, schedule.weight_decay), (False, 0.0))]
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=schedule.lr, fused=True)


def fit(model: nn.Module, train, validation, *, clip: Clip, schedule: Schedule, seed: int,
        reader: Callable | None = None, loss: Callable = plain_loss,
        score: Callable | None = None, batches: Iterator[tuple] | None = None,
        examples: int | None = None, optimiser: Callable = decayed) -> list[dict]:
    """Train the parameters that require a gradient; leave those of the best epoch in the model.

    `loss(model, inputs, labels)` returns the value to minimise, a score of fake for each label, and
    a dict of terms to report. `batches` yields (inputs, labels); an epoch has `examples` of them.
    `score(view)` returns the probabilities of the validation crops. By default the model maps what
    `reader(view)` reads (pixels) to logits of fake (n,), an example is a crop, and vectors are not
    decayed. The AUC is of frames: ten validation videos are too few to tell epochs apart.

    Returns one row per epoch: epoch, steps, loss, the terms, train_auc (of the batches before each
    step), validation_auc, validation_loss, best. Raises `Diverged`, `NoGradient`, and `UserError`
    where a class is absent.
    """
    check_classes(training=train, validation=validation)
    reader = reader or clip.pixel_reader
    batches = batches or crop_batches(train, reader(train), schedule, seed)
    score = score or partial(predict, model, clip=clip, read=reader(validation))
    lengths, history, best = schedule.lengths(examples or len(train)), [], {}
    loop = _Loop(model, clip, schedule, loss, optimiser, sum(lengths))
    with seeded(seed, clip.device), loop.bar:
        for epoch, length in enumerate(lengths, start=1):
            row = {"epoch": epoch, "steps": sum(lengths[:epoch])}
            row |= loop.learn(itertools.islice(batches, length))
            scores = score(validation)
            loop.check_finite("a validation score", scores)
            history.append(row | judge(scores, validation.labels))
            best_row = max(history, key=merit)
            if best_row is history[-1]:
                best = {name: value.detach().clone() for name, value in loop.trained.items()}
            if schedule.patience is not None and epoch - best_row["epoch"] >= schedule.patience:
                break
    with torch.no_grad():
        for name, value in loop.trained.items():
            value.copy_(best[name])
    model.eval()
    return mark_best(history)


class _Loop:
    """The gradient steps of one model."""

    def __init__(self, model: nn.Module, clip: Clip, schedule: Schedule, loss: Callable,
                 optimiser: Callable, total: int):
        self.model, self.clip, self.loss = model, clip, loss
        self.trained = {name: value for name, value in model.named_parameters()
                        if value.requires_grad}
        self.optimiser = optimiser(self.trained, schedule)
        self.rates = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: schedule.factor(step, total))
        self.pieces = Pieces(schedule.batch)
        self.bar = tqdm(total=total, desc="training", disable=None, leave=False)

    def learn(self, batches: Iterator[tuple]) -> dict:
        """Take a step per batch; return the mean loss and terms, and the AUC before each step."""
        self.model.train()
        reports, scores_seen, labels_seen = [], [], []
        for inputs, labels in batches:
            loss, scores, terms = self.gradient(inputs, labels)
            self.check_finite("the loss", loss)
            if idle := [name for name, value in self.trained.items() if value.grad is None]:
                raise NoGradient(f"{len(idle)} trainable parameters get no gradient: "
                                 f"{', '.join(idle[:5])}")
            self.optimiser.step()
            self.rates.step()
            reports.append({name: value.item() for name, value in ({"loss": loss} | terms).items()})
            scores_seen.append(scores.cpu())
            labels_seen.append(labels)
            self.bar.update()
        means = {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}
        return means | {"train_auc": metrics.auc(torch.cat(labels_seen).numpy(),
                                                 torch.cat(scores_seen).numpy())}

    def gradient(self, inputs, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Return loss, scores and terms of one batch; leave its gradient in the parameters.

        The plain loss is a sum over crops, so its gradient is summed over pieces that fit into
        memory. The pieces change it by rounding alone, and the order of dropout's draws. Another
        loss may compare crops and takes the whole batch.
        """
        if self.loss is not plain_loss:
            self.optimiser.zero_grad()
            return self.backward(self.loss, inputs, labels)
        sizes = torch.bincount(labels, minlength=2).to(self.clip.device)
        while True:
            self.optimiser.zero_grad()
            try:
                parts = [self.backward(partial(plain_loss, sizes=sizes), _cut(inputs, rows),
                                       labels[rows]) for rows in self.pieces.slices(len(labels))]
            except torch.OutOfMemoryError as error:
                self.pieces.halve(len(labels), error)
                continue
            losses, logits, _ = zip(*parts, strict=True)
            return sum(losses), torch.cat(logits), {}

    def backward(self, loss: Callable, inputs, labels: torch.Tensor) -> tuple:
        """Add the gradient of some crops; return their loss, scores and terms."""
        with self.clip.precision():
            value, scores, terms = loss(self.model, inputs, labels.to(self.clip.device))
        value.backward()
        return value.detach(), scores.detach(), terms

    def check_finite(self, what: str, values) -> None:
        """Raise `Diverged` where a value is infinite or NaN."""
        values = torch.as_tensor(values).detach()
        if len(wrong := values[~torch.isfinite(values)].flatten()):
            raise Diverged(f"training diverged at step {self.rates.last_epoch + 1}: {what} is "
                           f"{wrong[0].item()}; lower learning_rate (it was "
                           f"{self.rates.base_lrs[0]:g}) or alpha")


def _cut(inputs, rows: slice):
    """Return some crops of a batch; a model may take several tensors."""
    return tuple(part[rows] for part in inputs) if isinstance(inputs, tuple) else inputs[rows]


def judge(scores: np.ndarray, labels: np.ndarray) -> dict:
    """Return AUC and class-balanced cross-entropy of probabilities of fake (n,) on validation."""
    logits = torch.logit(torch.tensor(scores, dtype=torch.float64), eps=1e-7)
    loss = balanced_loss(logits, torch.tensor(labels))
    return {"validation_auc": metrics.auc(labels, scores), "validation_loss": float(loss)}


def merit(row: dict) -> tuple[float, float]:
    """Return the key that is largest for the best row: the AUC, among equals the lower loss."""
    return row["validation_auc"], -row["validation_loss"]


def mark_best(history: Sequence[dict]) -> list[dict]:
    """Return the rows with `best`: true for the first of the best rows, false for all others."""
    best = max(history, key=merit)
    return [row | {"best": row is best} for row in history]


def check_classes(**views) -> None:
    """Raise UserError where a view lacks one of the classes; the keyword names the view."""
    for name, view in views.items():
        reals, fakes = (int((np.asarray(view.labels) == label).sum()) for label in (0, 1))
        if not reals or not fakes:
            raise UserError(f"{name} needs crops of both classes, it has {reals} real and "
                            f"{fakes} fake")
