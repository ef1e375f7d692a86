"""Score videos with a saved detector."""

import dataclasses
import json
import shutil
from datetime import UTC, datetime

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib import image as pictures
from test_video import write

from dfnb import UserError, cli
from dfnb.data import corpora, video
from dfnb.evaluation import plots, score_files
from dfnb.predict import videos as predict
from dfnb.predict import widget


@pytest.fixture(scope="module")
def clips(corpus, tmp_path_factory):
    """Return a folder of foreign clips: a panned portrait, no face, half a face, a broken file."""
    folder = tmp_path_factory.mktemp("clips")
    still = video.read(corpus / "original_sequences/youtube/c23/videos/000.mp4", 1).frames[0]
    large = cv2.resize(still, (640, 640), interpolation=cv2.INTER_CUBIC)
    panned = [large[4 * at : 4 * at + 480, 6 * at : 6 * at + 480] for at in range(12)]
    wall = [np.full((480, 480, 3), 90, np.uint8)] * 12
    write(folder / "panned.mp4", panned)
    write(folder / "wall.mp4", wall)
    write(folder / "half.MP4", panned[:6] + wall[6:])
    (folder / "broken.mp4").write_bytes((folder / "panned.mp4").read_bytes()[:3000])
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def detector(finished):
    return predict.load(finished[0])


@pytest.fixture(scope="module")
def verdicts(detector, clips, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = predict.score(detector, predict.find([clips, clips / "missing.mp4"]),
                              progress=False)
    return {verdict.path.name: verdict for verdict in found}


def test_files_folders_and_patterns_are_found_once(clips, tmp_path):
    def found(*places):
        return [path.name for path in predict.find(places)]

    assert found(clips) == ["broken.mp4", "half.MP4", "panned.mp4", "wall.mp4"]
    assert found(f"{clips}/*a*.mp4", clips / "panned.mp4") == ["panned.mp4", "wall.mp4"]
    assert predict.find([clips / "missing.mp4"]) == [clips / "missing.mp4"]
    with pytest.raises(UserError, match="holds no video"):
        predict.find([tmp_path])


def test_a_test_video_gets_the_scores_of_the_chapter(detector, finished, corpus, tmp_path,
                                                     monkeypatch):
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path))
    known = finished[1].scores.query("split == 'test' and manipulation == 'FaceSwap'")
    name = known.video.iloc[0]
    expected = known[known.video == name]
    file = corpus / f"manipulated_sequences/FaceSwap/c23/videos/{name}.mp4"
    (verdict,) = predict.score(detector, [file], progress=False)
    assert verdict.frames.frame.tolist() == expected.frame.tolist()
    np.testing.assert_allclose(verdict.frames.score, expected.score, atol=1e-6)
    assert verdict.score == pytest.approx(expected.score.mean(), abs=1e-6)
    above = expected.score.mean() >= detector.metadata["threshold"]
    assert verdict.called == ("fake" if above else "real")
    assert verdict.maps.shape == (4, 4, 4)
    assert not list(tmp_path.rglob("*-block*.npy"))  # no prefix is kept for a clip


def test_a_foreign_clip_is_scored_and_its_differences_are_named(verdicts):
    verdict = verdicts["panned.mp4"]
    sentences = verdict.sentences()
    assert 0 <= verdict.score <= 1
    assert sentences[0].startswith(
        f"called {verdict.called}: probability of fake {verdict.score:.3f}, threshold ")
    assert sentences[1] == "face in 4 of 4 frames"
    assert ("outside of the training domain: 480 pixels on the picture's short side, "
            "training videos had 256") in sentences
    assert any(line.startswith("outside of the training domain: a face of ") for line in sentences)


def test_lost_frames_are_counted_and_have_no_score(verdicts):
    verdict = verdicts["half.MP4"]
    assert verdict.sentences()[1] == "face in 2 of 4 frames; 2 lost: no face"
    assert verdict.frames.score.isna().tolist() == [False, False, True, True]
    assert verdict.score == verdict.frames.score[:2].mean()


@pytest.mark.parametrize(("name", "reason"), [
    ("wall.mp4", "no frame of 4 could be used (no face)"),
    ("broken.mp4", "unreadable: Invalid data found when processing input"),
    ("missing.mp4", "unreadable: No such file or directory")])
def test_what_cannot_be_scored_says_why(verdicts, name, reason):
    assert verdicts[name].called == ""
    assert verdicts[name].sentences() == [f"not scored: {reason}"]


def test_the_command_scores_the_rest_and_leaves_with_1(finished, clips, tmp_path, monkeypatch,
                                                       capsys):
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    files, out = [str(clips / name) for name in ("wall.mp4", "panned.mp4")], tmp_path / "out"
    options = ["--run", str(finished[0]), "--out", str(out)]
    assert cli.main(["score", *files, *options]) == 1
    printed = capsys.readouterr().out
    assert f"{files[0]}: not scored: no frame of 4 could be used" in printed
    assert f"{files[1]}: called " in printed
    assert "Trained on FaceSwap and NeuralTextures of demo" in printed
    content = json.loads((out / "scores.json").read_text())
    lost, scored = content["videos"]
    assert (lost["path"], lost["picture"], lost["score"]) == (files[0], None, None)
    assert (scored["path"], scored["picture"]) == (files[1], "panned.png")
    assert len(scored["frames"]) == 4
    assert content["detector"]["threshold"] == finished[1].detector.metadata["threshold"]
    height, width, _ = pictures.imread(out / "panned.png").shape
    assert width == 900 and 500 < height < 900
    assert cli.main(["score", files[1], *options]) == 0


def test_the_table_is_one_that_evaluate_reads(detector, corpus, tmp_path, monkeypatch):
    def read(files):
        found = predict.score(detector, files, progress=False)
        predict.write(found, detector.metadata, tmp_path, progress=False)
        return score_files.read_scores(tmp_path / "scores.csv")[0]

    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    videos = corpora.index(corpus, manipulations=["FaceSwap"])
    files = predict.find(videos.groupby("label").path.first())
    labels = read(files).groupby("manipulation").label.agg(["first", "size"])
    assert labels.to_dict("index") == {
        "real": {"first": 0, "size": 4}, "FaceSwap": {"first": 1, "size": 4}}
    shutil.copy(files[0], tmp_path / "unknown.mp4")
    with pytest.raises(UserError, match="label that is none of 0 or real, 1 or fake: ''"):
        read([tmp_path / "unknown.mp4"])


def test_a_picture_shows_crops_with_maps_only_where_asked(verdicts, detector):
    def drawn(verdict, **options):
        axes = predict.picture(verdict, detector.metadata, **options).axes
        texts = [" ".join(text.get_text().split()) for ax in axes for text in ax.texts]
        return sum(len(ax.images) for ax in axes), texts

    verdict = verdicts["panned.mp4"]
    blind = dataclasses.replace(verdict, maps=np.full((4, 1, 1), np.nan))  # its detector has none
    assert drawn(verdict)[0] == 2 * 2 * (1 + 2)  # two rows of two crops; a map lies on a grey one
    assert drawn(blind)[0] == 2 * 2 * 2
    images, texts = drawn(verdict, shown=0)
    assert images == 0 and any("its answer is no evidence" in text for text in texts)
    plots.plt.close("all")


def test_lost_frames_are_crosses_and_the_sides_of_the_threshold_differ_in_shape():
    frames = pd.DataFrame({"pts": [0.0, 1.0, 2.0], "score": [0.2, 0.9, np.nan]})
    ax = plots.over_time(frames, plots.plt.figure().add_subplot(), threshold=0.5)
    drawn = {line.get_label(): (line.get_marker(), list(line.get_xdata())) for line in ax.lines}
    assert drawn["above: called fake"] == ("^", [1.0])
    assert drawn["below: called real"] == ("o", [0.0])
    assert drawn["no face cut out"] == ("x", [2.0])
    plots.plt.close()


def test_videos_of_the_same_name_get_different_pictures(verdicts, detector, tmp_path):
    twice = [verdicts["half.MP4"], verdicts["wall.mp4"], verdicts["half.MP4"]]
    predict.write(twice, detector.metadata, tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "half-2.png", "half.png", "scores.csv", "scores.json"]
    with pytest.raises(UserError, match="is a file"):
        predict.write(twice, detector.metadata, tmp_path / "out" / "half.png")


def test_the_viewer_shows_another_face_and_another_video(verdicts, detector, clips, tmp_path,
                                                        monkeypatch):
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path))
    built = widget.build(detector, verdicts["half.MP4"])
    (path, upload), message, body = built.children[0].children, *built.children[1:]
    slider, picture = body.children
    assert (slider.min, slider.max) == (0, 1)
    first, slider.value = picture.value, 1
    assert first[:4] == picture.value[:4] == b"\x89PNG"
    assert first != picture.value
    path.value = str(clips / "wall.mp4")
    assert message.value == "not scored: no frame of 4 could be used (no face)"
    assert body.children == ()
    content = memoryview((clips / "panned.mp4").read_bytes())
    upload.value = ({"name": "../p.mp4", "type": "video/mp4", "size": 1, "content": content,
                     "last_modified": datetime.now(UTC)},)
    assert message.value.startswith("called ")
    assert body.children[0].max == 3
    (tmp_path / "empty").mkdir()
    path.value = str(tmp_path / "empty")
    assert "holds no video" in message.value


def test_a_run_that_is_not_complete_or_has_no_threshold_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    card = json.loads((folder / "detector.json").read_text())
    del card["threshold"]
    (folder / "detector.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="was saved without threshold; run its chapter again"):
        predict.load(folder)
    (folder / "config.json").write_text('{"notebook": "03_lora_training"}')
    message = r"is interrupted \(started, but neither done nor failed\)"
    with pytest.raises(UserError, match=message):
        predict.load(folder)
    with pytest.raises(UserError, match="holds no detector"):
        predict.load(tmp_path)


def test_the_caveat_names_what_was_trained_on(finished):
    card = finished[1].detector.metadata
    assert predict.caveat(card).startswith(
        "Trained on FaceSwap and NeuralTextures of demo: other manipulations")
    drawn = card | {"trained_on": card["trained_on"] | {"demo": True}}
    assert ("whose people are drawn: of a recording of a real person its answer is no evidence"
            in predict.caveat(drawn))
