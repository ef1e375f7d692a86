"""What is measured: one function a part, plain JSON back; `small` shrinks a part for its test."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import torch

from dfnb import files
from dfnb.data import corpora, crop_cache, crops, video
from dfnb.detectors import DETECTORS, training
from dfnb.detectors.lora import Lora
from dfnb.experiment import Experiment
from dfnb.models import clip as clips
from dfnb.runs import kernels, notebooks, parameters, study, sweep
from tools.bench import measure, plain

SHAPES = {  # width, layers, heads, patch: of the image encoders that OpenAI published
    "ViT-B/32": (768, 12, 12, 32), "ViT-B/16": (768, 12, 12, 16), "ViT-L/14": (1024, 24, 16, 14),
    "tiny test": (32, 2, 2, 56)}
MEANS = {"image_mean": [0.4815, 0.4578, 0.4082], "image_std": [0.2686, 0.2613, 0.2758]}
LEVELS = ("train", "validation", "test")


def random_clip(name: str) -> clips.Clip:
    """Return a CLIP with the image encoder of `name` for 224 pixels and random weights.

    The text encoder is as small as can be.
    """
    from transformers import CLIPConfig, CLIPModel

    width, layers, heads, patch = SHAPES[name]
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
             "num_attention_heads": heads, "image_size": 224, "patch_size": patch}
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads":
        2, "vocab_size": 100
    }
    config = CLIPConfig(vision_config=tower, text_config=text, projection_dim=64)
    torch.manual_seed(0)
    return clips.Clip(f"{name} size, random weights", CLIPModel(config), MEANS, None)


def random_views(clip: clips.Clip, sizes: tuple[int, int, int]) -> dict[str, crops.CropView]:
    """Return crops of noise for each split, of the encoder's size; fakes are a little brighter."""
    generator, total = np.random.default_rng(0), sum(sizes)
    labels = np.arange(total) % 2
    images = generator.integers(0, 200, (total, clip.size, clip.size, 3),
                                dtype=np.uint8) + 20 * labels[:, None, None, None]
    frames = pd.DataFrame({
        "corpus": "noise", "manipulation": "noise", "video": [f"{at:05d}" for at in range(total)],
        "frame": 0, "label": labels
    })
    whole, ends = crops.CropView.of_arrays(images.astype(np.uint8), frames), np.cumsum((0, *sizes))
    return {part: whole.select(np.arange(*ends[at : at + 2])) for at, part in enumerate(LEVELS)}


def demo_views(experiment: Experiment) -> dict[str, crops.CropView]:
    split_table = experiment.split("study", seed=0, train_manipulation="FaceSwap",
                                   test_manipulations=["NeuralTextures"])
    return {split: experiment.view(split_table, split) for split in LEVELS}


def one_run(clip: clips.Clip, views: dict[str, crops.CropView], options: dict,
            repeats: int = 3) -> dict:
    """Return one LoRA run, fit and test scores, `repeats` times with a seed each: ours and plain.

    Ours finds the activations of the frozen blocks in the cache, as any run but the first does;
    making them is timed separately.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for part, view in views.items():
            plain.write(view, folder / part)
        prefix, _ = measure.timed(
            lambda: clip.hidden_reader(views["train"], clip.layers - options["blocks"]))
        ours, theirs = [], []
        for seed in range(repeats):
            ours.append(
                measure.timed(lambda seed=seed: _ours(clip, views, options | {"seed": seed})))
            theirs.append(
                measure.timed(
                    lambda seed=seed: plain.lora(folder, clip, **options | {"seed": seed})))
    found = {
        "options": options, "clip": clip.name, "crops": len(views["train"]), "prefix_seconds":
        prefix
    }
    for name, runs in (("ours", ours), ("plain", theirs)):
        found[name] = {
            "seconds": [took for took, _ in runs], "losses": [run["loss"] for _, run in runs],
            "steps": [run["steps"] for _, run in runs]
        }
    ratio = statistics.median(found["plain"]["seconds"]) / statistics.median(
        found["ours"]["seconds"])
    return found | {
        "ratio": ratio, "loss": measure.gap(found["ours"]["losses"], found["plain"]["losses"])
    }


def _ours(clip: clips.Clip, views: dict[str, crops.CropView], options: dict) -> dict:
    detector = DETECTORS["lora"].fit(views["train"], views["validation"], clip=clip, patience=None,
                                     **options)
    detector.score(views["test"])
    return {"loss": detector.history[-1]["loss"], "steps": detector.history[-1]["steps"]}


def grid(experiment: Experiment, measured: int = 3) -> dict:
    """Run the profile's whole grid through `dfnb sweep`, and some plain runs in fresh processes."""
    settings = experiment.profile.sweeps["grid"]
    notebook = notebooks.find(settings.notebook)
    given = parameters.chapter_parameters(notebook, experiment.profile) | settings.base
    options = {
        name: given[name]
        for name in ("rank", "alpha", "dropout", "blocks", "learning_rate", "batch", "epochs")
    }
    options["blocks"] = options["blocks"] or experiment.clip.layers
    with tempfile.TemporaryDirectory() as scratch:
        for part, view in demo_views(experiment).items():
            plain.write(view, Path(scratch) / part)
        command = [
            sys.executable, "-m", "tools.bench.plain", experiment.profile.clip, scratch,
            json.dumps(options | {"seed": 0})
        ]
        theirs = [
            measure.timed(
                lambda: subprocess.run(command, cwd=files.ROOT, check=True, capture_output=True))[0]
            for _ in range(measured)
        ]
        with mock.patch.dict(os.environ, DFNB_RUNS=f"{scratch}/runs"):
            study.execute(notebooks.find("01"), experiment.profile,
                          {})  # says that crops are there: runs may start side by side
            ours, rows = measure.timed(lambda: sweep.run(experiment.profile.name, ["grid"]))
    sweep.check_done(rows)
    return {"options": options, "cells": len(rows), "ours": ours, "plain": theirs,
            "ratio": statistics.median(theirs) * len(rows) / ours}


def utilisation(clip: clips.Clip, *, blocks: int, scored: int, batch: int = 32,
                repeats: int = 3) -> dict:
    """Return GFLOP/s of matrix products in scoring and in training.

    Scoring takes the whole encoder, `scored` crops at a time; training is LoRA on the last blocks,
    whose inputs are there.
    """
    pixels = torch.rand(scored, 3, clip.size, clip.size, device=clip.device)
    labels = torch.arange(batch, device=clip.device) % 2
    shape = {"rank": 8, "alpha": 16, "dropout": 0.05, "blocks": blocks}
    model = Lora.build(clip, shape)
    hidden = torch.rand(batch, clip.tokens, clip.width, device=clip.device)
    optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad],
                                  fused=True)

    def score() -> None:
        with clip.precision():
            clip.pooled(pixels)

    def step() -> None:
        with clip.precision():
            logits = model(hidden).float()
        optimiser.zero_grad()
        training.balanced_loss(logits, labels).backward()
        optimiser.step()

    found = {"clip": clip.name, "blocks": blocks}
    for name, work, size in (("scoring", score, scored), ("training", step, batch)):
        took = measure.seconds(work, repeats)
        found[name] = {
            "batch": size, "GFLOP/s": measure.flops(work) / took / 1e9, "crops/s": size / took
        }
    return found


def faces_per_second(sources: list[Path], count: int, size: int, height: int | None = None,
                     repeats: int = 3) -> dict:
    """Return frames a second from mp4 files to crops, one process: ours and FF++'s recipe.

    The overlap of their boxes.

    With `height` the pictures are enlarged to that height first, and widened by reflection to 16:9.
    """
    with tempfile.TemporaryDirectory() as scratch:
        paths = [_enlarged(path, Path(scratch) / f"{at}.mp4", height) if height else path
                 for at, path in enumerate(sources)]
        ours, theirs, boxes = [], [], ([], [])
        for at in range(repeats):
            settings = {"frames": count, "size": size, "margin": 1.3, "limits": video.Limits()}
            folder = Path(scratch) / str(at)
            jobs = [
                crop_cache.plan(str(path), ("bench", "real", path.stem), folder, settings)
                for path in paths
            ]
            took, records = measure.timed(lambda jobs=jobs: [crop_cache.make(job) for job in jobs])
            ours.append(took)
            took, made = measure.timed(lambda: [plain.crops(path, count, size) for path in paths])
            theirs.append(took)
        for record, (_, found) in zip(records, made, strict=True):
            boxes[0].append(
                np.stack([record["measured"][edge] for edge in ("x0", "y0", "x1", "y1")],
                         axis=1).astype(float))
            boxes[1].append(found)
    shared = measure.overlap(*(np.concatenate(each) for each in boxes))
    frames = sum(len(found) for _, found in made)
    rates = [frames / statistics.median(each) for each in (ours, theirs)]
    return {
        "height": height, "frames": frames, "ours": rates[0], "plain": rates[1], "ratio":
        rates[0] / rates[1], "IoU": float(np.nanmedian(shared)), "compared": int(
            (~np.isnan(shared)).sum())
    }


def _enlarged(source: Path, target: Path, height: int) -> Path:
    """Return the clip in `height` rows and 16:9: the picture enlarged, mirrored to both sides."""
    import av

    side = round(height * 16 / 9 / 2) * 2 - height
    with av.open(str(target), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = height + side, height, "yuv420p"
        for frame in video.read(source, 10_000).frames:
            frame = cv2.resize(frame, (height, height), interpolation=cv2.INTER_CUBIC)
            frame = cv2.copyMakeBorder(frame, 0, 0, side // 2, side - side // 2,
                                       cv2.BORDER_REFLECT_101)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode())
    return target


def growth(counts: tuple[int, ...] = (8, 16, 32), identities: int = 20) -> list[dict]:
    """Measure time and memory of crops, prefix and an epoch of LoRA, in fresh processes."""
    with tempfile.TemporaryDirectory() as scratch:
        from dfnb.demo import corpus

        corpus.make(
            Path(scratch) / "corpus", seed=77, identities=identities, frames=max(counts),
            progress=False)
        code = "import sys; from tools.bench import parts; parts.grow(*sys.argv[1:])"
        commands = [[sys.executable, "-c", code, scratch, str(count)] for count in counts]
        return [
            json.loads(
                subprocess.run(command, cwd=files.ROOT, check=True, stdout=subprocess.PIPE).stdout)
            for command in commands
        ]


def grow(scratch: str, count: str) -> None:
    """Print in a fresh process: frames, crops, seconds and the largest memory (MB)."""
    os.environ["DFNB_CACHE"] = f"{scratch}/cache-{count}"
    videos = corpora.index(Path(scratch) / "corpus", manipulations=["FaceSwap", "NeuralTextures"])
    clip = clips.load("tiny")
    began = time.perf_counter()
    view = crops.build(videos, frames=int(count), size=64, progress=False)
    cropped = time.perf_counter()
    rows = np.random.default_rng(0).permutation(len(view))
    train, validation = view.select(rows[len(rows) // 5 :]), view.select(rows[: len(rows) // 5])
    DETECTORS["lora"].fit(train, validation, clip=clip, seed=0, blocks=1, epochs=1)
    now = time.perf_counter()
    print(
        json.dumps({
            "frames": int(count), "crops": len(view), "crop_seconds": cropped - began,
            "train_seconds": now - cropped, "memory":
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        }))


def start_up(repeats: int = 3) -> dict:
    """Return seconds until a notebook has imported and is saved, fresh and forked kernel."""
    import papermill

    source = notebooks.find("03")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "imports.ipynb"
        page.write_text(json.dumps(_only_imports(source)))
        for name in ("fresh", "forked"):
            took = []
            for _ in range(repeats + 1):  # the first forked one waits for the server's imports
                kernel = kernels.options(page, Path(scratch), threads=1, forked=name == "forked")
                with kernel as options:
                    took.append(
                        measure.timed(lambda options=options: papermill.execute_notebook(
                            str(page), f"{scratch}/out.ipynb", kernel_name="python3", progress_bar=
                            False, **options))[0])
            found[name] = took[1:]
    return found


def _only_imports(notebook: Path) -> dict:
    content = json.loads(notebook.read_text())
    content["cells"] = [cell for cell in content["cells"]
                        if cell["cell_type"] == "code" and "import " in "".join(cell["source"])]
    return content


def gpu() -> list[dict]:
    """Return scoring and training on a GPU with the sizes of the published encoders.

    Empty without one.
    """
    if not torch.cuda.is_available():
        return []
    return [utilisation(random_clip(name), blocks=4, scored=512, batch=256)
            for name in ("ViT-B/32", "ViT-B/16", "ViT-L/14")]
