"""Facial component guidance and its clips of frames; the contract is in test_detectors.py."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from dfnb import files
from dfnb.data import footage
from dfnb.data.crops import CropView
from dfnb.detectors import components
from dfnb.detectors.components import Components
from dfnb.detectors.schedule import Schedule
from dfnb.evaluation import metrics
from dfnb.models.encoder import enter

T = 4  # frames a clip
SMALL = {"frames_per_clip": T, "hidden": 8, "epochs": 12, "batch": 8, "learning_rate": 3e-3,
         "patience": None}


def views(make, videos: int = 40) -> tuple[CropView, ...]:
    """Return training, validation and test crops; `make` changes T frames (T, 64, 64, 3)."""
    generator, images = np.random.default_rng(0), []
    parts = components.part_weights(8).reshape(4, 8, 8).numpy() > 0
    looks = generator.integers(-40, 40, (4, 8, 8, 3))  # a part looks alike in all faces
    face = sum(np.kron(part[..., None], np.ones((8, 8, 1))) * np.tile(look, (8, 8, 1))
               for part, look in zip(parts, looks, strict=True))
    for at in range(videos):
        light = generator.integers(100, 130, (1, 64, 64, 3))
        frames = light + face + generator.integers(0, 12, (T, 64, 64, 3))
        images.append(make(frames, at % 2, generator))
    number = np.arange(videos).repeat(T)
    rows = pd.DataFrame({
        "corpus": "noise", "manipulation": np.where(number % 2, "fake", "real"),
        "video": [f"{at:03d}" for at in number], "label": number % 2,
        "target": [f"{at // 2:03d}" for at in number], "frame": np.tile(np.arange(T), videos)})
    whole = CropView.of_arrays(np.clip(np.concatenate(images), 0, 255).astype(np.uint8), rows)
    cuts = np.array([videos - 16, videos - 8]) * T
    return tuple(whole.select(part) for part in np.split(np.arange(len(whole)), cuts))


def bright(frames, label, generator):
    """Plant a cue in space: the mouth of a fake is brighter in all frames."""
    frames = frames.copy()
    frames[:, 42:51, 19:45] += 60 * label
    return frames


def flickering(frames, label, generator):
    """Plant a cue in time alone: half of a fake's frames are negatives, of a real's all or none."""
    negative = generator.permutation(T) % 2 if label else np.full(T, generator.integers(2))
    return np.where(negative[:, None, None, None], 255 - frames, frames)


@pytest.fixture(scope="module")
def spatial():
    return views(bright)


@pytest.fixture
def reals(spatial):
    """The real crops of training."""
    return spatial[0].select(spatial[0].labels == 0)


def fit(clip, crops, **changes) -> Components:
    return Components.fit(*crops[:2], clip=clip, seed=0, **SMALL | changes)


@pytest.fixture
def detector(clip, spatial):
    return fit(clip, spatial)


@pytest.fixture
def decoder(clip):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return components.Decoder(clip, frames=T, hidden=8)


# --- clips of frames, parts of a face
def test_a_clip_is_consecutive_frames_of_one_video():
    frames = pd.DataFrame({
        "corpus": "c", "manipulation": "m", "video": list("aabbbbbbba"),
        "frame": [1, 2, *range(7), 0]})
    clips = footage.clips_of(frames, 3)
    # the last clip overlaps, a short video is stretched
    assert clips.tolist() == [[9, 0, 1], [2, 3, 4], [5, 6, 7], [6, 7, 8]]
    assert footage.clips_of(frames.iloc[:2], 4).tolist() == [[0, 0, 1, 1]]


def test_a_fake_is_paired_with_the_real_of_its_scene_where_there_is_one():
    labels, scenes = np.array([0, 0, 0, 1, 1, 1]), np.array(["a", "b", "b", "a", "b", "c"])
    drawn = footage.pairs(labels, scenes, np.random.default_rng(0))
    seen = [next(drawn) for _ in range(60)]
    assert [fake for _, fake in seen].count(4) == 20
    of = {fake: {real for real, other in seen if other == fake} for fake in (3, 4, 5)}
    assert of == {3: {0}, 4: {1, 2}, 5: {0, 1, 2}}


def test_a_batch_holds_each_fake_beside_the_real_of_its_target(clip, spatial, monkeypatch):
    train, seen, read = spatial[0], [], clip.pixel_reader(spatial[0])

    def reader(*given):
        seen.append(given)
        return read(*given)

    monkeypatch.setattr(clip, "pixel_reader", lambda view: reader)
    schedule = Schedule(batch=6, flip=True)
    pixels, labels = next(components.clip_batches(clip, train, T, schedule, seed=0))
    ((rows, flip),) = seen
    assert pixels.shape == (6 * T, 3, 64, 64) and labels.tolist() == [0, 1] * 3
    targets = train.frames.target.to_numpy()[rows.reshape(3, 2 * T)]
    assert (targets == targets[:, :1]).all()
    assert (flip.reshape(6, T) == flip[::T, None]).all()  # one draw for all frames of a clip
    assert 0 < flip.mean() < 1


@pytest.mark.parametrize("side", [4, 8, 16])
def test_parts_are_where_a_face_has_them(side):
    weights = components.part_weights(side).reshape(4, side, side)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(4))
    torch.testing.assert_close(weights, weights.flip(2))  # a mirrored face has the same parts
    centres = torch.einsum("pyx,y->p", weights, (torch.arange(side) + 0.5) / side)
    lips, skin, eyes, nose = centres.tolist()
    assert eyes < nose < lips and 0.4 < skin < 0.6 and weights.min() >= 0


# --- what the decoder sees
def test_traces_are_the_blocks_own_outputs_and_projections(clip, spatial):
    pixels, encoder = clip.pixels(spatial[0].images(np.arange(6))), clip.model.vision_model
    for at, (query, key, value, out) in enumerate(clip.traces(pixels)):
        torch.testing.assert_close(out, enter(encoder, pixels, at + 1)[:, 1:])
        attention = encoder.encoder.layers[at].self_attn
        entering = encoder.encoder.layers[at].layer_norm1(enter(encoder, pixels, at))[:, 1:]
        for found, projection in ((query, attention.q_proj), (key, attention.k_proj),
                                  (value, attention.v_proj)):
            torch.testing.assert_close(found.transpose(1, 2).flatten(2), projection(entering))
    assert at + 1 == clip.layers


def test_affinity_is_a_softmax_of_100_cosines():
    keys = torch.tensor([[3.0, 0.0], [0.0, 0.2], [1.0, 1.0]])  # three patches, one head
    found = components.affinity(torch.tensor([[1.0, 0.0]]), keys[None, None])
    expected = torch.softmax(torch.tensor([100.0, 0.0, 100 / 2**0.5]), dim=0)
    torch.testing.assert_close(found[0, 0], expected)


def test_an_affinity_in_time_is_each_frames_softmax_over_the_frames(decoder):
    tokens = torch.randn(2 * T, 2, 16, 24)  # two clips
    maps = decoder.temporal[0].frame_affinity(tokens)
    assert maps.shape == (2, 2 * T * T, 16)
    frames = tokens[T:, 1, 5]  # second clip, second head, sixth patch: (T, d)
    expected = torch.softmax(frames @ frames.T / 24**0.5, dim=-1)
    torch.testing.assert_close(maps[1].reshape(2, T, T, 16)[1, :, :, 5], expected)


def test_shuffling_the_frames_of_a_clip_changes_the_temporal_branch_alone(clip, decoder, spatial):
    pixels = clip.pixels(spatial[0].images(np.arange(2 * T)))
    order = torch.tensor([2, 0, 3, 1, 5, 7, 4, 6])
    with torch.no_grad():
        space, time = decoder.branches(clip.traces(pixels))
        space_after, time_after = decoder.branches(clip.traces(pixels[order]))
    torch.testing.assert_close(space_after, space)
    assert (time_after - time).abs().max() > 1e-3


# --- losses
def test_focal_loss_by_hand():
    logits, labels = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 0])
    even, sure = 0.5**4 * np.log(2), (1 - 1 / (1 + np.exp(-2))) ** 4 * np.log(1 + np.exp(-2))
    assert components.focal(logits, labels).item() == pytest.approx((5 * even + sure) / 6)


def test_guidance_is_least_where_each_query_is_its_own_parts_key():
    keys = torch.eye(4)[None]
    own = components.guidance(keys * 7, keys).item()  # cosines: lengths do not count
    assert own == pytest.approx(np.log(1 + 3 * np.exp(-30)), abs=1e-6)
    assert components.guidance(keys.roll(1, dims=1), keys).item() == pytest.approx(30, abs=1e-3)


def test_training_pulls_each_query_to_its_own_part(clip, detector, spatial, reals):
    keys = components.part_keys(clip, reals)
    cosines = F.normalize(detector.model.queries.detach(), dim=-1) @ F.normalize(keys, dim=-1).mT
    assert cosines.argmax(dim=-1).tolist() == [[0, 1, 2, 3]] * clip.layers
    before = fit(clip, spatial, epochs=1, learning_rate=1e-9)
    guides = [row["guidance"] for row in detector.history]
    assert guides == sorted(guides, reverse=True)
    assert guides[-1] < 0.9 * before.history[0]["guidance"]


def test_mean_keys_are_of_the_parts_patches(clip, reals):
    with torch.no_grad():
        _, key, _, _ = list(clip.traces(clip.pixels(reals.images())))[1]
    expected = components.part_weights(4) @ key.transpose(1, 2).flatten(2).mean(dim=0)  # block 1
    torch.testing.assert_close(components.part_keys(clip, reals)[1], expected)


# --- the detector
def test_it_learns_a_cue_in_space_and_scores_a_clip_as_one(detector, spatial):
    scores = detector.score(spatial[2])
    assert metrics.auc(spatial[2].labels, scores) > 0.95
    assert (scores.reshape(8, T) == scores[::T, None]).all()
    assert not files.cache().exists()  # nothing of the traces is kept on disk


def test_a_frame_of_two_clips_gets_the_mean_of_both(detector, spatial):
    six = spatial[2].select(np.arange(6))  # the last two frames are of a fake
    six.frames = six.frames.assign(manipulation="real", video="000", frame=np.arange(6))
    first, second = (detector.score(six.select(np.arange(start, start + T)))[0] for start in (0, 2))
    assert first != second
    expected = [first, first, (first + second) / 2, (first + second) / 2, second, second]
    np.testing.assert_allclose(detector.score(six), expected, rtol=1e-5)


def test_it_learns_a_cue_that_no_single_frame_has(clip):
    *learnt, test = views(flickering)
    detector = fit(clip, learnt, learning_rate=1e-2)
    assert metrics.auc(test.labels, detector.score(test)) > 0.95
    rows = np.repeat(np.arange(0, len(test), T), T)  # the first frame of each video alone, T times
    still = test.select(rows)
    still.frames = still.frames.assign(frame=np.tile(np.arange(T), len(test) // T))
    assert metrics.auc(test.labels, detector.score(still)) < 0.8


def test_every_part_of_the_decoder_gets_a_gradient(clip, decoder, spatial, reals):
    keys = components.part_keys(clip, reals).clone()
    logits = decoder(clip.traces(clip.pixels(spatial[0].images(np.arange(4 * T)))))
    loss = components.focal(logits, torch.tensor([0, 1, 0, 1]))
    (loss + components.guidance(decoder.queries, keys)).backward()
    idle = [name for name, value in decoder.named_parameters()
            if value.grad is None or not value.grad.any()]
    assert idle == []


def test_maps_show_where_the_queries_look(clip, detector, spatial):
    maps = detector.maps(spatial[2])
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    with torch.no_grad():
        keys = [key for _, key, _, _ in clip.traces(clip.pixels(spatial[2].images()))]
        looks = torch.stack([components.affinity(queries, key) for queries, key in zip(
            detector.model.queries, keys, strict=True)])
    np.testing.assert_allclose(maps.reshape(-1, 16), looks.mean(dim=(0, 2)), rtol=1e-4, atol=1e-6)
