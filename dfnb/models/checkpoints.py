"""Where a CLIP checkpoint lies: in the package, in a folder, in the hub's local cache or on the hub; and its settings."""

import json
import math
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE

from dfnb import UserError

TINY = Path(__file__).parent.parent / "demo" / "tiny-clip"
REVISIONS = {  # commits on the hub, so that a name means the same weights for ever
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-base-patch16": "57c216476eefef5ab752ec549e440a49ae4ae5f3",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "openai/clip-vit-large-patch14-336": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
}
FILES = ["model*.safetensors*", "*.json", "*.txt"]  # neither pickles nor code
BICUBIC = 3  # PIL's number for it


def find(name: str) -> Path:
    """The local folder of a checkpoint, downloaded when it is a hub name that is not yet in the cache."""
    if name == "tiny" or Path(name).expanduser().is_dir():
        folder = TINY if name == "tiny" else Path(name).expanduser()
        if lacking := _lacking(folder):
            raise UserError(f"{name} is no CLIP checkpoint ({folder.name}/): it lacks {' and '.join(lacking)}")
        return folder
    repository, _, revision = name.partition("@")
    revision = revision or REVISIONS.get(repository)
    reason = "there is no such folder"
    if repository.count("/") == 1 and not repository.startswith((".", "/", "~")):
        for offline in (True, False):
            try:
                folder = Path(snapshot_download(
                    repository, local_files_only=offline, revision=revision, allow_patterns=FILES))
            except Exception as error:  # the hub client raises its own, requests' and httpx's errors
                reason = _nowhere(repository, revision or "main", error)
                continue
            if not (lacking := _lacking(folder)):
                return folder
            reason = f"the hub's copy lacks {' and '.join(lacking)}"
    raise UserError(
        f'the CLIP {name!r} was not found: {reason}; give "tiny", a folder with config.json, '
        "preprocessor_config.json and model.safetensors, or a hub name such as openai/clip-vit-large-patch14"
    )


def _nowhere(repository: str, revision: str, error: Exception) -> str:
    return (f"revision {revision} is neither in {HF_HUB_CACHE} nor to be had from the hub ({type(error).__name__}); "
            f"where there is a network, `hf download {repository} --revision {revision} --local-dir FOLDER`, "
            "then bring that folder here and give its path")


def _lacking(folder: Path) -> list[str]:
    needed = {"config.json": "config.json", "preprocessor_config.json": "preprocessor_config.json",
              "model*.safetensors": "weights in safetensors (a pickle such as pytorch_model.bin can run code, so none "
              "is read: save the model once with save_pretrained, or take a revision that has model.safetensors)"}
    return [label for pattern, label in needed.items() if not any(folder.glob(pattern))]


def preprocessing(folder: Path, name: str) -> dict:
    """The checkpoint's preprocessing, after checking that it is a CLIP's; UserError otherwise."""
    kind = _read(folder / "config.json").get("model_type")
    if kind != "clip":
        raise UserError(f"{name} is a {kind!r} checkpoint; dfnb needs one of model_type 'clip'")
    found = _read(folder / "preprocessor_config.json")
    for key in ("image_mean", "image_std"):
        if not _are_colours(found.get(key), positive=key == "image_std"):
            raise UserError(f"{folder}/preprocessor_config.json: {key} must be three numbers, got {found.get(key)!r}")
    if found.get("resample", BICUBIC) != BICUBIC:
        raise UserError(f"{name} resizes by PIL's filter {found['resample']}; dfnb knows CLIP's own, {BICUBIC} (bicubic)")
    return found


def _are_colours(values, *, positive: bool) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(
        isinstance(value, int | float) and math.isfinite(value) and (value > 0 or not positive) for value in values)


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings by name, not {str(content)[:50]}")
    return content
