"""Write a run's detector as a folder that others can load without dfnb.

transformers, PEFT and safetensors score crops with it in the lines of its model card. Their scores
equal those of dfnb where crops have the size of CLIP's input, as in every profile here. Other crops
are resized by another library, which differs by a grey level in places.
"""

import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from dfnb import UserError, files
from dfnb.detectors.base import Detector, read_metadata
from dfnb.evaluation import metrics, tables, training_domain
from dfnb.predict import videos

SNIPPET = '''\
import numpy, torch
{imports}from safetensors.torch import load_file
base = {base}
processor, crops = CLIPImageProcessor.from_pretrained(**base), list(numpy.load("crops.npy"))
pixels = processor(images=crops, return_tensors="pt").pixel_values
{read}
print(scores.tolist(), "fake" if scores.mean() >= {threshold!r} else "real")
'''
READ = {  # detector -> imports, and the lines from pixels to `scores` (n,), the probability of fake
    "probe, projected": (["CLIPModel"], '''\
clip = CLIPModel.from_pretrained(**base)
pooled = clip.vision_model(pixels).pooler_output
features = torch.nn.functional.normalize(clip.visual_projection(pooled))
probe = load_file("probe.safetensors")
scores = torch.sigmoid(features.double() @ probe["weight"] + probe["bias"])'''),
    "probe, pooled": (["CLIPVisionModel"], '''\
features = CLIPVisionModel.from_pretrained(**base)(pixels).pooler_output
probe = load_file("probe.safetensors")
scores = torch.sigmoid(features.double() @ probe["weight"] + probe["bias"])'''),
    "lora": (["CLIPVisionModel", "PeftModel"], '''\
encoder = PeftModel.from_pretrained(CLIPVisionModel.from_pretrained(**base), "adapter").eval()
head = load_file("head.safetensors")
scores = torch.sigmoid(encoder(pixels).pooler_output @ head["weight"][0] + head["bias"])'''),
    "full": (["CLIPVisionModel"], '''\
encoder, weights = CLIPVisionModel.from_pretrained(**base), load_file("full.safetensors")
weight, bias = weights.pop("head.weight"), weights.pop("head.bias")
encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in weights.items()})
scores = torch.sigmoid(encoder(pixels).pooler_output @ weight[0] + bias)'''),
}
CARD = """# A deepfake detector: {detector} on CLIP {clip}

It gives a face crop the probability that the face was manipulated. {trainable:,} values were
trained; the base is the CLIP `{clip}` (fingerprint {fingerprint}). {caveat}

## Use

Run this in the folder of this file, with transformers, peft and safetensors. crops.npy holds RGB
faces of {crops[size]} pixels, uint8 (n, height, width, 3):

```python
{snippet}```

With dfnb, `dfnb score clip.mp4 --run .` starts from the video. It also reports how the video
differs from the training videos.

- **Crops** {crops[frames]} frames are spaced evenly over the video. The square box of the face
  (dlib, frontal) is enlarged {crops[margin]:g} times and resized to {crops[size]} pixels; what
  lies outside of the picture is filled by reflection (`preprocessing.json`).
- **Score of a video** It is the mean of the scores of its frames.
- **Threshold** {threshold:.4f}, chosen on validation videos before the test. A video with this
  score or more is called fake.

## Training data

Videos of {world}: {videos}; {trained_crops:,} crops. The pictures had a short side of
{ranges[side]} pixels, the faces {ranges[face]} pixels, the files {ranges[bits]} bits per pixel
(`training_domain.json`).

## Results

Test videos of split seed {split_seed}: {tested}. None of them was trained on; people and scenes in
them may have been. Low and high bound the 95 % interval of the AUC. The table holds one draw of the
split and one training seed: other draws give other numbers.

{results}

## Limits

- It learnt the traces of the manipulations named above. Others may leave none of them.
- It never saw a video outside of the ranges named above; there its answer is a guess.
- Nothing was tested by sex, age or skin colour.
- {caveat}
"""
COLUMNS = ["unit", "answer", "AUC", "low", "high", "EER", "ACC", "balanced", "F1", "threshold"]


def export(run: Path, dest: Path) -> Path:
    """Write the detector of a finished run into the new folder `dest`; return that folder.

    A CLIP that is not from a hub ("tiny", a folder) is copied to clip/. Raises UserError where
    `dest` has content, where the run is not complete, and for a detector that transformers cannot
    load.
    """
    run, dest = Path(run), Path(dest)
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"{dest} is there already; name a folder that does not exist, or remove it")
    detector, metadata = videos.load(run), read_metadata(run)
    recipe = _recipe(metadata)
    if recipe not in READ:
        raise UserError(f"the detector {recipe!r} cannot be exported, only {', '.join(READ)}")
    tested, table = results(run, metadata)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as scratch:
        folder = Path(scratch)
        source = base(detector.clip.name, detector.clip.folder, folder)
        name = "clip" if (folder / "clip").is_dir() else metadata["base"]["name"]
        detector.metadata = metadata | {"base": metadata["base"] | {"name": name}}
        detector.save(folder)
        _name_base(folder, name)
        files.write_json(folder / "preprocessing.json", preprocessing(detector))
        text = model_card(metadata, snippet(metadata, source), tested, table)
        files.atomic_write(folder / "README.md", text)
        shutil.copytree(folder, dest, dirs_exist_ok=True)
    return dest


def results(run: Path, metadata: dict) -> tuple[str, pd.DataFrame]:
    """Return the counts of the test videos and the table of `tables.by_split` of a run's detector.

    A run may hold scores of several detectors. Its own are those of its split seed whose validation
    split gives its threshold.
    """
    scores = pd.read_parquet(Path(run) / "scores.parquet")
    own = scores[scores.split_seed == metadata["split_seed"]]
    for _, rows in own.groupby("model", sort=False):
        validation = metrics.to_videos(rows[rows.split == "validation"])
        if metrics.best_threshold(validation.label, validation.score) == metadata["threshold"]:
            tested = metrics.to_videos(rows[rows.split == "test"]).manipulation.value_counts()
            return _listed(tested.to_dict()), tables.by_split(rows)
    raise UserError(f"{run} holds no scores of the detector it saved (split seed "
                    f"{metadata['split_seed']}, threshold {metadata['threshold']:g}); "
                    "repeat the run")


def preprocessing(detector: Detector) -> dict:
    """Return all that is done between a video file and the input of the detector."""
    settings, clip = detector.metadata["crops"], detector.clip
    return {"frames": settings["frames"], "spacing": "evenly over the video, both ends included",
            "face": "dlib's frontal face detector, the largest and most lasting face, square box",
            "margin": settings["margin"], "crop_size": settings["size"],
            "outside": "filled by reflection", "input_size": clip.size,
            "mean": clip.preprocessing["image_mean"], "std": clip.preprocessing["image_std"],
            "video_score": "mean of the frames' probabilities",
            "threshold": detector.metadata["threshold"]}


def snippet(metadata: dict, base: dict) -> str:
    """Return the lines that score crops with an exported detector, in its folder, without dfnb."""
    names, read = READ[_recipe(metadata)]
    imports = "from peft import PeftModel\n" if "PeftModel" in names else ""
    imports += f"from transformers import CLIPImageProcessor, {names[0]}\n"
    return SNIPPET.format(imports=imports, base=base, read=read, threshold=metadata["threshold"])


def model_card(metadata: dict, snippet: str, tested: str, table: pd.DataFrame) -> str:
    """Return README.md of an exported detector: use, training data, results, limits."""
    trained_on, base = metadata["trained_on"], metadata["base"]
    ranges = metadata["domain"]["ranges"]
    world = "the demo world, a drawn one" if trained_on["demo"] else trained_on["corpus"]
    return CARD.format(
        detector=metadata["detector"], trainable=metadata["trainable"],
        fingerprint=base["fingerprint"],
        clip=Path(base["name"]).name if Path(base["name"]).is_absolute() else base["name"],
        caveat=videos.caveat(metadata), snippet=snippet, crops=metadata["crops"],
        threshold=metadata["threshold"], split_seed=metadata["split_seed"], tested=tested,
        world=f"{world} (profile {trained_on['profile']})", videos=_listed(trained_on["videos"]),
        trained_crops=trained_on["frames"], results=_markdown(table[COLUMNS]),
        ranges={name: training_domain.span(bounds, ".3g") for name, bounds in ranges.items()})


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, floatfmt=".3f", missingval="", numalign="left")


def _recipe(metadata: dict) -> str:
    kind = metadata["detector"]
    return f"probe, {metadata['options']['features']}" if kind == "probe" else kind


def base(name: str, checkpoint: Path | None, folder: Path | None) -> dict:
    """Return what `from_pretrained` takes for the CLIP called `name`.

    A CLIP that is on no hub is copied from the folder `checkpoint` to clip/ in `folder`.
    """
    if name != "tiny" and not Path(name).expanduser().is_dir():
        name, _, revision = name.partition("@")
        pinned = {"revision": revision} if revision else {}
        return {"pretrained_model_name_or_path": name} | pinned
    (folder / "clip").mkdir()
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".safetensors", ".txt", ".md"):
            shutil.copyfile(path, folder / "clip" / path.name)
    return {"pretrained_model_name_or_path": "clip"}


def _name_base(folder: Path, name: str) -> None:
    """Write the base's name into PEFT's configuration, which must not name a local folder."""
    if (path := folder / "adapter" / "adapter_config.json").is_file():
        config = json.loads(path.read_text()) | {"base_model_name_or_path": name}
        files.write_json(path, config)
