"""What a detector was trained on, and what lies outside of it."""

import json

import av
import numpy as np
import pandas as pd
import pytest

from dfnb.data import video
from dfnb.evaluation import tables, training_domain
from dfnb.predict import videos

KNOWN = {"side": 256.0, "face": 90.0, "bits": 0.05}


def some(seed: int, count: int, dim: int = 6, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, np.arange(1, dim + 1), (count, dim))


@pytest.fixture
def learnt():
    traits = pd.DataFrame({"side": [256.0, 256.0], "face": [70.0, 110.0], "bits": [0.04, 0.08]})
    return training_domain.learn(traits, some(0, 400), some(1, 40), np.arange(40) // 4)  # 10 validation videos of 4 crops


def test_with_few_dimensions_the_distance_is_that_of_mahalanobis(learnt):
    training, new = some(0, 400), some(2, 20)
    inverse = np.linalg.inv(np.cov(training.T))
    centred = new - training.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred) / 6)
    np.testing.assert_allclose(training_domain.distances(learnt["space"], new), expected, rtol=1e-4)


def test_with_many_dimensions_a_training_crop_is_at_about_one_and_a_foreign_one_farther():
    training = some(0, 300, dim=60)
    space = training_domain.learn(pd.DataFrame([KNOWN]), training, training[:8], np.arange(8))["space"]
    assert len(space["directions"]) == 16
    assert np.mean(training_domain.distances(space, training) ** 2) == pytest.approx(1, abs=0.05)
    assert np.mean(training_domain.distances(space, some(3, 300, dim=60, shift=200)) ** 2) > 5


def test_inside_of_the_ranges_nothing_is_said(learnt):
    found, text = training_domain.compare(learnt, KNOWN, np.zeros((4, 6)))
    assert text == []
    assert 0 < found["farther"] <= 1


@pytest.mark.parametrize(("changed", "sentence"), [
    ({"face": 38.0}, "a face of 38 pixels, training faces had 70 to 110"),
    ({"face": 111.0}, "a face of 111 pixels, training faces had 70 to 110"),
    ({"side": 1080.0}, "1080 pixels on the picture's short side, training videos had 256"),
    ({"bits": 0.0121}, "0.012 bits per pixel after compression, training videos had 0.040 to 0.080"),
])
def test_what_lies_outside_is_said_in_words(learnt, changed, sentence):
    assert training_domain.compare(learnt, KNOWN | changed, np.zeros((4, 6)))[1] == [sentence]


def test_a_face_that_is_farther_than_every_validation_video_is_said_so(learnt):
    found, text = training_domain.compare(learnt, KNOWN, some(3, 4, shift=30))
    assert found["farther"] == 0
    assert text == ["its faces look less like the training faces than those of any of the 10 validation videos"]


def test_farther_is_the_share_of_validation_videos_at_least_as_far(learnt):
    middle = sorted(learnt["validation"])[6]  # of 10: 4 are as far or farther
    point = np.array(learnt["space"]["mean"]) + middle * np.sqrt(6 * learnt["space"]["variances"][0]) * np.array(
        learnt["space"]["directions"][0]) * (1 - 1e-4)
    assert training_domain.compare(learnt, KNOWN, point[None])[0]["farther"] == 0.4


def with_sound(path, out):
    """The same video packets with an audio track beside them."""
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
    found = video.traits(path)
    assert (found["width"], found["height"], found["frames"]) == (256, 256, 12)
    size = 8 * path.stat().st_size / (256 * 256 * 12)
    assert 0.5 * size < found["bits"] < size  # the rest is the container
    loud = with_sound(path, tmp_path / "loud.mp4")
    assert loud.stat().st_size > 1.2 * path.stat().st_size
    assert video.traits(loud) == found
    key = {"corpus": "demo", "manipulation": "real", "video": "000"}
    frames = pd.DataFrame([key | {"x0": 10, "x1": 110}, key | {"x0": 10, "x1": 100}, key | {"x0": 10, "x1": 20}])
    row = training_domain.traits(pd.DataFrame([key | {"path": str(path)}]), frames).iloc[0].to_dict()
    assert row == {"side": 256, "face": 90, "bits": found["bits"]}


def test_a_trial_puts_threshold_cropping_and_domain_on_the_card_and_they_are_saved(finished):
    folder, trial = finished
    card = trial.detector.card
    video_row = tables.chosen(tables.by_split(trial.scores.assign(model="LoRA")), "video").iloc[0]
    assert card["threshold"] == video_row.threshold
    assert card["crops"] == {"frames": 4, "size": 64, "margin": 1.3}
    assert card["trained_on"]["videos"] == {"real": 2, "FaceSwap": 2, "NeuralTextures": 2}
    assert card["domain"]["ranges"]["side"] == [256, 256]
    assert len(card["domain"]["validation"]) == 6
    assert videos.load(folder).card["domain"] == card["domain"]
    assert "domain" not in json.loads((folder / "detector.json").read_text())
