"""What all detectors share: building, scoring, saving, and loading with all its checks.

A saved detector is a folder: tensors in safetensors files, and detector.json with its name, the
CLIP it was fitted on ("base"), its number of trained values, options and history.
"""

import copy
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn

from dfnb import UserError, files
from dfnb.detectors import training
from dfnb.models import saliency
from dfnb.models.clip import Clip, Reader

METADATA = "detector.json"
DOMAIN = "training_domain.json"  # the metadata's entry "domain": long numbers that nobody reads


class Detector:
    """A detector on a frozen CLIP: a subclass gives `name`, `build`, `fit`, and what differs.

    Attributes: `clip`; `model`, the module whose tensors are saved; `metadata`, JSON values only,
    to which others may add ("threshold", "domain", ...); `cache_prefix`, whether the activations
    of frozen blocks may be kept on disk, where the detector's options allow it. `head` names the
    part of the model that turns features into a logit; "" stands for the whole model.
    """

    name = ""
    head = ""

    def __init__(self, clip: Clip, options: dict, *, seed: int = 0):
        self.clip, self.cache_prefix = clip, True
        with training.seeded(seed, clip.device):
            self.model = self.build(clip, options).to(clip.device).eval()
        fitted_on = {"name": clip.name, "fingerprint": clip.fingerprint, "size": clip.size}
        self.metadata: dict[str, Any] = {
            "detector": self.name, "base": fitted_on, "trainable": self.trainable,
            "options": options, "history": []}

    @staticmethod
    def build(clip: Clip, options: dict) -> Any:
        """Return the model before training; random draws come from torch's default generator."""
        raise NotImplementedError

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, **options: Any) -> Self:
        """Fit a detector on the crops `train`, choosing on `validation`."""
        raise NotImplementedError

    def learn(self, train, validation, plan: training.Schedule, seed: int, **how) -> Self:
        """Train the model by gradients (`training.fit`), write down how, and return itself."""
        self.options.update(seed=seed, schedule=vars(plan).copy())
        self.metadata["history"] = training.fit(
            self.model, train, validation, clip=self.clip, schedule=plan, seed=seed,
            **{"reader": self.reader} | how)
        return self

    @property
    def options(self) -> dict:
        """The options that the model is built from, and those it was trained with."""
        return self.metadata["options"]

    @property
    def history(self) -> list[dict]:
        """One row per epoch or candidate, of which exactly one is the best; [] without any."""
        return self.metadata["history"]

    @property
    def trainable(self) -> int:
        """The number of values that were trained."""
        return training.trainable(self.model)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the tensors of the model by name."""
        return {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}

    def reader(self, view) -> Reader:
        """Return what maps rows of a view to the inputs of the model; by default to pixels."""
        return self.clip.pixel_reader(view)

    def score(self, crops) -> np.ndarray:
        """Return the probability of fake (n,) float32 of each crop."""
        return training.predict(self.model, crops, self.clip, read=self.reader(crops))

    def features(self, crops) -> np.ndarray:
        """Return the features (n, dim) float32 that decide; by default CLIP's projected ones."""
        return self.clip.image_features(crops)

    @property
    def encoder(self) -> nn.Module:
        """The image encoder whose pooled feature `logit_of_pooled` takes; by default CLIP's."""
        return self.clip.model.vision_model

    def logit_of_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits of fake (n,) of pooled features (n, width), up to a shift and a scale."""
        raise saliency.NoMaps(f"the detector {self.name} has no logit that follows from the pooled "
                              "feature of an image encoder, and no maps")

    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return CLIP's projected features of length one (n, dim) of pooled ones (n, width)."""
        return F.normalize(self.clip.model.visual_projection(pooled), dim=-1)

    def maps(self, crops, *, blocks: int | None = None) -> np.ndarray:
        """Return the relevance (n, side, side) float32 of each patch; see `saliency.maps`.

        Raises `saliency.NoMaps` for a detector that has none.
        """
        return saliency.maps(self.encoder, self.logit_of_pooled, self.clip, crops, blocks=blocks)

    def without_head(self, seed: int = 0) -> Self:
        """Return a copy whose head is drawn at random; what was learnt below it stays."""
        other, generator = copy.copy(self), torch.Generator().manual_seed(seed)
        other.model = copy.deepcopy(self.model)
        with torch.no_grad():
            for value in other.model.get_submodule(self.head).parameters():
                drawn = torch.randn(value.shape, generator=generator)
                value.copy_(drawn.to(value.device) * value.std(unbiased=False))
        return other

    def save(self, folder: Path) -> None:
        """Write the tensors, then the metadata: a folder with metadata is complete."""
        self.save_model(Path(folder))
        metadata = dict(self.metadata)
        if domain := metadata.pop("domain", None):
            files.atomic_write(Path(folder) / DOMAIN, json.dumps(domain) + "\n")
        files.write_json(Path(folder) / METADATA, metadata)

    @classmethod
    def load(cls, folder: Path, clip: Clip) -> Self:
        """Return the detector that `save` wrote, on the CLIP it was fitted on."""
        metadata = read_metadata(folder)
        name, fitted_on = metadata["detector"], metadata["base"]
        if name != cls.name:
            raise UserError(f"{folder} holds a {name!r} detector, not {cls.name!r}; "
                            f"load it as {name!r}")
        if fitted_on["fingerprint"] != clip.fingerprint:
            raise UserError(f"{folder} was fitted on the CLIP {fitted_on['name']!r} "
                            f"({fitted_on['fingerprint']}), this is {clip.name!r} "
                            f"({clip.fingerprint}); load that one")
        detector = cls(clip, metadata["options"])
        detector.load_model(Path(folder))
        detector.metadata = metadata
        return detector

    def save_model(self, folder: Path) -> None:
        """Write the tensors of the model."""
        save_tensors(folder / f"{self.name}.safetensors", self.model)

    def load_model(self, folder: Path) -> None:
        """Read the tensors of the model; UserError where they do not fit it."""
        load_tensors(folder / f"{self.name}.safetensors", self.model)


def read_metadata(folder: Path) -> dict:
    """Return the metadata of a saved detector; UserError where the folder holds none."""
    path = Path(folder) / METADATA
    if not path.is_file():
        raise UserError(f"{folder} holds no detector: {METADATA} is missing; give the folder that "
                        "`save` wrote")
    metadata = files.read_json(path)
    try:
        "".join((metadata["detector"], metadata["base"]["name"], metadata["base"]["fingerprint"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not the metadata of a detector: {error!r}") from error
    if (domain := path.with_name(DOMAIN)).is_file():
        metadata["domain"] = files.read_json(domain)
    return metadata


def save_tensors(path: Path, module: nn.Module) -> None:
    """Write all tensors of a module into a safetensors file."""
    tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
    files.atomic_write(path, safetensors.torch.save(tensors))


def load_tensors(path: Path, module: nn.Module) -> None:
    """Read all tensors of a module from a safetensors file."""
    module.load_state_dict(read_tensors(path, module.state_dict()))


def read_tensors(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, which must have the names and shapes expected.

    Raises UserError that lists missing, extra and misshapen tensors, or says why the file cannot
    be read.
    """
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error
    both = tensors.keys() & expected.keys()
    wrong = {"missing": expected.keys() - both, "extra": tensors.keys() - both,
             "of another shape": {name for name in both
                                  if tensors[name].shape != expected[name].shape}}
    if any(wrong.values()):
        listed = "; ".join(f"{kind}: {', '.join(sorted(names))}"
                           for kind, names in wrong.items() if names)
        raise UserError(f"the tensors in {path} do not fit the detector's options, {listed}")
    return tensors
