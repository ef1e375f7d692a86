import json
import os

import numpy as np
import pandas as pd
import pytest
from test_video import bars, number, write

from dfnb import UserError
from dfnb.data import crop_cache, crops, faces

CALLS = []
COLUMNS = ["corpus", "manipulation", "video", "label", "target", "source", "path", "group"]


def steady():
    """A detector double: a face of 40 pixels in every frame that is not black."""
    return lambda grey: CALLS.append("searched") or ([((44, 12, 84, 52), 0.9)] if grey.mean() > 20 else [])


def absent():
    """A detector double that never finds a face."""
    return lambda grey: []


def table(folder, names, manipulation="real", label=0):
    rows = [["demo", manipulation, name, label, name, None, str(folder / f"{name}.mp4"), 7] for name in names]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def videos(tmp_path):
    """Three clips of 12 frames that say their numbers; frame 0 is black, so it has no face."""
    for at, name in enumerate(["000", "001", "002"]):
        write(tmp_path / f"{name}.mp4", [bars(0) * 0, *[bars(16 * at + frame) for frame in range(1, 12)]])
    return table(tmp_path, ["000", "001", "002"])


@pytest.fixture
def build(tmp_path):
    """`crops.build` in this process, on a cache of its own, with the double."""
    CALLS.clear()

    def call(videos, **options):
        settings = {"frames": 4, "size": 32, "cache": tmp_path / "cache", "workers": 1, "detector": steady}
        return crops.build(videos, **settings | options)

    return call


def files(tmp_path, pattern="*"):
    return sorted(path for path in (tmp_path / "cache").rglob(pattern) if path.is_file())


def test_one_row_a_kept_frame_and_a_reason_for_every_other(videos, build):
    view = build(videos)
    assert len(view) == len(view.frames) == 9 and view.size == 32
    assert view.frames.index.equals(pd.RangeIndex(9))
    assert view.frames.frame.tolist() == [4, 7, 11] * 3 and view.frames.row.tolist() == [0, 1, 2] * 3
    np.testing.assert_allclose(view.frames.pts, view.frames.frame / 25)
    assert set(view.frames.status) == {"kept"} and set(view.frames.group) == {7}
    lost = view.all_frames[view.all_frames.status != "kept"]
    assert lost[["video", "frame", "status", "row"]].values.tolist() == [
        [name, 0, "no face", -1] for name in ["000", "001", "002"]
    ]
    assert "path" not in view.frames


def test_the_crops_are_the_frames_the_table_names(videos, build):
    view = build(videos, margin=3.2, size=128)  # 40 pixels x 3.2: the whole width of a frame
    shown = [number(image[32:96]) for image in view.images()]
    assert shown == [16 * at + frame for at in range(3) for frame in [4, 7, 11]]


def test_rows_come_in_the_order_asked_for(videos, build):
    view = build(videos)
    whole = view.images()
    for rows in ([8, 0, 4, 0], slice(2, 7), np.arange(9) % 2 == 0, [], [3]):
        np.testing.assert_array_equal(view.images(rows), whole[rows])


def test_a_selection_of_a_selection_keeps_rows_and_root(videos, build):
    view = build(videos)
    split = view.select((view.frames.video != "001").to_numpy()).select([5, 1])
    assert split.positions.tolist() == [8, 1] and split.root is view
    np.testing.assert_array_equal(split.images(), view.images([8, 1]))
    assert split.frames.video.tolist() == ["002", "000"] and split.frames.index.equals(pd.RangeIndex(2))
    nothing = view.select([])
    assert len(nothing) == 0 and nothing.root is view and nothing.images().shape == (0, 32, 32, 3)


def test_the_second_call_reads_and_writes_nothing_new(videos, build, tmp_path, monkeypatch):
    first, before = build(videos), {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    monkeypatch.setattr(crop_cache, "make", lambda job: pytest.fail("made again"))
    second = build(videos)
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == before
    pd.testing.assert_frame_equal(first.all_frames, second.all_frames)
    assert first.fingerprint == second.fingerprint


def test_another_margin_or_size_does_not_search_again(videos, build):
    first = build(videos)
    searched = len(CALLS)
    second = build(videos, margin=1.0, size=16)
    assert searched == len(CALLS) == 12 + 3  # where no face is, two levels are searched
    assert second.images().shape == (9, 16, 16, 3)
    assert first.fingerprint != second.fingerprint
    assert first.frames.drop(columns="row").equals(second.frames.drop(columns="row"))


def test_an_interrupted_call_goes_on_where_it_stopped(videos, build, monkeypatch, tmp_path):
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


def test_an_interrupt_while_writing_leaves_nothing_half_written(videos, build, monkeypatch, tmp_path):
    def interrupted(file, array):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(videos)
    assert files(tmp_path, "*.npy") == [] and len(files(tmp_path)) == 1  # the boxes


@pytest.mark.parametrize("damage", ["no array", "short array", "no record", "half a record", "not a record"])
def test_a_missing_or_damaged_entry_is_made_again(videos, build, tmp_path, damage):
    first = build(videos)
    array = files(tmp_path, "*.npy")[1]
    record = array.with_suffix(".json")
    if damage == "no array":
        array.unlink()
    elif damage == "short array":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text(record.read_text()[:50] if damage == "half a record" else "[]")
    second = build(videos)
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(second.images(), first.images())


def test_a_changed_byte_is_noticed_when_the_array_is_first_read(videos, build, tmp_path):
    expected = build(videos).images()
    array = files(tmp_path, "*.npy")[0]
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    np.testing.assert_array_equal(build(videos).images(), expected)


def test_damaged_crops_whose_video_is_gone_are_an_error(videos, build, tmp_path):
    view = build(videos)
    files(tmp_path, "*.npy")[0].unlink()
    for path in videos.path:
        os.unlink(path)
    with pytest.raises(UserError, match="are damaged"):
        view.images()


def test_damaged_boxes_and_records_are_made_again(videos, build, tmp_path):
    expected = build(videos).fingerprint
    for path in files(tmp_path, "*.json"):
        path.write_text("{")
    assert build(videos).fingerprint == expected


def test_a_changed_video_is_cropped_again(videos, build, tmp_path):
    before = build(videos)
    write(tmp_path / "001.mp4", [bars(200 + at) for at in range(12)])
    after = build(videos)
    assert after.fingerprint != before.fingerprint
    assert after.frames.video.value_counts()["001"] == 4


def test_the_fingerprint_depends_on_content_and_order_not_on_place_or_time(videos, build, tmp_path):
    view = build(videos)
    for path in videos.path:
        os.utime(path, (1, 1))
    elsewhere = build(videos, cache=tmp_path / "elsewhere")
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
        ["real", "unreadable", 2, 8, pytest.approx(8 / 12)],
    ]


def test_a_vanished_video_is_not_remembered_as_lost(videos, build, tmp_path):
    content = (tmp_path / "001.mp4").read_bytes()
    (tmp_path / "001.mp4").unlink()
    assert "001" not in set(build(videos).frames.video)
    (tmp_path / "001.mp4").write_bytes(content)
    assert "001" in set(build(videos).frames.video)


def test_too_many_lost_frames_of_a_class_are_an_error_that_names_the_reason(videos, build, tmp_path):
    fakes = table(tmp_path, ["003", "004"], manipulation="FaceSwap", label=1)
    for path in fakes.path:
        with open(path, "w") as file:
            file.write("no video")
    with pytest.raises(UserError, match=r"100% of the frames of FaceSwap .* unreadable \(2 videos\)"):
        build(pd.concat([videos, fakes]))
    with pytest.raises(UserError, match="real .* no face"):
        build(videos, detector=absent)


def test_records_hold_plain_json_and_names_are_hashes(videos, build, tmp_path):
    build(videos.assign(video=["../../000", "/etc/001", "002"]))
    assert all(path.stem.isalnum() and len(path.stem) == 32 for path in files(tmp_path))
    assert all(isinstance(json.loads(path.read_text()), dict) for path in files(tmp_path, "*.json"))


def test_no_file_stays_open(videos, build):
    view = build(videos)
    before = len(os.listdir("/proc/self/fd"))
    kept = [view.images([at]) for at in range(9)]
    assert len(os.listdir("/proc/self/fd")) == before and len(kept) == 9


def test_worker_processes_give_the_same_crops(videos, build, tmp_path):
    one = build(videos)
    two = build(videos, workers=2, cache=tmp_path / "elsewhere")
    assert one.fingerprint == two.fingerprint
    pd.testing.assert_frame_equal(one.all_frames, two.all_frames)


def test_a_view_of_arrays_behaves_like_one_of_files():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    view = crops.CropView.of_arrays(images, pd.DataFrame({"label": [0, 1, 1, 0]}))
    assert len(view) == 4 and view.size == 8 and view.labels.tolist() == [0, 1, 1, 0]
    split = view.select(view.labels == 1)
    np.testing.assert_array_equal(split.images(), images[1:3])
    assert split.fingerprint == view.select([1, 2]).fingerprint != view.fingerprint
    with pytest.raises(ValueError, match="must be uint8"):
        crops.CropView.of_arrays(images.astype(float), view.frames)


def test_the_demo_corpus_is_cropped_with_dlib(corpus, tmp_path):
    from dfnb.data import corpora

    manipulations = sorted(path.name for path in (corpus / "manipulated_sequences").iterdir())
    videos = corpora.index(corpus, manipulations=manipulations)
    view = crops.build(videos, frames=3, size=64, cache=tmp_path, workers=1)
    losses = view.losses()
    assert losses[losses.status == faces.KEPT].share.min() >= 0.9
    assert set(view.labels) == {0, 1}
    assert view.images().std(axis=(1, 2, 3)).min() > 5  # no crop is blank
