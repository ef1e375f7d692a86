"""LoRA on the image tower: y = W x + (alpha / rank) B A x for q and v of the last blocks."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import peft
import safetensors.torch
import torch
from torch import nn

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.detectors.base import (
    ADAPTER,
    card,
    check_keys,
    read_card,
    read_tensors,
    write_adapter,
    write_card,
)
from dfnb.detectors.training import Schedule
from dfnb.models.clip import Clip, Reader
from dfnb.models.encoder import leave

HEAD = "head.safetensors"


def adapt(tower: nn.Module, *, rank: int, alpha: float, dropout: float, blocks: int) -> peft.PeftModel:
    """Wrap q and v of the last `blocks` blocks with LoRA (Hu et al., 2021, eq. 3); freeze the rest.

    B starts at zero, so adapting does not change the tower's output until a step is taken.
    """
    layers = len(tower.encoder.layers)
    config = peft.LoraConfig(
        task_type=None,  # FEATURE_EXTRACTION expects a text model
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=list(range(layers - blocks, layers)),
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads an attribute that transformers renames
        return peft.get_peft_model(tower, config)


class Classifier(nn.Module):
    """The adapted blocks and a linear head on the pooled feature.

    Takes the activations (n, tokens, width) that enter the first adapted block, gives logits of fake (n,).
    The blocks before it are frozen, the same for every run, and no part of the model.
    """

    def __init__(self, clip: Clip, *, rank: int, alpha: float, dropout: float, blocks: int):
        super().__init__()
        self.block = clip.layers - blocks
        self.tower = adapt(clip.vision_tower(), rank=rank, alpha=alpha, dropout=dropout, blocks=blocks)
        self.head = nn.Linear(clip.width, 1)
        self.to(clip.device)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        return leave(self.tower.get_base_model(), hidden, self.block)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(hidden)).squeeze(-1)


class Lora:
    """An adapted tower and its head. `trainable` = 2 * 2 * rank * width * blocks + width + 1."""

    def __init__(self, clip: Clip, model: Classifier, card: dict):
        self.clip, self.model, self.card = clip, model.eval(), card
        self.trainable, self.history = card["trainable"], card["history"]

    def score(self, crops) -> np.ndarray:
        """(n,) float32, probability of fake per frame."""
        return training.predict(self.model, crops, self.clip, read=self._read(crops))

    def features(self, crops) -> np.ndarray:
        """(n, width) float32, the pooled features that the head sees."""
        return training.features(self.model, crops, self.clip, read=self._read(crops))

    def _read(self, crops) -> Reader:
        return self.clip.hidden_reader(crops, self.model.block, keep=self.card["options"]["prefix"])

    def save(self, folder: Path) -> None:
        """Write adapter/ as PEFT does, the head, last the card."""
        write_adapter(folder, self.model.tower)
        files.atomic_write(Path(folder) / HEAD, safetensors.torch.save(self.model.head.state_dict()))
        write_card(folder, self.card)


def fit(
    train,
    validation,
    *,
    clip: Clip,
    seed: int,
    rank: int = 8,
    alpha: float = 64,
    dropout: float = 0.05,
    blocks: int | None = None,
    learning_rate: float = 1e-3,
    batch: int = 32,
    epochs: int = 4,
    patience: int | None = 2,
    steps: int | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    flip: bool = False,
    prefix: bool = True,
) -> Lora:
    """Train q and v of the last `blocks` blocks (None: all) and a head; keep the best epoch on validation.

    With `prefix` the activations of the frozen blocks are computed once and kept on disk, for this run and
    all others on the same crops; `flip` needs them anew for mirrored crops and switches that off.
    """
    blocks = clip.layers if blocks is None else blocks
    _check(clip, rank=rank, alpha=alpha, dropout=dropout, blocks=blocks)
    schedule = Schedule(
        epochs=epochs,
        batch=batch,
        lr=learning_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        patience=patience,
        steps=steps,
        flip=flip,
    )
    shape = {"rank": rank, "alpha": alpha, "dropout": dropout, "blocks": blocks}
    with training.seeded(seed, clip):
        model = Classifier(clip, **shape)
    detector = Lora(clip, model, {"trainable": 0, "history": [], "options": {"prefix": prefix and not flip}})
    history = training.fit(
        model, train, validation, clip=clip, schedule=schedule, seed=seed, reader=detector._read
    )
    options = (
        shape | {"prefix": prefix and not flip, "seed": seed} | {"schedule": dataclasses.asdict(schedule)}
    )
    return Lora(clip, model, card("lora", clip, training.trainable(model), history, **options))


def load(folder: Path, clip: Clip) -> Lora:
    """The detector that `save` wrote, on the CLIP it was fitted on; PEFT would only warn of missing keys."""
    about = read_card(folder, "lora", clip)
    shape = {name: about["options"][name] for name in ("rank", "alpha", "dropout", "blocks")}
    _check(clip, **shape)
    with training.seeded(0, clip):
        model = Classifier(clip, **shape)
    adapter = Path(folder) / ADAPTER
    _check_config(adapter / "adapter_config.json", model.tower.peft_config["default"])
    weights = read_tensors(adapter / "adapter_model.safetensors")
    check_keys(f"the adapter in {folder}", weights, peft.get_peft_model_state_dict(model.tower))
    peft.set_peft_model_state_dict(model.tower, weights)
    head = read_tensors(Path(folder) / HEAD)
    check_keys(f"the head in {folder}", head, model.head.state_dict())
    model.head.load_state_dict(head)
    return Lora(clip, model, about)


def _check_config(path: Path, expected: peft.LoraConfig) -> None:
    """The PEFT configuration must say what the card says, or dfnb and plain PEFT would score differently."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    wanted = expected.to_dict() | {"target_modules": sorted(expected.target_modules)}
    for name in ("r", "lora_alpha", "target_modules", "layers_to_transform"):
        if found.get(name) != wanted[name]:
            raise UserError(f"{path} says {name} = {found.get(name)!r}, the card beside it {wanted[name]!r}")


def _check(clip: Clip, *, rank: int, alpha: float, dropout: float, blocks: int) -> None:
    if not 1 <= rank <= clip.width:
        raise UserError(f"rank must lie between 1 and the tower's width {clip.width}, got {rank}")
    if not alpha > 0:
        raise UserError(f"alpha must be positive, got {alpha}")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout must lie in [0, 1), got {dropout}")
    if not 1 <= blocks <= clip.layers:
        raise UserError(f"blocks must lie between 1 and the tower's {clip.layers}, got {blocks}")
