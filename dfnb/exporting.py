"""A run's detector as a folder that others can load: weights, threshold, preprocessing, and a model card.

It needs no dfnb: transformers, PEFT and safetensors score with it in the ten lines that stand in its model card.
"""

import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from dfnb import UserError, cards, metrics, paths, scoring, tables
from dfnb.methods import Detector

SNIPPET = '''\
import numpy, torch
{imports}from safetensors.torch import load_file
base = {base}
crops = list(numpy.load("crops.npy"))  # RGB faces, uint8 (n, {size}, {size}, 3), cut as described below
pixels = CLIPImageProcessor.from_pretrained(**base)(images=crops, return_tensors="pt").pixel_values
{read}
print(scores.tolist(), "fake" if scores.mean() >= {threshold!r} else "real")
'''
READ = {  # method -> imports, and how they get from pixels to `scores`, the probability of fake of each crop
    "probe, projected": (["CLIPVisionModelWithProjection"], '''\
features = torch.nn.functional.normalize(CLIPVisionModelWithProjection.from_pretrained(**base)(pixels).image_embeds)
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
COLUMNS = ["level", "answer", "AUC", "low", "high", "EER", "ACC", "balanced", "F1", "threshold"]


def export(run: Path, dest: Path) -> Path:
    """Write the detector of a finished run into a new folder `dest`, with a model card, and return it.

    A CLIP that is not from a hub ("tiny", a folder) is copied to clip/. Raises UserError where `dest` has content,
    where the run is not complete, and for a method that plain transformers cannot load.
    """
    run, dest = Path(run), Path(dest)
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"{dest} is there already; name a folder that does not exist, or remove it")
    detector, card = scoring.load(run), cards.peek(run)
    recipe = _recipe(card)
    if recipe not in READ:
        raise UserError(f"a detector of the method {recipe!r} cannot be exported, only {', '.join(READ)}")
    table = results(run, card)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as scratch:
        folder = Path(scratch)
        base = _base(detector, folder)
        detector.card = card | {"base": card["base"] | {"name": base["pretrained_model_name_or_path"]}}
        detector.save(folder)
        paths.atomic_write(folder / "preprocessing.json", json.dumps(preprocessing(detector), indent=1) + "\n")
        paths.atomic_write(folder / "README.md", model_card(card, snippet(card, base), table))
        shutil.copytree(folder, dest, dirs_exist_ok=True)
    return dest


def results(run: Path, card: dict) -> pd.DataFrame:
    """The table of `tables.by_split` for the detector that a run saved: the test part of its own split.

    Its scores are known by their split and by the threshold that their validation part gives.
    """
    scores = pd.read_parquet(Path(run) / "scores.parquet")
    own = scores[scores.split == card["split"]]
    for _, rows in own.groupby("model", sort=False):
        judged = metrics.to_videos(rows[rows.part == "validation"])
        if metrics.best_threshold(judged.label, judged.score) == card["threshold"]:
            return tables.by_split(rows)
    raise UserError(f"{run} holds no scores of its own detector (split {card['split']}, threshold {card['threshold']:g})")


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
    return SNIPPET.format(imports=imports, base=base, size=card["crops"]["size"], read=read, threshold=card["threshold"])


def model_card(card: dict, snippet: str, table: pd.DataFrame) -> str:
    """README.md of an exported detector: what it is, how to use it, what it learnt on, what it reached, its limits."""
    told, settings, base = card["trained_on"], card["crops"], card["base"]
    videos = ", ".join(f"{count} {name}" for name, count in told["videos"].items())
    ranges = card["domain"]["ranges"]
    world = "the demo world, a drawn one" if told["demo"] else told["corpus"]
    return f"""# A deepfake detector: {card["method"]} on CLIP {base["name"]}

It gives a face crop the probability that the face was manipulated. {card["trainable"]:,} values were trained; the base is the
CLIP `{base["name"]}` (fingerprint {base["fingerprint"]}). {scoring.caveat(card)}

## Use

In this folder, with transformers, peft and safetensors:

```python
{snippet}```

With dfnb: `dfnb score clip.mp4 --run .` does all of it, from the video on, and says where a video is unlike the training
videos (`training_domain.json`).

**Crops** {settings["frames"]} frames, evenly spaced over the video; the face's square box (dlib, frontal) widened {settings["margin"]:g} times,
resized to {settings["size"]} pixels; what lies outside of the picture is reflected (`preprocessing.json`). The score of a video is the
mean over its frames.

**Threshold** {card["threshold"]:.4f}, chosen on validation videos and frozen before the test: at or above it a video is called fake.

## Training data

Videos of {world} (profile {told["profile"]}): {videos}; {told["frames"]:,} crops. The pictures had a short side of
{_span(ranges["side"])} pixels, the faces {_span(ranges["face"])} pixels, the files {_span(ranges["bits"])} bits per pixel.

## Results

Test videos of split {card["split"]}, none of them trained on; `low` and `high` are the bounds of the 95 % interval of the AUC. One split
and one seed: another draw of the videos gives other numbers.

{table[COLUMNS].to_markdown(index=False, floatfmt=".3f")}

## Limits

- It learnt the traces of the manipulations named above. Others, and later ones, may leave none of them.
- It never saw anything outside of the ranges named above; there its answer is a guess, however sure it looks.
- Nothing was tested by sex, age or skin colour.
- {scoring.caveat(card)}
"""


def _span(bounds: list[float]) -> str:
    low, high = (f"{bound:.3g}" for bound in bounds)
    return low if low == high else f"{low} to {high}"


def _recipe(card: dict) -> str:
    return card["method"] if card["method"] != "probe" else f"probe, {card['options']['features']}"


def _base(detector: Detector, folder: Path) -> dict:
    """What `from_pretrained` takes for the detector's CLIP; one that no hub has is copied to clip/."""
    clip = detector.clip
    if clip.name != "tiny" and not Path(clip.name).expanduser().is_dir():
        name, _, revision = clip.name.partition("@")
        return {"pretrained_model_name_or_path": name} | ({"revision": revision} if revision else {})
    (folder / "clip").mkdir()
    for path in clip.folder.iterdir():
        if path.suffix in (".json", ".safetensors", ".txt", ".md"):
            shutil.copyfile(path, folder / "clip" / path.name)
    return {"pretrained_model_name_or_path": "clip"}
