"""The contract that every detector keeps, over all of `DETECTORS`."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dfnb import UserError, detectors
from dfnb.detectors import CLASSES, DETECTORS, endpoint
from dfnb.detectors.base import Detector
from dfnb.evaluation import metrics
from dfnb.models import saliency

SHORT = {"epochs": 2, "batch": 16}
OPTIONS = {  # what fits in a second, on crops of 64 pixels and two blocks of width 48
    "probe": {},
    "lora": SHORT | {"rank": 4, "alpha": 16, "dropout": 0.1, "learning_rate": 5e-3},
    "full": SHORT | {"learning_rate": 1e-3},
    "layernorm": SHORT | {"learning_rate": 0.02},
    "prompt": {"context": 4, "epochs": 4, "learning_rate": 0.2},
    "reprogramming": SHORT,
    "zero_shot": {},
    "neighbours": {},
    "components": SHORT | {"frames_per_clip": 2, "hidden": 3, "learning_rate": 3e-3},
    "multimodal": {"base_url": "http://127.0.0.1/v1", "model": "m", "repeats": 1, "at_once": 1},
    "baselines": {"kind": "sharpness"}}
W, BLOCKS, MLP, PATCH, TOKENS, TEXT, SIDE = 48, 2, 96, 16, 17, 32, 64
P, H, M, T = TOKENS - 1, 2, 3, 2  # patches, heads, hidden channels and frames of `components`
TRAINABLE = {  # the formula of each docstring
    "probe": 24 + 1,
    "lora": 2 * 2 * 4 * W * BLOCKS + W + 1,
    "full": (3 * PATCH**2 * W + (TOKENS + 1) * W + 4 * W
             + BLOCKS * (4 * (W**2 + W) + (2 * W * MLP + MLP + W) + 4 * W) + W + 1),
    "layernorm": 2 * W * (2 * BLOCKS + 2) + W + 1,
    "prompt": 4 * TEXT,
    "reprogramming": 3 * (SIDE**2 - int(0.7 * SIDE) ** 2),
    "zero_shot": 0,
    "neighbours": 0,
    "components": (BLOCKS * (4 * W + 9 * M * 3 * H * T**2 + M + 2 * (M**2 + M) + 9 * M + 1)
                   + 2 * W + 2 * P + (W + 1) + (P + 1) + (W + P + 1)),
    "multimodal": 0,
    "baselines": 2}
DRAWN = {"lora", "full", "layernorm", "prompt", "reprogramming", "components"}  # from the seed
LEARN_FAST = ["probe", "lora", "full", "layernorm", "prompt", "neighbours", "baselines"]
WITHOUT_MAPS = {"neighbours", "multimodal", "baselines", "reprogramming"}
ADAPTER = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "head.safetensors"]
FILES = {"lora": ADAPTER, "layernorm": ADAPTER, "multimodal": []}


@pytest.fixture(params=DETECTORS)
def name(request, tmp_path, monkeypatch):
    """The name of a detector; the endpoint of `multimodal` answers by the picture's brightness."""
    def complete(self, client, picture):
        return {"text": ("no", "yes")[int(picture.mean() > 110)], "refused": False, "tokens": 1}

    monkeypatch.setattr(endpoint.Endpoint, "_complete", complete)
    return request.param


@pytest.fixture
def fit(name, cued, clip):
    """A function that fits the detector on the cued crops."""
    return lambda **options: DETECTORS[name].fit(*cued[:2], clip=clip, **OPTIONS[name] | options)


def folder_of(path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*")
            if file.is_file()}


def test_the_table_names_each_class_once(name):
    kind = DETECTORS[name]
    assert issubclass(kind, Detector) and kind.name == name and kind.__name__ == CLASSES[name]
    assert kind.__module__ == f"dfnb.detectors.{name}"


def test_saved_and_loaded_it_is_the_same_to_the_last_bit(name, fit, cued, clip, tmp_path):
    detector = fit()
    detector.metadata |= {"threshold": 0.25, "domain": {"mean": [1.5]}}
    detector.save(tmp_path / "a")
    state = torch.random.get_rng_state()
    loaded = detectors.load(tmp_path / "a", clip)
    assert torch.equal(torch.random.get_rng_state(), state)
    scores = detector.score(cued[2])
    assert type(loaded) is DETECTORS[name] and scores.shape == (32,) and scores.dtype == np.float32
    np.testing.assert_array_equal(loaded.score(cued[2]), scores)
    np.testing.assert_array_equal(loaded.features(cued[2]), detector.features(cued[2]))
    assert loaded.metadata == detector.metadata
    assert loaded.trainable == detector.trainable == TRAINABLE[name]
    loaded.save(tmp_path / "b")
    saved = folder_of(tmp_path / "a")
    assert saved == folder_of(tmp_path / "b")
    tensors = FILES.get(name, [f"{name}.safetensors"])
    assert set(saved) == {*tensors, "detector.json", "training_domain.json"}


def test_history_has_one_best_row(name, fit, cued):
    detector = fit()
    if name == "multimodal":
        assert detector.history == []
        return
    (best,) = [row for row in detector.history if row["best"]]
    assert best["validation_auc"] == max(row["validation_auc"] for row in detector.history)
    found = metrics.auc(cued[1].labels, detector.score(cued[1]))
    assert found == pytest.approx(best["validation_auc"])
    assert json.loads(json.dumps(detector.metadata)) == detector.metadata


def test_fitting_depends_on_the_seed_alone_and_leaves_clip_unchanged(name, fit, cued, clip):
    before = {key: value.clone() for key, value in clip.model.state_dict().items()}
    state = torch.random.get_rng_state()
    first, again, other = fit(seed=0), fit(seed=0), fit(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(first.score(cued[2]), again.score(cued[2]))
    assert first.history == again.history
    assert np.array_equal(first.score(cued[2]), other.score(cued[2])) == (name not in DRAWN)
    assert all(torch.equal(value, before[key]) for key, value in clip.model.state_dict().items())
    assert not any(value.requires_grad or value.grad is not None
                   for value in clip.model.parameters())
    assert not any(module.training for module in clip.model.modules())


@pytest.mark.parametrize("name", LEARN_FAST)
def test_a_planted_cue_is_learnt(name, fit, cued):
    detector = fit(**{"epochs": 4} if "epochs" in OPTIONS[name] else {})
    assert metrics.auc(cued[2].labels, detector.score(cued[2])) > 0.8


def test_maps_have_a_value_per_patch_or_a_sentence_says_why_not(name, fit, cued):
    detector = fit()
    if name in WITHOUT_MAPS:
        with pytest.raises(saliency.NoMaps, match=f"the detector {name} has no logit"):
            detector.maps(cued[2])
        return
    maps = detector.maps(cued[2])
    assert maps.shape == (32, 4, 4) and maps.dtype == np.float32 and maps.min() >= 0


@pytest.mark.parametrize("name", ["lora", "full", "layernorm", "components"])
def test_a_random_head_changes_the_head_and_nothing_else(name, fit):
    detector = fit()
    other = detector.without_head(seed=3)
    changed = {key for key, value in other.model.state_dict().items()
               if not torch.equal(value, detector.model.state_dict()[key])}
    assert changed and all(key.startswith(f"{detector.head}.") for key in changed)


def test_another_clip_and_another_detector_are_refused(name, fit, clip, tmp_path):
    fit().save(tmp_path)
    with pytest.raises(UserError, match="was fitted on the CLIP"):
        detectors.load(tmp_path, clip.untrained(1))
    wrong = "lora" if name == "probe" else "probe"
    with pytest.raises(UserError, match=f"holds a '{name}' detector, not '{wrong}'"):
        DETECTORS[wrong].load(tmp_path, clip)


@pytest.mark.parametrize("name", sorted(set(DETECTORS) - {"multimodal"}))
def test_tensors_that_do_not_fit_are_listed(name, fit, clip, tmp_path):
    fit().save(tmp_path)
    assert list(tmp_path.rglob("*.safetensors"))
    for path in tmp_path.rglob("*.safetensors"):
        whole, tensors = path.read_bytes(), load_file(path)
        lost = min(tensors)
        rest = {key: value for key, value in tensors.items() if key != lost}
        for changed, message in ((rest | {"junk": torch.ones(1)}, f"missing: {lost}; extra: junk"),
                                 (rest | {lost: torch.ones(7, 7)}, f"of another shape: {lost}")):
            save_file(changed, path)
            with pytest.raises(UserError, match=message):
                detectors.load(tmp_path, clip)
        path.write_bytes(b"no tensors")
        with pytest.raises(UserError, match="cannot be read as safetensors"):
            detectors.load(tmp_path, clip)
        path.write_bytes(whole)


def test_a_folder_without_metadata_or_with_other_metadata_is_refused(clip, tmp_path):
    with pytest.raises(UserError, match="holds no detector"):
        detectors.load(tmp_path, clip)
    written = {"detector": "oracle", "base": {"name": "tiny", "fingerprint": clip.fingerprint}}
    (tmp_path / "detector.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="was fitted by 'oracle', which is none of probe, lora"):
        detectors.load(tmp_path, clip)
    (tmp_path / "detector.json").write_text(json.dumps(written | {"base": "tiny"}))
    with pytest.raises(UserError, match="is not the metadata of a detector"):
        detectors.load(tmp_path, clip)


REFUSED = [
    ("probe", {"features": "mean"}, "features must be one of projected, pooled, got 'mean'"),
    ("probe", {"cs": ()}, r"cs must be positive numbers, got \[\]"),
    ("probe", {"cs": (1.0, 0.0)}, r"cs must be positive numbers, got \[1.0, 0.0\]"),
    ("lora", {"rank": 0}, "rank must lie between 1 and the encoder's width 48, got 0"),
    ("lora", {"alpha": 0}, "alpha must be positive, got 0"),
    ("lora", {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ("lora", {"blocks": 3}, "blocks must lie between 1 and the encoder's 2, got 3"),
    ("lora", {"blocks": 0}, "blocks must lie between 1 and the encoder's 2, got 0"),
    ("layernorm", {"uniform": -1}, "uniform must be at least 0, got -1"),
    ("layernorm", {"learning_rate": 1e-7},
     "floor must lie between 0 and the learning rate 1e-07, got 1e-06"),
    ("prompt", {"context": 0}, "context must be at least 1, got 0"),
    ("prompt", {"words": "real"}, "words must be two"),
    ("prompt", {"words": ("real", "fake", "odd")}, "words must be two"),
    ("prompt", {"words": ("real", "{}")}, "without braces"),
    ("reprogramming", {"share": 1.0}, "must leave a picture and a border, got 1.0"),
    ("reprogramming", {"share": 0.0}, "must leave a picture and a border, got 0.0"),
    ("reprogramming", {"face": "arc"}, "face must be one of clip, got 'arc'"),
    ("reprogramming", {"flip": True}, "flip is not for reprogramming"),
    ("zero_shot", {"words": "real"}, "words must be two"),
    ("zero_shot", {"words": ("real",)}, "words must be two"),
    ("zero_shot", {"templates": ()}, 'templates must each have a "{}" for the word'),
    ("zero_shot", {"templates": ("a photo",)}, 'templates must each have a "{}" for the word'),
    ("neighbours", {"ks": (1000,)}, "ks must lie between 1 and"),
    ("components", {"frames_per_clip": 0}, "frames_per_clip must be at least 1, got 0"),
    ("components", {"hidden": 0}, "hidden must be at least 1, got 0"),
    ("components", {"batch": 5}, "it must be even, got 5"),
    ("components", {"learning_rate": 1e20}, "diverged at step"),
    ("baselines", {"kind": "random"},
     "kind must be one of constant, prior, missingness, sharpness, got 'random'"),
    *((each, {"epochs": 0}, "epochs must be at least 1, got 0") for each in sorted(DRAWN))]


@pytest.mark.parametrize(("which", "options", "message"), REFUSED)
def test_options_out_of_range_are_refused(clip, cued, which, options, message):
    with pytest.raises(UserError, match=message):
        DETECTORS[which].fit(*cued[:2], clip=clip, **OPTIONS[which] | options)


def test_an_option_that_a_detector_does_not_have_is_refused(name, fit):
    with pytest.raises(TypeError, match="nonsense"):
        fit(nonsense=1)
