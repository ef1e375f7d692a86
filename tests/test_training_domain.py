"""The domain of a detector, and the sentences about videos that lie outside of it."""

import json

import av
import numpy as np
import pandas as pd
import pytest

from dfnb.data import video
from dfnb.evaluation import tables, training_domain
from dfnb.predict import videos

KNOWN = {"side": 256.0, "face": 90.0, "bits": 0.05}


def features(seed: int, count: int, dim: int = 6, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, np.arange(1, dim + 1), (count, dim))


@pytest.fixture
def domain():
    """The domain of two training videos, with 10 validation videos of 4 crops."""
    traits = pd.DataFrame({"side": [256.0, 256.0], "face": [70.0, 110.0], "bits": [0.04, 0.08]})
    return training_domain.learn(traits, features(0, 400), features(1, 40), np.arange(40) // 4)


def test_with_few_dimensions_the_distance_is_that_of_mahalanobis(domain):
    training, new = features(0, 400), features(2, 20)
    inverse = np.linalg.inv(np.cov(training.T))
    centred = new - training.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred) / 6)
    distances = training_domain.distances(domain["space"], new)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)


def test_with_many_dimensions_training_crops_lie_at_about_one_and_foreign_ones_farther():
    training = features(0, 300, dim=60)
    traits = pd.DataFrame([KNOWN])
    space = training_domain.learn(traits, training, training[:8], np.arange(8))["space"]
    assert len(space["directions"]) == 16
    squares = training_domain.distances(space, training) ** 2
    assert np.mean(squares) == pytest.approx(1, abs=0.05)
    foreign = features(3, 300, dim=60, shift=200)
    assert np.mean(training_domain.distances(space, foreign) ** 2) > 5


@pytest.mark.parametrize(("changed", "sentences"), [
    ({}, []),
    ({"face": 38.0}, ["a face of 38 pixels, training faces had 70 to 110"]),
    ({"face": 111.0}, ["a face of 111 pixels, training faces had 70 to 110"]),
    ({"side": 1080.0}, ["1080 pixels on the picture's short side, training videos had 256"]),
    ({"bits": 0.0121},
     ["0.012 bits per pixel after compression, training videos had 0.040 to 0.080"])])
def test_what_lies_outside_of_the_ranges_is_a_sentence(domain, changed, sentences):
    traits, warnings = training_domain.compare(domain, KNOWN | changed, np.zeros((4, 6)))
    assert warnings == sentences
    assert 0 < traits["farther"] <= 1


def test_a_face_that_is_farther_than_every_validation_video_is_a_sentence(domain):
    traits, warnings = training_domain.compare(domain, KNOWN, features(3, 4, shift=30))
    assert traits["farther"] == 0
    assert warnings == ["its faces look less like the training faces than those of any of the 10 "
                        "validation videos"]


def test_farther_is_the_share_of_validation_videos_at_least_as_far(domain):
    space, middle = domain["space"], sorted(domain["validation"])[6]  # of 10: 4 are as far
    length = middle * np.sqrt(6 * space["variances"][0]) * (1 - 1e-4)
    point = np.array(space["mean"]) + length * np.array(space["directions"][0])
    assert training_domain.compare(domain, KNOWN, point[None])[0]["farther"] == 0.4


def with_sound(path, out):
    """Write the same video packets with an audio track beside them."""
    with av.open(str(path)) as source, av.open(str(out), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
        noise = np.random.default_rng(0).normal(0, 0.3, (1, 1024)).astype(np.float32)
        for at in range(8):
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * at
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return out


def test_traits_come_from_the_file_and_the_boxes(corpus, tmp_path):
    path = corpus / "original_sequences/youtube/c23/videos/000.mp4"
    traits = video.traits(path)
    assert (traits["width"], traits["height"], traits["frames"]) == (256, 256, 12)
    size = 8 * path.stat().st_size / (256 * 256 * 12)
    assert 0.5 * size < traits["bits"] < size  # the rest is the container
    loud = with_sound(path, tmp_path / "loud.mp4")
    assert loud.stat().st_size > 1.2 * path.stat().st_size
    assert video.traits(loud) == traits
    key = {"corpus": "demo", "manipulation": "real", "video": "000"}
    frames = pd.DataFrame([key | {"x0": 10, "x1": right} for right in (110, 100, 20)])
    rows = training_domain.traits(pd.DataFrame([key | {"path": str(path)}]), frames)
    assert rows.iloc[0].to_dict() == {"side": 256, "face": 90, "bits": traits["bits"]}


def test_a_trial_saves_threshold_cropping_and_domain_with_the_detector(finished):
    folder, trial = finished
    metadata = trial.detector.metadata
    rows = tables.chosen(tables.by_split(trial.scores.assign(model="LoRA")), "video")
    assert metadata["threshold"] == rows.threshold.iloc[0]
    assert metadata["crops"] == {"frames": 4, "size": 64, "margin": 1.3}
    assert metadata["trained_on"]["videos"] == {"real": 2, "FaceSwap": 2, "NeuralTextures": 2}
    assert metadata["domain"]["ranges"]["side"] == [256, 256]
    assert len(metadata["domain"]["validation"]) == 6
    assert videos.load(folder).metadata["domain"] == metadata["domain"]
    assert "domain" not in json.loads((folder / "detector.json").read_text())
