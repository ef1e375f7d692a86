"""Small fixtures that several test files share."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; torch reads it when imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest


def pytest_configure(config):
    """Hide the GPU from all tests but `-m gpu`: they test float32 on the CPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """The folder of a separate study: without a chapter or profile, and outside of any run."""
    for name in ("DATA", "CACHE", "RUNS", "NOTEBOOKS", "PARAMS"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("DFNB_RUN", raising=False)
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Six people and all kinds of fakes: 30 mp4 files of 12 frames, laid out as FaceForensics++."""
    from dfnb.demo import corpus as demo

    folder = tmp_path_factory.mktemp("corpus") / "demo"
    return demo.make(folder, seed=901, identities=6, frames=12, workers=1, progress=False)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A saved random CLIP: two blocks, 64 pixels, 17 tokens, width 48; its words are letters."""
    import torch
    import transformers

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: at for at, word in enumerate(words)}
    end = len(words) - 1
    ends = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2}
    text = shape | ends | {"hidden_size": 32, "intermediate_size": 64, "vocab_size": len(words),
                           "max_position_embeddings": 48}
    vision = shape | {"hidden_size": 48, "intermediate_size": 96, "image_size": 64,
                      "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    transformers.CLIPImageProcessor(**sides).save_pretrained(folder)
    return folder


@pytest.fixture
def clip(clip_folder, tmp_path, monkeypatch):
    """The checkpoint of `clip_folder` on the CPU, with a separate cache."""
    from dfnb.models.clip import load

    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    return load(str(clip_folder), device="cpu")


@pytest.fixture
def cued():
    """Crops of noise for training, validation and test (96, 32, 32); fakes have a faint grid."""
    from dfnb.data.crops import CropView

    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(160) % 2)
    grid = 24 * (np.indices((64, 64)).sum(axis=0) // 4 % 2)[..., None]  # (64, 64, 1)
    noise = generator.integers(60, 160, (160, 64, 64, 3))
    images = (noise + labels[:, None, None, None] * grid).astype(np.uint8)
    frames = pd.DataFrame({
        "corpus": "noise", "manipulation": np.where(labels, "grid", "real"), "label": labels,
        "frame": 0, "video": [f"{at:03d}" for at in range(160)]})
    whole = CropView.of_arrays(images, frames)
    return tuple(whole.select(rows) for rows in np.split(np.arange(160), [96, 128]))


@pytest.fixture(scope="session")
def finished(corpus, clip_folder, tmp_path_factory):
    """The folder of a run with a LoRA detector and scores.parquet, and the trial behind it."""
    import yaml

    from dfnb import experiment

    home = tmp_path_factory.mktemp("finished")
    settings = {"corpus": {"root": str(corpus)}, "crops": {"frames": 4, "size": 64},
                "clip": str(clip_folder)}
    (home / "mine.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_PARAMS", str(home))
        patch.setenv("DFNB_CACHE", str(home / "cache"))
        opened = experiment.Experiment.open("mine", progress=False)
        split = opened.split("identity", seed=0)
        trial = opened.trial("lora", split, seed=0, rank=2, epochs=2, batch=8)
    trial.detector.save(home / "run")
    trial.scores.assign(model="LoRA").to_parquet(home / "run" / "scores.parquet")
    return home / "run", trial
