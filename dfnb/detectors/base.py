"""The card that lies beside the weights of a saved detector, and checks of both."""

import json
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from dfnb import UserError, files
from dfnb.models.clip import Clip

CARD, ADAPTER = "detector.json", "adapter"
DOMAIN = "training_domain.json"  # the card's entry "domain", long numbers that nobody reads


def card(detector: str, clip: Clip, trainable: int, history: list[dict], **options) -> dict:
    """What a detector says of itself: its name, the CLIP it was fitted on, its options and its history."""
    base = {"name": clip.name, "fingerprint": clip.fingerprint, "size": clip.size}
    return {"detector": detector, "base": base, "trainable": trainable, "options": options, "history": history}


def write_card(folder: Path, content: dict) -> None:
    """Write `detector.json`, and "domain" beside it; call it last, so that a folder with a card is whole."""
    if domain := content.get("domain"):
        files.atomic_write(Path(folder) / DOMAIN, json.dumps(domain) + "\n")
        content = {name: value for name, value in content.items() if name != "domain"}
    files.atomic_write(Path(folder) / CARD, json.dumps(content, indent=1) + "\n")


def write_adapter(folder: Path, tower) -> None:
    """Write adapter/ as PEFT does (`PeftModel.from_pretrained` takes it), the same bytes each time."""
    with tempfile.TemporaryDirectory() as scratch:
        tower.save_pretrained(scratch, save_embedding_layers=False)
        config = json.loads(Path(scratch, "adapter_config.json").read_text())
        weights = Path(scratch, "adapter_model.safetensors").read_bytes()
    config["target_modules"].sort()  # PEFT keeps a set: its order changes from process to process
    adapter = Path(folder) / ADAPTER
    files.atomic_write(adapter / "adapter_config.json", json.dumps(config, indent=1) + "\n")
    files.atomic_write(adapter / "adapter_model.safetensors", weights)


def peek(folder: Path) -> dict:
    """The card of a saved detector as it lies there, to see what must be loaded."""
    path = Path(folder) / CARD
    if not path.is_file():
        raise UserError(f"{folder} holds no detector: {CARD} is missing; give the folder that `save` wrote")
    try:
        content = json.loads(path.read_text())
        str.join("", (content["detector"], content["base"]["name"], content["base"]["fingerprint"]))  # all three are texts
        if (domain := path.with_name(DOMAIN)).is_file():
            content["domain"] = json.loads(domain.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a detector's card: {error!r}") from error
    return content


def read_card(folder: Path, name: str, clip: Clip) -> dict:
    """The card of a saved detector, after checking that it is of this detector and of this CLIP."""
    content = peek(folder)
    made_by, known = content["detector"], (content["base"]["name"], content["base"]["fingerprint"])
    if made_by != name:
        raise UserError(f"{folder} holds a {made_by!r} detector, not {name!r}; load it as {made_by!r}")
    if known[1] != clip.fingerprint:
        raise UserError(
            f"{folder} was fitted on the CLIP {known[0]!r} ({known[1]}), "
            f"this is {clip.name!r} ({clip.fingerprint}); load that one"
        )
    return content


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; UserError where it is none."""
    try:
        return safetensors.torch.load(Path(path).read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error


def check_keys(what: str, found: dict, expected: dict) -> None:
    """Raise a `UserError` that lists tensors which are missing, extra or of another shape."""
    common = found.keys() & expected.keys()
    wrong = {
        "missing": expected.keys() - common,
        "extra": found.keys() - common,
        "of another shape": {key for key in common if found[key].shape != expected[key].shape},
    }
    if any(wrong.values()):
        listed = "; ".join(f"{kind}: {', '.join(sorted(keys))}" for kind, keys in wrong.items() if keys)
        raise UserError(f"{what} does not fit its base, {listed}")
