"""Find a CLIP checkpoint in the package, a folder or the hub, and read its preprocessing."""

import math
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE

from dfnb import UserError, files

TINY = Path(__file__).parent.parent / "demo" / "tiny-clip"
REVISIONS = {  # commits on the hub, so that a name always means the same weights
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-base-patch16": "57c216476eefef5ab752ec549e440a49ae4ae5f3",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "openai/clip-vit-large-patch14-336": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
}
FILES = ["model*.safetensors*", "*.json", "*.txt"]  # neither pickles nor code
NEEDED = {
    "config.json": "config.json", "preprocessor_config.json": "preprocessor_config.json",
    "model*.safetensors": "weights in safetensors (a pickle such as pytorch_model.bin can run "
    "code, so none is read: save the model once with save_pretrained, or take a revision that has "
    "model.safetensors)"}
BICUBIC = 3  # PIL's number of the filter


def find(name: str) -> Path:
    """Return the local folder of a checkpoint; download a hub name that is not in the cache."""
    folder = TINY if name == "tiny" else Path(name).expanduser()
    if folder.is_dir():
        if lacking := _lacking(folder):
            raise UserError(f"{name} is no CLIP checkpoint ({folder.name}/): it lacks {lacking}")
        return folder
    try:
        return _from_hub(name)
    except LookupError as error:
        raise UserError(
            f'the CLIP {name!r} was not found: {error}; give "tiny", a folder with config.json, '
            "preprocessor_config.json and model.safetensors, or a hub name such as "
            "openai/clip-vit-large-patch14") from None


def _from_hub(name: str) -> Path:
    """Return the local folder of `owner/name[@revision]`; LookupError with the reason otherwise."""
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise LookupError("there is no such folder")
    revision, reason = revision or REVISIONS.get(repository, "main"), ""
    for offline in (True, False):
        try:
            folder = Path(snapshot_download(
                repository, local_files_only=offline, revision=revision, allow_patterns=FILES))
        except Exception as error:  # the hub client raises its own, requests' and httpx's errors
            reason = (
                f"revision {revision} is neither in {HF_HUB_CACHE} nor available from the hub "
                f"({type(error).__name__}); on a machine with a network, call `hf download "
                f"{repository} --revision {revision} --local-dir FOLDER`, then copy that folder "
                "here and give its path")
            continue
        if not (lacking := _lacking(folder)):
            return folder
        reason = f"the hub's copy lacks {lacking}"
    raise LookupError(reason)


def _lacking(folder: Path) -> str:
    return " and ".join(label for name, label in NEEDED.items() if not any(folder.glob(name)))


def preprocessing(folder: Path, name: str) -> dict:
    """Return the checkpoint's preprocessing; UserError where it is not that of a CLIP."""
    kind = files.read_json(folder / "config.json").get("model_type")
    if kind != "clip":
        raise UserError(f"{name} is a {kind!r} checkpoint; dfnb needs one of model_type 'clip'")
    settings = files.read_json(folder / "preprocessor_config.json")
    for key in ("image_mean", "image_std"):
        if not _are_colours(settings.get(key), positive=key == "image_std"):
            raise UserError(f"{folder}/preprocessor_config.json: {key} must be three "
                            f"{'positive ' if key == 'image_std' else ''}numbers, "
                            f"got {settings.get(key)!r}")
    if (number := settings.get("resample", BICUBIC)) != BICUBIC:
        raise UserError(f"{name} resizes by PIL's filter {number}; dfnb supports only CLIP's own, "
                        f"{BICUBIC} (bicubic)")
    return settings


def _are_colours(values, *, positive: bool) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(
        isinstance(value, int | float) and math.isfinite(value) and (value > 0 or not positive)
        for value in values)
