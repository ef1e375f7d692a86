"""CLIP as loaded, normalised and cached, against transformers' own processor and model."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import dfnb.models.clip
from dfnb import UserError, files
from dfnb.models import checkpoints


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def processed(folder, images) -> torch.Tensor:
    return transformers.CLIPImageProcessor.from_pretrained(folder)(
        list(images), return_tensors="pt"
    ).pixel_values


def change(folder, target, edit) -> str:
    """A copy of the checkpoint whose tensors went through `edit`."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = edit(load_file(target / "model.safetensors"))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_pixels_equal_the_checkpoint_s_own_processor(clip, clip_folder, images):
    torch.testing.assert_close(clip.pixels(images), processed(clip_folder, images), rtol=0, atol=1e-6)


def test_pixels_of_another_size_are_resized_as_the_processor_does(clip, clip_folder):
    images = np.random.default_rng(1).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    one_grey_level = 1 / 255 / 0.26
    torch.testing.assert_close(
        clip.pixels(images), processed(clip_folder, images), rtol=0, atol=1.01 * one_grey_level
    )


def test_features_equal_transformers_own_processor_and_model(clip, clip_folder, cued):
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        expected = model.get_image_features(processed(clip_folder, cued[1].images())).pooler_output
        pooled = model.vision_model(processed(clip_folder, cued[1].images())).pooler_output
    features = clip.image_features(cued[1])
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    assert features.shape == (32, clip.dim) and features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(clip.image_features(cued[1], kind="pooled"), pooled.numpy(), rtol=0, atol=1e-5)


def test_text_features_equal_transformers_and_have_unit_length(clip, clip_folder):
    prompts = ["a real photo", "a fake"]
    tokens = transformers.AutoTokenizer.from_pretrained(clip_folder)(
        prompts, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
        expected = model.get_text_features(**tokens).pooler_output
    expected = expected / expected.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(clip.text_features(prompts), expected.numpy(), rtol=0, atol=1e-5)


def test_a_prompt_that_is_too_long_is_named(clip):
    with pytest.raises(UserError, match="takes at most 48; shorten 'xxxx"):
        clip.text_features(["short", "x" * 60])


@pytest.mark.parametrize("name", ["fixture", "tiny"])
def test_a_prompt_filled_with_words_is_the_prompt_with_these_words(clip, name):
    clip = clip if name == "fixture" else dfnb.models.clip.load("tiny", device="cpu")
    prompts = ["a real photo of a face", "a noisy photo of a face"]
    look_up = clip.model.text_model.embeddings.token_embedding
    for prompt in prompts:
        word = torch.tensor([clip.tokenizer(prompt.split()[1], add_special_tokens=False).input_ids])
        feature = clip.text_around("a {} photo of a face", look_up(word))
        tokens = clip.tokenizer([prompt], return_tensors="pt")
        expected = torch.nn.functional.normalize(clip.model.get_text_features(**tokens).pooler_output, dim=-1)
        torch.testing.assert_close(feature, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(feature[0], torch.from_numpy(clip.text_features(prompts)[1]), rtol=0, atol=1e-5)


def test_the_gradient_of_a_prompt_flows_to_its_filling_alone(clip):
    filling = torch.randn(3, 2, 32, requires_grad=True)
    features = clip.text_around("a {} b", filling)
    assert features.shape == (3, 24)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))
    features[1].sum().backward()
    assert (filling.grad[1] != 0).all() and (filling.grad[[0, 2]] == 0).all()
    assert all(value.grad is None for value in clip.model.parameters())


def test_a_gap_that_is_too_long_is_refused(clip):
    assert clip.text_around("ab {} cd", torch.zeros(1, 42, 32)).shape == (1, 24)  # 42 + 2 + 2 + start and end = 48
    with pytest.raises(UserError, match="'ab {} cd' with a gap of 43 has 49 tokens, .* takes at most 48"):
        clip.text_around("ab {} cd", torch.zeros(1, 43, 32))


def test_a_vision_tower_is_a_trainable_copy(clip, images):
    before = clip.tower(clip.pixels(images))
    tower = clip.vision_tower()
    assert all(value.requires_grad for value in tower.parameters())
    with torch.no_grad():
        tower.post_layernorm.bias += 1
    torch.testing.assert_close(clip.tower(clip.pixels(images)), before, rtol=0, atol=0)
    assert not any(value.requires_grad for value in clip.model.parameters())


def test_features_are_computed_once_for_all_selections_of_a_store(clip, cued, monkeypatch):
    train, validation, _ = cued
    features = clip.image_features(train)
    monkeypatch.setattr(clip, "tower", None)  # nothing can be computed now
    np.testing.assert_array_equal(clip.image_features(train), features)
    np.testing.assert_array_equal(clip.image_features(train.select([5, 3])), features[[5, 3]])
    assert clip.image_features(validation).shape == (32, clip.dim)


@pytest.mark.parametrize("at", [0, 200, -1])
def test_a_damaged_cache_file_is_rebuilt(clip, cued, at):
    fresh = clip.image_features(cued[0]).copy()
    (path,) = (files.cache() / "features").rglob("*.npy")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(clip.image_features(cued[0]), fresh)
    path.write_bytes(content[:100])
    np.testing.assert_array_equal(clip.image_features(cued[0]), fresh)


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def build(array):
        array[:] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.cached_array(tmp_path / "x.npy", (3, 2), build)
    assert list(tmp_path.iterdir()) == []


def test_another_checkpoint_has_another_cache(clip, cued):
    assert not np.allclose(clip.image_features(cued[1]), clip.untrained(1).image_features(cued[1]))


def test_kept_activations_equal_fresh_ones_and_respect_the_limit(clip, cued):
    rows = np.array([4, 0, 4])
    kept = clip.hidden_reader(cued[1], 1)(rows)
    assert len(list(files.cache().rglob("*block1.npy"))) == 1
    fresh = clip.hidden_reader(cued[1], 1, keep=False)(rows)
    assert kept.shape == (3, 17, 48)
    torch.testing.assert_close(kept, fresh, rtol=0, atol=1e-5)
    clip.untrained(1).hidden_reader(cued[1], 1, limit=1000)(rows)
    assert len(list(files.cache().rglob("*block1.npy"))) == 1


def test_a_reader_mirrors_the_crops_it_is_told_to(clip, cued):
    read = clip.pixel_reader(cued[0])
    plain, mixed = read(np.array([3, 8])), read(np.array([3, 8]), np.array([True, False]))
    torch.testing.assert_close(mixed, torch.stack([plain[0].flip(-1), plain[1]]))


def test_crops_too_many_for_memory_are_read_batch_by_batch(clip, cued, monkeypatch):
    held = clip.pixel_reader(cued[0])(np.array([3, 8]))
    monkeypatch.setattr(dfnb.models.clip, "HELD", 0)
    torch.testing.assert_close(clip.pixel_reader(cued[0])(np.array([3, 8])), held, rtol=0, atol=0)


def test_untrained_has_the_same_architecture_and_depends_on_its_seed_alone(clip):
    state = torch.random.get_rng_state()
    one, again, other = clip.untrained(3), clip.untrained(3), clip.untrained(4)
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert clip.fingerprint not in {one.fingerprint, other.fingerprint}
    shapes = [{key: value.shape for key, value in c.model.state_dict().items()} for c in (clip, one)]
    assert shapes[0] == shapes[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_half_precision_checkpoints_and_old_buffers_load_as_float32(clip, clip_folder, tmp_path):
    def age(tensors):
        tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}

    old = dfnb.models.clip.load(change(clip_folder, tmp_path / "old", age), device="cpu")
    assert {value.dtype for value in old.model.parameters()} == {torch.float32}
    assert old.fingerprint != clip.fingerprint  # half precision rounds


def test_the_fingerprint_sees_weights_and_normalisation_but_not_the_folder(clip, clip_folder, tmp_path):
    copy = change(clip_folder, tmp_path / "copy", dict)
    assert dfnb.models.clip.load(copy, device="cpu").fingerprint == clip.fingerprint
    settings = json.loads((tmp_path / "copy" / "preprocessor_config.json").read_text())
    settings["image_std"] = [0.5, 0.5, 0.5]
    (tmp_path / "copy" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert dfnb.models.clip.load(copy, device="cpu").fingerprint != clip.fingerprint


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda tensors: tensors | {"junk.weight": torch.zeros(2)}, "unexpected: junk.weight"),
        (lambda tensors: {k: v for k, v in tensors.items() if k != "logit_scale"}, "missing: logit_scale"),
    ],
)
def test_every_key_of_a_checkpoint_is_accounted_for(clip_folder, tmp_path, edit, named):
    with pytest.raises(UserError, match=named):
        dfnb.models.clip.load(change(clip_folder, tmp_path / "changed", edit))


def test_a_damaged_or_foreign_checkpoint_is_one_sentence(clip_folder, tmp_path):
    folder = change(clip_folder, tmp_path / "changed", dict)
    (tmp_path / "changed" / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="cannot be read"):
        dfnb.models.clip.load(folder)
    (tmp_path / "changed" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="'bert' checkpoint"):
        dfnb.models.clip.load(folder)
    (tmp_path / "changed" / "model.safetensors").rename(tmp_path / "changed" / "pytorch_model.bin")
    with pytest.raises(UserError, match="lacks weights in safetensors"):
        dfnb.models.clip.load(folder)


@pytest.mark.parametrize("name", ["no-such-clip", "./no/such", "no/such/folder", "../no-such"])
def test_a_name_that_is_no_folder_and_no_hub_name_is_refused_without_a_network(name, monkeypatch):
    monkeypatch.setattr(checkpoints, "snapshot_download", None)
    with pytest.raises(UserError, match='was not found: there is no such folder; give "tiny"'):
        dfnb.models.clip.load(name)


def test_a_hub_name_is_looked_up_locally_first_then_downloaded_then_refused(clip_folder, monkeypatch):
    asked = []

    def download(repository, *, local_files_only, revision, **_):
        asked.append((repository, revision, local_files_only))
        if local_files_only or repository == "owner/unknown":
            raise OSError("offline")
        return clip_folder

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    assert dfnb.models.clip.load("owner/clip@v1", device="cpu").name == "owner/clip@v1"
    assert asked == [("owner/clip", "v1", True), ("owner/clip", "v1", False)]
    with pytest.raises(UserError, match=r"'owner/unknown' was not found: revision main is neither in .* \(OSError\)"):
        dfnb.models.clip.load("owner/unknown")


def test_an_unknown_kind_of_feature_is_refused(clip, cued):
    with pytest.raises(UserError, match="must be one of projected, pooled, got 'mean'"):
        clip.image_features(cued[0], kind="mean")
