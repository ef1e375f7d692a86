"""Crops are built once, verified, and made again where they are missing or damaged."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from test_video import bars, number, write

from dfnb import DataError
from dfnb.data import corpora, crop_cache, crops, faces

CALLS = []
COLUMNS = ["corpus", "manipulation", "video", "label", "target", "source", "path", "group"]


def steady():
    """Return a detector that sees a face of 40 pixels in every frame that is not black."""
    def detect(grey):
        CALLS.append("searched")
        return [((44, 12, 84, 52), 0.9)] if grey.mean() > 20 else []

    return detect


def table(folder, names, manipulation="real", label=0):
    rows = [["demo", manipulation, name, label, name, None, str(folder / f"{name}.mp4"), 7]
            for name in names]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def videos(tmp_path):
    """Write three clips of 12 numbered frames; frame 0 is black, so it has no face."""
    names = ["000", "001", "002"]
    for at, name in enumerate(names):
        shown = [bars(16 * at + frame) for frame in range(1, 12)]
        write(tmp_path / f"{name}.mp4", [np.zeros_like(shown[0]), *shown])
    return table(tmp_path, names)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return `crops.build` in this process, with its own cache and the detector above."""
    CALLS.clear()
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(faces, "detector", steady)

    def call(videos, **options):
        return crops.build(videos, **{"frames": 4, "size": 32, "workers": 1} | options)

    return call


@pytest.fixture
def view(videos, build):
    return build(videos)


def files(tmp_path, pattern="*"):
    return sorted(path for path in (tmp_path / "cache").rglob(pattern) if path.is_file())


def test_kept_frames_have_a_row_and_lost_frames_a_reason(view):
    assert len(view) == len(view.frames) == 9 and view.size == 32
    assert view.frames.index.equals(pd.RangeIndex(9))
    assert view.frames.frame.tolist() == [4, 7, 11] * 3
    assert view.frames.row.tolist() == [0, 1, 2] * 3
    np.testing.assert_allclose(view.frames.pts, view.frames.frame / 25)
    assert set(view.frames.status) == {"kept"} and set(view.frames.group) == {7}
    lost = view.all_frames[view.all_frames.status != "kept"]
    assert lost[["video", "frame", "status", "row"]].values.tolist() == [
        [name, 0, "no face", -1] for name in ["000", "001", "002"]]
    assert view.all_frames.faces.tolist() == [0, 1, 1, 1] * 3
    assert "path" not in view.frames


def test_the_crops_are_the_frames_the_table_names(videos, build):
    view = build(videos, margin=3.2, size=128)  # 40 pixels x 3.2: the whole width of a frame
    shown = [number(image[32:96]) for image in view.images()]
    assert shown == [16 * at + frame for at in range(3) for frame in [4, 7, 11]]


def test_images_come_in_the_order_of_the_rows(view):
    whole = view.images()
    for rows in ([8, 0, 4, 0], slice(2, 7), np.arange(9) % 2 == 0, [], [3]):
        np.testing.assert_array_equal(view.images(rows), whole[rows])
    before = len(os.listdir("/proc/self/fd"))
    kept = [view.images([at]) for at in range(9)]
    assert len(os.listdir("/proc/self/fd")) == before and len(kept) == 9  # no file stays open


def test_a_selection_of_a_selection_keeps_rows_and_root(view):
    split = view.select((view.frames.video != "001").to_numpy()).select([5, 1])
    assert split.positions.tolist() == [8, 1] and split.root is view
    np.testing.assert_array_equal(split.images(), view.images([8, 1]))
    assert split.frames.video.tolist() == ["002", "000"]
    assert split.frames.index.equals(pd.RangeIndex(2))
    nothing = view.select([])
    assert len(nothing) == 0 and nothing.root is view and nothing.images().shape == (0, 32, 32, 3)


def test_the_second_call_makes_and_writes_nothing(videos, view, build, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    monkeypatch.setattr(crop_cache, "make", lambda job: pytest.fail("made again"))
    second = build(videos)
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == before
    pd.testing.assert_frame_equal(view.all_frames, second.all_frames)
    assert view.fingerprint == second.fingerprint


def test_another_margin_or_size_does_not_search_again(videos, view, build):
    second = build(videos, margin=1.0, size=16)
    assert len(CALLS) == 12 + 3  # a frame without a face is searched at two levels
    assert second.images().shape == (9, 16, 16, 3)
    assert view.fingerprint != second.fingerprint
    assert view.frames.drop(columns="row").equals(second.frames.drop(columns="row"))


def test_a_call_after_an_interrupt_makes_only_what_is_missing(videos, build, monkeypatch, tmp_path):
    real, done = crop_cache.make, []

    def interrupted(job):
        if done:
            raise KeyboardInterrupt
        done.append(job.name)
        return real(job)

    monkeypatch.setattr(crop_cache, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(videos)
    assert len(files(tmp_path)) == 3  # boxes, array, record of the first video
    monkeypatch.setattr(crop_cache, "make", lambda job: done.append(job.name) or real(job))
    build(videos)
    assert [name[2] for name in done] == ["000", "001", "002"]


def test_an_interrupt_while_writing_leaves_no_half_file(videos, build, monkeypatch, tmp_path):
    def interrupted(file, array):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(videos)
    assert files(tmp_path, "*.npy") == [] and len(files(tmp_path)) == 1  # the boxes


@pytest.mark.parametrize(("name", "damage"), [
    ("*.npy", None), ("*.npy", lambda content: b"short"),
    ("*.npy", lambda content: content[:-1] + b"?"), ("crops/*.json", None),
    ("crops/*.json", lambda content: b"{"), ("crops/*.json", lambda content: b"[]"),
    ("faces/*.json", lambda content: b"{")])
def test_missing_and_damaged_files_are_made_again(videos, view, build, tmp_path, name, damage):
    images = view.images()
    for path in files(tmp_path, name):
        path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    if name == "faces/*.json":  # the boxes are read only where crops are missing
        files(tmp_path, "crops/*.json")[0].unlink()
    second = build(videos)
    assert view.fingerprint == second.fingerprint
    np.testing.assert_array_equal(second.images(), images)


def test_damaged_crops_whose_video_is_gone_are_an_error(videos, view, tmp_path):
    files(tmp_path, "*.npy")[0].unlink()
    for path in videos.path:
        os.unlink(path)
    with pytest.raises(DataError, match="are damaged"):
        view.images()


def test_a_changed_video_is_cropped_again(videos, view, build, tmp_path):
    write(tmp_path / "001.mp4", [bars(200 + at) for at in range(12)])
    after = build(videos)
    assert after.fingerprint != view.fingerprint
    assert after.frames.video.value_counts()["001"] == 4


def test_the_fingerprint_depends_on_content_and_order_only(
        videos, view, build, tmp_path, monkeypatch):
    for path in videos.path:
        os.utime(path, (1, 1))
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "elsewhere"))
    elsewhere = build(videos)
    assert view.fingerprint == elsewhere.fingerprint
    assert view.select([0, 1]).fingerprint == elsewhere.select([0, 1]).fingerprint
    assert len({view.select(rows).fingerprint for rows in ([0, 1], [1, 0], [0], [0, 4])}) == 4


def test_a_broken_video_gives_one_row_with_its_reason(videos, build, tmp_path):
    (tmp_path / "001.mp4").write_text("no video")
    (tmp_path / "002.mp4").unlink()
    view = build(videos, most_lost=0.9)
    lost = view.all_frames.set_index("video").loc[["001", "002"]]
    assert lost.frame.tolist() == [-1, -1] and lost.row.tolist() == [-1, -1]
    assert lost.status.str.startswith("unreadable: ").all()
    assert view.losses().values.tolist() == [
        ["real", "no face", 1, 1, pytest.approx(1 / 12)],
        ["real", "kept", 1, 3, pytest.approx(3 / 12)],
        ["real", "unreadable", 2, 8, pytest.approx(8 / 12)]]


def test_the_loss_of_a_vanished_video_is_not_stored(videos, build, tmp_path):
    content = (tmp_path / "001.mp4").read_bytes()
    (tmp_path / "001.mp4").unlink()
    assert "001" not in set(build(videos).frames.video)
    (tmp_path / "001.mp4").write_bytes(content)
    assert "001" in set(build(videos).frames.video)


def test_too_many_lost_frames_of_a_manipulation_are_an_error(videos, build, tmp_path, monkeypatch):
    fakes = table(tmp_path, ["003", "004"], manipulation="FaceSwap", label=1)
    for name in fakes.video:
        (tmp_path / f"{name}.mp4").write_text("no video")
    message = r"100% of the frames of FaceSwap .* unreadable \(2 videos\)"
    with pytest.raises(DataError, match=message):
        build(pd.concat([videos, fakes]))
    monkeypatch.setattr(faces, "detector", lambda: lambda grey: [])
    with pytest.raises(DataError, match="real .* no face"):
        build(videos, frames=5)


def test_records_hold_plain_json_and_names_are_hashes(videos, build, tmp_path):
    build(videos.assign(video=["../../000", "/etc/001", "002"]))
    assert all(path.stem.isalnum() and len(path.stem) == 32 for path in files(tmp_path))
    assert all(isinstance(json.loads(path.read_text()), dict) for path in files(tmp_path, "*.json"))


def test_a_view_of_arrays_has_labels_selections_and_a_fingerprint():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    view = crops.CropView.of_arrays(images, pd.DataFrame({"label": [0, 1, 1, 0]}))
    assert len(view) == 4 and view.size == 8 and view.labels.tolist() == [0, 1, 1, 0]
    split = view.select(view.labels == 1)
    np.testing.assert_array_equal(split.images(), images[1:3])
    assert split.fingerprint == view.select([1, 2]).fingerprint != view.fingerprint
    with pytest.raises(ValueError, match="must be uint8"):
        crops.CropView.of_arrays(images.astype(float), view.frames)


def test_the_demo_corpus_is_cropped_with_dlib_by_any_number_of_workers(
        corpus, tmp_path, monkeypatch):
    manipulations = sorted(path.name for path in (corpus / "manipulated_sequences").iterdir())
    videos = corpora.index(corpus, manipulations=manipulations)
    views = []
    for workers in (1, 2):
        monkeypatch.setenv("DFNB_CACHE", str(tmp_path / str(workers)))
        views.append(crops.build(videos, frames=3, size=64, workers=workers))
    losses = views[0].losses()
    assert losses[losses.status == faces.KEPT].share.min() >= 0.9
    assert set(views[0].labels) == {0, 1}
    assert views[0].images().std(axis=(1, 2, 3)).min() > 5  # no crop is blank
    assert views[0].fingerprint == views[1].fingerprint
    pd.testing.assert_frame_equal(views[0].all_frames, views[1].all_frames)
