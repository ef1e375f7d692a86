"""CLIP's pixels, features, frozen activations and texts, against transformers' own and PIL."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from dfnb import UserError, files
from dfnb.models.clip import load
from dfnb.models.encoder import enter
from dfnb.models.resize import resize


def noise(count, height, width, grey_levels=256):
    """Random images; two grey levels overshoot most when they are resized."""
    generator = np.random.default_rng(1)
    images = generator.integers(0, grey_levels, (count, height, width, 3))
    return (images * (255 // (grey_levels - 1))).astype(np.uint8)


# ------------------------------------------------------------------- pixels
@pytest.mark.parametrize("size", [64, 96, 40])
def test_pixels_equal_the_checkpoint_s_own_processor(clip, clip_folder, size):
    images = noise(3, size, size)
    processor = transformers.CLIPImageProcessor.from_pretrained(clip_folder)
    expected = processor(list(images), return_tensors="pt").pixel_values
    torch.testing.assert_close(clip.pixels(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("grey_levels", [2, 256])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 65), (96, 64), (300, 224)])
def test_resizing_up_and_down_gives_pil_s_grey_levels(height, width, grey_levels):
    images = noise(2, height, width, grey_levels)
    expected = [Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)
                for image in images]
    resized = resize(torch.from_numpy(images).permute(0, 3, 1, 2), 64).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(resized.numpy(), np.stack(expected))


def test_a_reader_mirrors_the_crops_that_are_flipped(clip, cued, monkeypatch):
    rows = np.array([3, 8])
    read = clip.pixel_reader(cued[0])
    plain, mixed = read(rows), read(rows, np.array([True, False]))
    torch.testing.assert_close(mixed, torch.stack([plain[0].flip(-1), plain[1]]))
    monkeypatch.setattr("dfnb.models.clip.HELD", 0)  # crops too many for memory
    torch.testing.assert_close(clip.pixel_reader(cued[0])(rows), plain, rtol=0, atol=0)


# ------------------------------------------------------------------- image features
def test_an_unknown_kind_of_feature_is_refused(clip, cued):
    with pytest.raises(UserError, match="must be one of projected, pooled, got 'mean'"):
        clip.image_features(cued[0], kind="mean")


def test_untrained_has_the_same_architecture_and_depends_on_its_seed_alone(clip):
    state = torch.random.get_rng_state()
    one, again, other = clip.untrained(3), clip.untrained(3), clip.untrained(4)
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert clip.fingerprint not in {one.fingerprint, other.fingerprint}
    shapes = [{key: value.shape for key, value in each.model.state_dict().items()}
              for each in (clip, one)]
    assert shapes[0] == shapes[1]
    assert torch.equal(torch.random.get_rng_state(), state)


# ------------------------------------------------------------------- the cache
def test_features_are_computed_once_for_all_selections_of_a_store(clip, cued, monkeypatch):
    train, validation, _ = cued
    features, untrained = clip.image_features(train), clip.untrained(1)
    assert not np.allclose(untrained.image_features(train), features)  # another cache
    monkeypatch.setattr(clip, "pooled", None)  # nothing can be computed now
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
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.cached_array(tmp_path / "x.npy", (3, 2), build)
    assert list(tmp_path.iterdir()) == []


def test_kept_activations_equal_fresh_ones_and_respect_the_limit(clip, cued, monkeypatch):
    rows = np.array([4, 0, 4])
    read = clip.hidden_reader(cued[1], 1)
    assert len(list(files.cache().rglob("*block1.npy"))) == 1
    fresh = clip.hidden_reader(cued[1], 1, keep=False)(rows)
    assert fresh.shape == (3, 17, 48)
    torch.testing.assert_close(read(rows), fresh, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="kept activations cannot be flipped"):
        read(rows, np.array([True, False, False]))
    monkeypatch.setattr("dfnb.models.clip.PREFIX_LIMIT", 1000)
    clip.untrained(1).hidden_reader(cued[1], 1)(rows)
    assert len(list(files.cache().rglob("*block1.npy"))) == 1


# ------------------------------------------------------------------- precision and memory
def test_the_precision_is_as_asked_and_recorded(clip, cued, monkeypatch):
    monkeypatch.setattr("dfnb.models.clip.PRECISIONS", used := set())
    full = clip.image_features(cued[0])
    assert used == {"float32"}  # the default on a CPU
    half = load(str(clip.folder), device="cpu", precision="bfloat16")
    features = half.image_features(cued[0])
    assert used == {"float32", "bfloat16"}
    np.testing.assert_allclose(features, full, atol=0.03)
    assert not np.array_equal(features, full)  # neither has taken the other's from the cache
    with half.precision():  # what is trained stays float32 on a CPU
        assert not torch.is_autocast_enabled("cpu")
    assert half.untrained(0).frozen_dtype == "bfloat16" != clip.untrained(0).frozen_dtype


def small(limit, compute):
    """Return `compute` with memory for tensors of at most `limit` crops."""

    def limited(*arguments):
        if max(len(each) for each in arguments if isinstance(each, torch.Tensor)) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(*arguments)

    return limited


def test_features_that_do_not_fit_are_computed_in_halves(clip, cued, tmp_path, monkeypatch):
    expected = clip.image_features(cued[0], kind="pooled").copy()
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache-of-halves"))
    monkeypatch.setattr(clip, "pooled", small(7, clip.pooled))
    with pytest.warns(UserWarning, match="15 crops at once do not fit .* going on with 7 at once"):
        halves = clip.image_features(cued[0], kind="pooled")
    np.testing.assert_allclose(halves, expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(clip, "pooled", small(0, clip.pooled))
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        clip.image_features(cued[1])  # one crop does not fit


def test_frozen_activations_that_do_not_fit_are_computed_in_halves(clip, cued, monkeypatch):
    rows, flip = np.arange(12), np.arange(12) % 2 == 0
    expected = clip.hidden_reader(cued[0], 1, keep=False)(rows, flip)
    monkeypatch.setattr("dfnb.models.clip.enter", small(5, enter))
    with pytest.warns(UserWarning, match="12 crops at once do not fit .* going on with 6"):
        halves = clip.hidden_reader(cued[0], 1, keep=False)(rows, flip)
    torch.testing.assert_close(halves, expected, rtol=0, atol=1e-6)


# ------------------------------------------------------------------- texts
@pytest.mark.parametrize("name", ["fixture", "tiny"])
def test_a_prompt_filled_with_words_is_the_prompt_with_these_words(clip, name):
    clip = clip if name == "fixture" else load("tiny", device="cpu")
    prompts = ["a real photo of a face", "a noisy photo of a face"]
    look_up = clip.model.text_model.embeddings.token_embedding
    for prompt, expected in zip(prompts, clip.text_features(prompts), strict=True):
        word = clip.tokenizer(prompt.split()[1], add_special_tokens=False).input_ids
        feature = clip.text_around("a {} photo of a face", look_up(torch.tensor([word])))
        torch.testing.assert_close(feature[0], torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_the_gradient_of_a_prompt_flows_to_its_filling_alone(clip):
    filling = torch.randn(3, 2, 32, requires_grad=True)
    features = clip.text_around("a {} b", filling)
    assert features.shape == (3, 24)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))
    features[1].sum().backward()
    assert (filling.grad[1] != 0).all() and (filling.grad[[0, 2]] == 0).all()
    assert all(value.grad is None for value in clip.model.parameters())


def test_a_prompt_that_is_too_long_is_named(clip):
    with pytest.raises(UserError, match="the prompt 'x{60}' has .* takes at most 48; shorten it"):
        clip.text_features(["short", "x" * 60])
    fits = clip.text_around("ab {} cd", torch.zeros(1, 42, 32))  # 42 + 2 + 2 + start and end = 48
    assert fits.shape == (1, 24)
    message = "'ab {} cd' with a gap of 43 has 49 tokens, but .* takes at most 48"
    with pytest.raises(UserError, match=message):
        clip.text_around("ab {} cd", torch.zeros(1, 43, 32))
