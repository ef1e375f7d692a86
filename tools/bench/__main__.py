"""Measure everything and write book/performance.md and .json: ten minutes on two quiet cores."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dfnb import files
from dfnb.experiment import Experiment
from dfnb.runs import notebooks, parameters
from tools.bench import measure, page, parts

LORA = ("rank", "alpha", "dropout", "blocks", "learning_rate", "batch", "epochs")
HEIGHTS = (None, 480, 720)  # pixels; None: the demo world's own 256


def main() -> None:
    began, experiment = time.perf_counter(), Experiment.open("demo")
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("crops", "faces"):  # ready before, but no kept activations
            (Path(scratch) / name).symlink_to(files.cache() / name)
        os.environ["DFNB_CACHE"] = scratch
        found = {"hardware": measure.hardware(), "peak": measure.matrix_peak()}
        for name, part in plan(experiment).items():
            print(f"{time.perf_counter() - began:5.0f} s  {name}", flush=True)
            found[name] = part()
    found["peak"] = max(found["peak"], measure.matrix_peak())
    files.atomic_write(files.ROOT / "book" / "performance.json", json.dumps(found, indent=1) + "\n")
    files.atomic_write(files.ROOT / "book" / "performance.md", page.render(found))
    print(f"{time.perf_counter() - began:5.0f} s  {files.ROOT / 'book' / 'performance.md'}")


def plan(experiment: Experiment) -> dict[str, Callable]:
    """Return what is measured, in this order.

    Runs of two and one epochs, since a ratio needs no more.
    """
    chapter = parameters.chapter_parameters(notebooks.find("03"), experiment.profile)
    base = chapter | experiment.profile.sweeps["grid"].base
    large = parts.random_clip("ViT-B/32")
    runs = [(experiment.clip, parts.demo_views(experiment), _lora(chapter) | {"epochs": 2}),
            (experiment.clip, parts.demo_views(experiment), _lora(base) | {"epochs": 2}),
            (large, parts.random_views(large,
                                       (128, 32, 32)), _lora(base) | {"epochs": 1, "blocks": 3})]
    paths = [
        Path(path) for path in experiment.videos.groupby("manipulation", sort=False).path.first()
    ]
    return {
        "one_run": lambda: [parts.one_run(*run) for run in runs],
        "grid": lambda: parts.grid(experiment),
        "utilisation": lambda: [parts.utilisation(clip, blocks=3, scored=scored)
                                for clip, scored in ((experiment.clip, 256), (large, 128))],
        "crops": lambda: [parts.faces_per_second(paths, 8, 64, height) for height in HEIGHTS],
        "growth": parts.growth,
        "start_up": parts.start_up,
        "gpu": parts.gpu,
    }


def _lora(parameters: dict) -> dict:
    return {name: parameters[name] for name in LORA}


if __name__ == "__main__":
    main()
