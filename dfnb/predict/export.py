"""A run's detector as a folder that others can load: weights, threshold, preprocessing, and a model card.

It needs no dfnb: transformers, PEFT and safetensors score with it in the ten lines that stand in its model card.
The scores are equal where crops have the size of CLIP's input, as in every profile here; other crops are resized by
another library, which differs by a grey level in places.
"""

import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from dfnb import UserError, files
from dfnb.detectors import Detector
from dfnb.detectors import base as bases
from dfnb.evaluation import metrics, tables, training_domain
from dfnb.predict import videos

SNIPPET = '''\
import numpy, torch
{imports}from safetensors.torch import load_file
base = {base}
pixels = CLIPImageProcessor.from_pretrained(**base)(images=list(numpy.load("crops.npy")), return_tensors="pt").pixel_values
{read}
print(scores.tolist(), "fake" if scores.mean() >= {threshold!r} else "real")
'''
READ = {  # detector -> imports, and how they get from pixels to `scores`, the probability of fake of each crop
    "probe, projected": (["CLIPModel"], '''\
clip = CLIPModel.from_pretrained(**base)
features = torch.nn.functional.normalize(clip.visual_projection(clip.vision_model(pixels).pooler_output))
probe = load_file("probe.safetensors")
scores = torch.sigmoid(features.double() @ probe["weight"] + probe["bias"])'''),
    "probe, pooled": (["CLIPVisionModel"], '''\
features = CLIPVisionModel.from_pretrained(**base)(pixels).pooler_output
probe = load_file("probe.safetensors")
scores = torch.sigmoid(features.double() @ probe["weight"] + probe["bias"])'''),
    "lora": (["CLIPVisionModel", "PeftModel"], '''\
tower = PeftModel.from_pretrained(CLIPVisionModel.from_pretrained(**base), "adapter").eval()
head = load_file("head.safetensors")
scores = torch.sigmoid(tower(pixels).pooler_output @ head["weight"][0] + head["bias"])'''),
    "full": (["CLIPVisionModel"], '''\
tower, weights = CLIPVisionModel.from_pretrained(**base), load_file("full.safetensors")
weight, bias = weights.pop("head.weight"), weights.pop("head.bias")
tower.load_state_dict({name.removeprefix("tower."): value for name, value in weights.items()})
scores = torch.sigmoid(tower(pixels).pooler_output @ weight[0] + bias)'''),
}
CARD = """# A deepfake detector: {detector} on CLIP {clip}

It gives a face crop the probability that the face was manipulated. {trainable:,} values were trained; the base
is the CLIP `{clip}` (fingerprint {fingerprint}). {caveat}

## Use

In this folder, with transformers, peft and safetensors; crops.npy holds RGB faces of {crops[size]} pixels, uint8
(n, height, width, 3):

```python
{snippet}```

With dfnb, `dfnb score clip.mp4 --run .` starts from the video, and says where it is unlike the training videos.

- **Crops** {crops[frames]} frames, evenly spaced over the video; the square box of the face (dlib, frontal),
  {crops[margin]:g} times as wide, resized to {crops[size]} pixels; what lies outside of the picture is reflected
  (`preprocessing.json`).
- **Score of a video** The mean of the scores of its frames.
- **Threshold** {threshold:.4f}, chosen on validation videos and frozen before the test; from it on a video is called fake.

## Training data

Videos of {world}: {videos}; {trained_crops:,} crops. The pictures had a short side of {ranges[side]} pixels,
the faces {ranges[face]} pixels, the files {ranges[bits]} bits per pixel (`training_domain.json`).

## Results

Test videos of split seed {split_seed}: {tested}. None of them was trained on; people and scenes in them may have been. Low and high
bound the 95 % interval of the AUC. It is one split and one seed: other draws give other numbers.

{results}

## Limits

- It learnt the traces of the manipulations named above. Others may leave none of them.
- It never saw a video outside of the ranges named above; there its answer is a guess, however sure it looks.
- Nothing was tested by sex, age or skin colour.
- {caveat}
"""
COLUMNS = ["unit", "answer", "AUC", "low", "high", "EER", "ACC", "balanced", "F1", "threshold"]


def export(run: Path, dest: Path) -> Path:
    """Write the detector of a finished run into a new folder `dest`, with a model card, and return it.

    A CLIP that is not from a hub ("tiny", a folder) is copied to clip/. Raises UserError where `dest` has content,
    where the run is not complete, and for a detector that plain transformers cannot load.
    """
    run, dest = Path(run), Path(dest)
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"{dest} is there already; name a folder that does not exist, or remove it")
    detector, card = videos.load(run), bases.peek(run)
    recipe = _recipe(card)
    if recipe not in READ:
        raise UserError(f"the detector {recipe!r} cannot be exported, only {', '.join(READ)}")
    tested, table = results(run, card)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as scratch:
        folder = Path(scratch)
        source = base(detector.clip.name, detector.clip.folder, folder)
        name = "clip" if (folder / "clip").is_dir() else card["base"]["name"]
        detector.card = card | {"base": card["base"] | {"name": name}}
        detector.save(folder)
        _name_base(folder, name)
        files.atomic_write(folder / "preprocessing.json", json.dumps(preprocessing(detector), indent=1) + "\n")
        files.atomic_write(folder / "README.md", model_card(card, snippet(card, source), tested, table))
        shutil.copytree(folder, dest, dirs_exist_ok=True)
    return dest


def results(run: Path, card: dict) -> tuple[str, pd.DataFrame]:
    """What was tested, and the table of `tables.by_split`, for the detector that a run saved: of its own split.

    Its scores are known by their split and by the threshold that their validation split gives.
    """
    scores = pd.read_parquet(Path(run) / "scores.parquet")
    own = scores[scores.split_seed == card["split_seed"]]
    for _, rows in own.groupby("model", sort=False):
        judged = metrics.to_videos(rows[rows.split == "validation"])
        if metrics.best_threshold(judged.label, judged.score) == card["threshold"]:
            tested = metrics.to_videos(rows[rows.split == "test"]).manipulation.value_counts()
            return _listed(tested.to_dict()), tables.by_split(rows)
    raise UserError(f"{run} holds no scores of its own detector (split {card['split_seed']}, threshold {card['threshold']:g})")


def preprocessing(detector: Detector) -> dict:
    """All that lies between a video file and what the detector reads."""
    settings, clip = detector.card["crops"], detector.clip
    return {"frames": settings["frames"], "spacing": "evenly over the video, both ends included",
            "face": "dlib's frontal face detector, the largest and most lasting face, square box",
            "margin": settings["margin"], "crop_size": settings["size"], "outside": "filled by reflection",
            "input_size": clip.size, "mean": clip.preprocessing["image_mean"], "std": clip.preprocessing["image_std"],
            "video_score": "mean of the frames' probabilities", "threshold": detector.card["threshold"]}


def snippet(card: dict, base: dict) -> str:
    """Ten lines that score crops with an exported detector, in its folder and without dfnb."""
    names, read = READ[_recipe(card)]
    imports = "from peft import PeftModel\n" if "PeftModel" in names else ""
    imports += f"from transformers import CLIPImageProcessor, {names[0]}\n"
    return SNIPPET.format(imports=imports, base=base, read=read, threshold=card["threshold"])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def model_card(card: dict, snippet: str, tested: str, table: pd.DataFrame) -> str:
    """README.md of an exported detector: what it is, how to use it, what it learnt on, what it reached, its limits."""
    told, settings, base, ranges = card["trained_on"], card["crops"], card["base"], card["domain"]["ranges"]
    clip = Path(base["name"]).name if Path(base["name"]).is_absolute() else base["name"]
    return CARD.format(
        detector=card["detector"], clip=clip, fingerprint=base["fingerprint"], trainable=card["trainable"],
        caveat=videos.caveat(card), snippet=snippet, crops=settings, threshold=card["threshold"], split_seed=card["split_seed"],
        world=f"{'the demo world, a drawn one' if told['demo'] else told['corpus']} (profile {told['profile']})",
        videos=_listed(told["videos"]), trained_crops=told["frames"], tested=tested,
        ranges={name: training_domain.span(bounds, ".3g") for name, bounds in ranges.items()}, results=_markdown(table[COLUMNS]))


def _markdown(table: pd.DataFrame) -> str:
    texts = table.map(lambda value: value if isinstance(value, str) else "" if pd.isna(value) else f"{value:.3f}")
    return texts.to_markdown(index=False, disable_numparse=True)


def _recipe(card: dict) -> str:
    return card["detector"] if card["detector"] != "probe" else f"probe, {card['options']['features']}"


def base(name: str, checkpoint: Path | None, folder: Path | None) -> dict:
    """What `from_pretrained` takes for the CLIP called `name`; one that no hub has is copied from `checkpoint` to clip/."""
    if name != "tiny" and not Path(name).expanduser().is_dir():
        name, _, revision = name.partition("@")
        return {"pretrained_model_name_or_path": name} | ({"revision": revision} if revision else {})
    (folder / "clip").mkdir()
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".safetensors", ".txt", ".md"):
            shutil.copyfile(path, folder / "clip" / path.name)
    return {"pretrained_model_name_or_path": "clip"}


def _name_base(folder: Path, name: str) -> None:
    """PEFT's configuration names the base too; it must not name a folder of this machine."""
    if (path := folder / "adapter" / "adapter_config.json").is_file():
        config = json.loads(path.read_text()) | {"base_model_name_or_path": name}
        files.atomic_write(path, json.dumps(config, indent=1) + "\n")
