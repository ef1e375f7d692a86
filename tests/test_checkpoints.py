"""Checkpoints: every shape of OpenAI's CLIP, every file layout, broken files, and the hub."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from dfnb import UserError
from dfnb.data.crops import CropView
from dfnb.models import checkpoints
from dfnb.models.clip import load

SHAPES = {  # width, heads, MLP, patch, pixels, joint space; width and heads of the text encoder
    "B/32": (768, 12, 3072, 32, 224, 512, 512, 8),
    "B/16": (768, 12, 3072, 16, 224, 512, 512, 8),
    "L/14": (1024, 16, 4096, 14, 224, 768, 768, 12),
    "L/14-336": (1024, 16, 4096, 14, 336, 768, 768, 12)}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
AS_OF_2021 = {"crop_size": 64, "do_center_crop": True, "do_normalize": True, "do_resize": True,
              "size": 64, "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN,
              "image_std": STD, "resample": 3}


def here(folder):
    """The checkpoint of a folder on the CPU."""
    return load(str(folder), device="cpu")


def refused(folder, message):
    with pytest.raises(UserError, match=message):
        here(folder)


def make(folder, shape):
    """Save a checkpoint of true widths with one block, few words and random weights."""
    width, heads, mlp, patch, pixels, joint, text, text_heads = SHAPES[shape]
    few = {"num_hidden_layers": 1}
    vision = few | {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp,
                    "patch_size": patch, "image_size": pixels, "projection_dim": joint}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    words = few | ends | {"hidden_size": text, "num_attention_heads": text_heads,
                          "intermediate_size": 4, "vocab_size": 8, "projection_dim": joint}
    config = transformers.CLIPConfig(text_config=words, vision_config=vision, projection_dim=joint)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    sides = {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}
    transformers.CLIPImageProcessor(**sides).save_pretrained(folder)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_features_of_every_shape_equal_transformers_own(shape, tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    model = make(tmp_path / "clip", shape)
    images = np.random.default_rng(3).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    rows = {"corpus": "noise", "manipulation": "real", "video": "000", "label": 0}
    view = CropView.of_arrays(images, pd.DataFrame({"frame": range(3)}).assign(**rows))
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "clip")
    pixels = processor(list(images), return_tensors="pt").pixel_values
    with torch.no_grad():
        pooled = model.vision_model(pixels).pooler_output.numpy()
        projected = F.normalize(model.get_image_features(pixels).pooler_output, dim=-1).numpy()
    clip = here(tmp_path / "clip")
    width, _, _, patch, size, joint, _, _ = SHAPES[shape]
    assert (clip.width, clip.size, clip.dim) == (width, size, joint)
    assert clip.tokens == (size // patch) ** 2 + 1
    torch.testing.assert_close(clip.pixels(images), pixels, rtol=0, atol=1e-6)  # from 96 pixels
    np.testing.assert_allclose(clip.image_features(view), projected, rtol=0, atol=1e-5)
    found = clip.image_features(view, kind="pooled")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pooled, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------- files of a checkpoint
@pytest.fixture
def copy(clip_folder, tmp_path):
    """A copy of the fixture's checkpoint, to be changed."""
    return shutil.copytree(clip_folder, tmp_path / "copy")


def change_weights(folder, edit):
    tensors = edit(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def change_json(folder, name, edit):
    (folder / name).write_text(json.dumps(edit(json.loads((folder / name).read_text()))))


def test_the_fingerprint_sees_weights_and_normalisation_but_not_the_folder(clip, copy):
    assert here(copy).fingerprint == clip.fingerprint
    grey = {"image_std": [0.5, 0.5, 0.5]}
    change_json(copy, "preprocessor_config.json", lambda settings: settings | grey)
    assert here(copy).fingerprint != clip.fingerprint


def test_shards_are_one_model_and_a_missing_shard_is_an_error(clip, clip_folder, copy):
    (copy / "model.safetensors").unlink()
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    model.save_pretrained(copy, max_shard_size="100KB")
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert here(copy).fingerprint == clip.fingerprint
    shards[1].unlink()
    refused(copy, "cannot be read")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_load_as_float32(dtype, clip, copy):
    tensors = change_weights(
        copy, lambda tensors: {key: value.to(dtype) for key, value in tensors.items()})
    rounded = here(copy)
    loaded = rounded.model.state_dict()
    assert loaded.keys() == tensors.keys()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[key], value.float()) for key, value in tensors.items())
    assert rounded.fingerprint != clip.fingerprint  # half precision rounds


def test_a_checkpoint_of_2021_is_the_same_model(clip, copy):
    positions = {"vision_model.embeddings.position_ids": torch.arange(17)[None],
                 "text_model.embeddings.position_ids": torch.arange(48)[None]}
    tensors = change_weights(copy, lambda tensors: tensors | positions)
    assert "vision_model.encoder.layers.0.self_attn.q_proj.weight" in tensors
    (copy / "preprocessor_config.json").write_text(json.dumps(AS_OF_2021))
    assert here(copy).fingerprint == clip.fingerprint


@pytest.mark.parametrize(("edit", "message"), [
    (lambda tensors: {f"module.{key}": value for key, value in tensors.items()},
     "missing: .*unexpected: module.logit_scale"),
    (lambda tensors: {key.removeprefix("vision_model."): value for key, value in tensors.items()},
     "missing: vision_model.embeddings.class_embedding, .*unexpected: embeddings.class_embedding"),
    (lambda tensors: tensors | {"visual_projection.weight": torch.zeros(3, 48)},
     "mismatched: .*visual_projection.weight"),
    (lambda tensors: tensors | {"junk.weight": torch.zeros(2)}, "unexpected: junk.weight"),
    (lambda tensors: {key: value for key, value in tensors.items() if key != "logit_scale"},
     "missing: logit_scale")])
def test_keys_and_shapes_that_are_not_clips_are_listed(copy, edit, message):
    change_weights(copy, edit)
    refused(copy, message)


def vision(**changes):
    return lambda config: config | {"vision_config": config["vision_config"] | changes}


@pytest.mark.parametrize(("file", "edit", "message"), [
    ("config.json", lambda config: "no settings", "config.json must hold settings by name"),
    ("config.json", lambda config: {"model_type": "bert"}, "a 'bert' checkpoint; .* 'clip'"),
    ("config.json", vision(patch_size=0), "cannot be read: ZeroDivisionError"),
    ("config.json", vision(hidden_size=47), "cannot be read: .*hidden size"),
    ("config.json", vision(hidden_size="x"), "cannot be read: .*hidden_size"),
    ("config.json", vision(hidden_act="os.system"), "cannot be read: KeyError"),
    ("preprocessor_config.json", lambda config: {}, "image_mean must be three numbers, got None"),
    ("preprocessor_config.json", lambda config: AS_OF_2021 | {"image_std": [1, 1, 0]},
     r"image_std must be three positive numbers, got \[1, 1, 0\]"),
    ("preprocessor_config.json", lambda config: AS_OF_2021 | {"resample": 2},
     "resizes by PIL's filter 2; dfnb supports only CLIP's own, 3")])
def test_settings_that_make_no_sense_are_one_sentence(copy, file, edit, message):
    change_json(copy, file, edit)
    refused(copy, message)


@pytest.mark.parametrize(("file", "content", "message"), [
    ("preprocessor_config.json", b"{", "preprocessor_config.json cannot be read as JSON"),
    ("model.safetensors", b"not tensors", "the CLIP checkpoint .* cannot be read")])
def test_a_damaged_file_is_one_sentence(copy, file, content, message):
    (copy / file).write_bytes(content)
    refused(copy, message)


def test_no_code_of_a_checkpoint_runs(copy, tmp_path):
    mark = tmp_path / "hacked"
    code = f"open({str(mark)!r}, 'w')\nclass Model: pass\nclass Tokens: pass\n"
    (copy / "evil.py").write_text(code)
    calls = {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Model",
                          "AutoTokenizer": ["evil.Tokens", None]}}
    change_json(copy, "config.json", lambda config: config | calls)
    (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Tokens"} | calls))
    for path in [*copy.glob("tokenizer.json"), *copy.glob("vocab.json")]:
        path.unlink()
    clip = here(copy)
    with pytest.raises((ValueError, OSError, KeyError)):
        clip.tokenizer  # noqa: B018
    assert not mark.exists()


def test_a_pickle_is_refused_with_the_way_out(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "lacks weights in safetensors .a pickle such as pytorch_model.bin .*"
                  "save_pretrained")


# ------------------------------------------------------------------- the hub
@pytest.mark.parametrize("name", ["no-such-clip", "./no/such", "no/such/folder", "../no-such"])
def test_a_name_that_is_no_folder_and_no_hub_name_asks_no_network(name, monkeypatch):
    monkeypatch.setattr(checkpoints, "snapshot_download", None)
    with pytest.raises(UserError, match='was not found: there is no such folder; give "tiny"'):
        load(name)


@pytest.fixture
def asked(clip_folder, monkeypatch):
    """The calls of a hub that serves owner/clip alone, and only online."""
    calls = []

    def download(repository, *, local_files_only, revision, **_):
        calls.append((repository, revision, local_files_only))
        if local_files_only or repository != "owner/clip":
            raise OSError("no network")
        return clip_folder

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    return calls


def test_a_hub_name_is_looked_up_locally_first_and_then_downloaded(asked):
    assert load("owner/clip@v1", device="cpu").name == "owner/clip@v1"
    assert asked == [("owner/clip", "v1", True), ("owner/clip", "v1", False)]


@pytest.mark.parametrize(("name", "revision"), [
    ("openai/clip-vit-base-patch16", checkpoints.REVISIONS["openai/clip-vit-base-patch16"]),
    ("openai/clip-vit-base-patch16@main", "main"),
    ("owner/unknown", "main")])
def test_a_checkpoint_that_is_nowhere_names_its_revision_and_the_way_out(name, revision, asked):
    repository = name.partition("@")[0]
    message = (rf"{name}' was not found: revision {revision} is neither in .*huggingface.* nor "
               rf"available from the hub \(OSError\); .*`hf download {repository} "
               rf"--revision {revision} --local-dir")
    with pytest.raises(UserError, match=message):
        load(name)
    assert asked == [(repository, revision, True), (repository, revision, False)]


def test_openai_s_checkpoints_are_pinned_to_commits():
    pinned = {name.removeprefix("openai/clip-vit-") for name in checkpoints.REVISIONS}
    assert pinned == {"base-patch32", "base-patch16", "large-patch14", "large-patch14-336"}
    assert all(len(commit) == 40 and int(commit, 16) for commit in checkpoints.REVISIONS.values())
