"""Checkpoints as they lie on the hub and on disks: every shape, layout, precision and cut of OpenAI's CLIP."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import dfnb.models.clip
from dfnb import UserError
from dfnb.data.crops import CropView
from dfnb.models import checkpoints

SHAPES = {  # width, heads, MLP, patch, pixels, joint space, width and heads of the text tower: OpenAI's own
    "B/32": (768, 12, 3072, 32, 224, 512, 512, 8),
    "B/16": (768, 12, 3072, 16, 224, 512, 512, 8),
    "L/14": (1024, 16, 4096, 14, 224, 768, 768, 12),
    "L/14-336": (1024, 16, 4096, 14, 336, 768, 768, 12),
}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
AS_OF_2021 = {"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": 224,
              "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD, "resample": 3}


def make(folder, shape, layers=1):
    """A checkpoint of true widths, few blocks and few words, with random weights; returns its model."""
    width, heads, mlp, patch, pixels, joint, text, text_heads = SHAPES[shape]
    few = {"num_hidden_layers": layers}
    vision = few | {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp,
                    "patch_size": patch, "image_size": pixels, "projection_dim": joint}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    words = few | ends | {"hidden_size": text, "num_attention_heads": text_heads, "intermediate_size": 4,
                          "vocab_size": 8, "projection_dim": joint}
    config = transformers.CLIPConfig(text_config=words, vision_config=vision, projection_dim=joint)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    sides = {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}
    transformers.CLIPImageProcessor(**sides).save_pretrained(folder)
    return model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """B/32 with one block."""
    folder = tmp_path_factory.mktemp("plain")
    make(folder, "B/32")
    return folder


def copy(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def crops(count=3, size=96):
    images = np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    keys = {"corpus": "noise", "manipulation": "real", "video": "000", "label": 0}
    return CropView.of_arrays(images, pd.DataFrame({"frame": range(count)}).assign(**keys))


@pytest.mark.parametrize("shape", SHAPES)
def test_features_of_every_shape_equal_transformers_own(shape, tmp_path, cache):
    model, view = make(tmp_path / "clip", shape), crops()
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "clip")
    pixels = processor(list(view.images()), return_tensors="pt").pixel_values
    with torch.no_grad():
        pooled = model.vision_model(pixels).pooler_output.numpy()
        projected = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1).numpy()
    clip = dfnb.models.clip.load(str(tmp_path / "clip"), device="cpu")
    width, _, _, patch, size, joint, _, _ = SHAPES[shape]
    assert (clip.width, clip.size, clip.dim, clip.tokens) == (width, size, joint, (size // patch) ** 2 + 1)
    torch.testing.assert_close(clip.pixels(view.images()), pixels, rtol=0, atol=1e-6)  # enlarged from 96 pixels
    np.testing.assert_allclose(clip.image_features(view), projected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(clip.image_features(view, kind="pooled"), pooled, rtol=1e-5, atol=1e-5)


def test_shards_half_precision_and_old_files_give_the_same_model(plain, tmp_path, cache):
    whole = dfnb.models.clip.load(str(plain), device="cpu")
    model = transformers.CLIPModel.from_pretrained(plain)
    shards = copy(plain, tmp_path / "shards")
    (shards / "model.safetensors").unlink()
    model.save_pretrained(shards, max_shard_size="8MB")
    pieces = sorted(shards.glob("model-*.safetensors"))
    assert len(pieces) > 2
    assert dfnb.models.clip.load(str(shards), device="cpu").fingerprint == whole.fingerprint
    for dtype in (torch.float16, torch.bfloat16):
        rounded = copy(plain, tmp_path / str(dtype))
        tensors = {key: value.to(dtype) for key, value in load_file(plain / "model.safetensors").items()}
        save_file(tensors, rounded / "model.safetensors", metadata={"format": "pt"})
        loaded = dfnb.models.clip.load(str(rounded), device="cpu").model.state_dict()
        assert all(torch.equal(loaded[key], value.float()) for key, value in tensors.items())
        assert loaded.keys() == tensors.keys()
    old = copy(plain, tmp_path / "old")
    tensors = load_file(plain / "model.safetensors")
    assert "vision_model.encoder.layers.0.self_attn.q_proj.weight" in tensors
    tensors["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    (old / "preprocessor_config.json").write_text(json.dumps(AS_OF_2021))
    assert dfnb.models.clip.load(str(old), device="cpu").fingerprint == whole.fingerprint
    pieces[1].unlink()
    with pytest.raises(UserError, match="cannot be read"):
        dfnb.models.clip.load(str(shards), device="cpu")


@pytest.mark.parametrize(("edit", "said"), [
    (lambda tensors: {f"module.{key}": value for key, value in tensors.items()},
     "missing: .*unexpected: module.logit_scale"),
    (lambda tensors: {key.removeprefix("vision_model."): value for key, value in tensors.items()},
     "missing: vision_model.embeddings.class_embedding, .*unexpected: embeddings.class_embedding"),
    (lambda tensors: tensors | {"visual_projection.weight": torch.zeros(3, 768)}, "visual_projection.weight"),
])
def test_keys_and_shapes_that_are_not_clips_are_listed(plain, tmp_path, edit, said):
    folder = copy(plain, tmp_path / "odd")
    save_file(edit(load_file(plain / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        dfnb.models.clip.load(str(folder), device="cpu")


def vision(**changes):
    return lambda config: config | {"vision_config": config["vision_config"] | changes}


@pytest.mark.parametrize(("file", "edit", "said"), [
    ("config.json", lambda config: "no settings", "config.json must hold settings by name"),
    ("config.json", vision(patch_size=0), "cannot be read: ZeroDivisionError"),
    ("config.json", vision(hidden_size=47), "cannot be read: .*hidden size"),
    ("config.json", vision(hidden_size="x"), "cannot be read: .*hidden_size"),
    ("config.json", vision(hidden_act="os.system"), "cannot be read: KeyError"),
    ("preprocessor_config.json", lambda config: {}, "image_mean must be three numbers, got None"),
    ("preprocessor_config.json", lambda config: AS_OF_2021 | {"image_std": [1, 1, 0]}, r"three numbers, got \[1, 1, 0\]"),
])
def test_settings_that_make_no_sense_are_one_sentence(plain, tmp_path, file, edit, said):
    folder = copy(plain, tmp_path / "odd")
    (folder / file).write_text(json.dumps(edit(json.loads((folder / file).read_text()))))
    with pytest.raises(UserError, match=said):
        dfnb.models.clip.load(str(folder), device="cpu")


def test_settings_that_are_no_json_are_one_sentence(plain, tmp_path):
    folder = copy(plain, tmp_path / "odd")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="preprocessor_config.json cannot be read as JSON"):
        dfnb.models.clip.load(str(folder), device="cpu")


def test_no_code_of_a_checkpoint_runs(plain, tmp_path, cache):
    folder = copy(plain, tmp_path / "code")
    mark = tmp_path / "hacked"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Model: pass\nclass Tokens: pass\n")
    config = json.loads((folder / "config.json").read_text())
    calls = {"AutoModel": "evil.Model", "AutoConfig": "evil.Model", "AutoTokenizer": ["evil.Tokens", None]}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": calls}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Tokens", "auto_map": calls}))
    clip = dfnb.models.clip.load(str(folder), device="cpu")
    with pytest.raises((ValueError, OSError, KeyError)):
        clip.tokenizer  # noqa: B018
    assert not mark.exists()


def test_a_pickle_is_refused_with_the_way_out(plain, tmp_path):
    folder = copy(plain, tmp_path / "pickle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle such as pytorch_model.bin can run code, .* save_pretrained"):
        dfnb.models.clip.load(str(folder))


def test_another_way_to_resize_is_refused(plain, tmp_path):
    folder = copy(plain, tmp_path / "bilinear")
    (folder / "preprocessor_config.json").write_text(json.dumps(AS_OF_2021 | {"resample": 2}))
    with pytest.raises(UserError, match="resizes by PIL's filter 2; dfnb knows CLIP's own, 3"):
        dfnb.models.clip.load(str(folder), device="cpu")


def test_openai_s_names_are_pinned_and_what_is_nowhere_says_where_it_was_looked_for(plain, monkeypatch):
    asked = []

    def download(repository, *, revision, local_files_only, **_):
        asked.append((revision, local_files_only))
        raise OSError("no network")

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    pin = checkpoints.REVISIONS["openai/clip-vit-base-patch16"]
    with pytest.raises(UserError, match=f"revision {pin} is neither in .*huggingface.* nor to be had from the hub "
                       rf"\(OSError\); .*`hf download openai/clip-vit-base-patch16 --revision {pin} --local-dir"):
        dfnb.models.clip.load("openai/clip-vit-base-patch16")
    with pytest.raises(UserError, match="revision main is neither"):
        dfnb.models.clip.load("openai/clip-vit-base-patch16@main")
    assert asked == [(pin, True), (pin, False), ("main", True), ("main", False)]
    assert all(len(commit) == 40 and int(commit, 16) for commit in checkpoints.REVISIONS.values())
    assert {name.removeprefix("openai/clip-vit-") for name in checkpoints.REVISIONS} == {
        "base-patch32", "base-patch16", "large-patch14", "large-patch14-336"}


# ------------------------------------------------------------------- half precision and too little memory
def test_the_precision_is_as_asked_and_recorded(clip, cued, monkeypatch):
    monkeypatch.setattr("dfnb.models.clip.PRECISIONS", used := set())
    full = clip.image_features(cued[0])
    assert used == {"float32"}  # the default on a CPU
    half = dfnb.models.clip.load(str(clip.folder), device="cpu", precision="bfloat16")
    features = half.image_features(cued[0])
    assert used == {"float32", "bfloat16"}
    np.testing.assert_allclose(features, full, atol=0.03)
    assert not np.array_equal(features, full)  # neither has taken the other's from the cache
    assert half.precision().__dict__.get("_enabled") is False  # what is trained stays float32
    assert half.untrained(0).halves and not clip.untrained(0).halves


def small(limit, real):
    """A function that has memory for `limit` crops only."""

    def of(inputs, *rest):
        if len(inputs) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(inputs, *rest)

    return of


def test_features_that_do_not_fit_are_computed_in_halves(clip, cued, tmp_path, monkeypatch):
    expected = dfnb.models.clip.load(str(clip.folder), device="cpu").image_features(cued[0], kind="pooled").copy()
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache-of-halves"))
    monkeypatch.setattr(clip, "tower", small(7, clip.tower))
    with pytest.warns(UserWarning, match="15 crops at once do not fit .* going on with 7 at once"):
        found = clip.image_features(cued[0], kind="pooled")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_one_crop_that_does_not_fit_is_an_error(clip, cued, monkeypatch):
    monkeypatch.setattr(clip, "tower", small(0, clip.tower))
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        clip.image_features(cued[0])


def test_frozen_activations_that_do_not_fit_are_computed_in_halves(clip, cued, monkeypatch):
    rows, flip = np.arange(12), np.arange(12) % 2 == 0
    expected = clip.hidden_reader(cued[0], 1, keep=False)(rows, flip)
    monkeypatch.setattr(dfnb.models.clip, "enter", small_enter(5, dfnb.models.clip.enter))
    with pytest.warns(UserWarning, match="12 crops at once do not fit .* going on with 6"):
        found = clip.hidden_reader(cued[0], 1, keep=False)(rows, flip)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def small_enter(limit, real):
    return lambda tower, pixels, block: small(limit, lambda pixels: real(tower, pixels, block))(pixels)
