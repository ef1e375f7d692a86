"""Frames have their exact indices and times, and other files are rejected with a reason."""

import os

import av
import numpy as np
import pytest

from dfnb.data import video

BITS = 8


def bars(index, height=64, width=128):
    """Return a frame that encodes its number: eight bright or dark bars, lowest bit first."""
    bits = (index >> np.arange(BITS)) & 1
    row = np.repeat(40 + 160 * bits, width // BITS).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def numbered(count):
    return [bars(at) for at in range(count)]


def number(frame):
    """Return the number that a frame of `bars` encodes, also after compression."""
    bits = frame[16:-16, 8 :: frame.shape[1] // BITS].mean(axis=(0, 2)) > 120
    return int((bits << np.arange(BITS)).sum())


def write(path, images, *, pixel_format="yuv420p", pts=None, options=None):
    """Write RGB images (h, w, 3) to a small H.264 file."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "23", "threads": "1"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        for at, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = at if pts is None else pts[at]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Return a file of 60 numbered frames, some of them B-frames."""
    return write(tmp_path_factory.mktemp("video") / "counted.mp4", numbered(60))


def reason(path, count=4):
    with pytest.raises(video.Rejected) as error:
        video.read(path, count)
    return str(error.value)


@pytest.mark.parametrize("count", [1, 2, 7, 59, 60])
def test_frames_match_their_indices_and_times(counted, count):
    clip = video.read(counted, count)
    assert [number(frame) for frame in clip.frames] == clip.indices.tolist()
    assert clip.frames.shape == (count, 64, 128, 3) and clip.frames.dtype == np.uint8
    assert clip.total == 60
    np.testing.assert_allclose(clip.pts, clip.indices / 25)


def test_indices_are_evenly_spaced_over_the_whole_clip():
    assert video.evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert video.evenly_spaced(5, 1).tolist() == [2]
    assert video.evenly_spaced(3, 8).tolist() == [0, 1, 2]
    for total in range(1, 60):
        for count in range(2, total + 1):
            indices = video.evenly_spaced(total, count)
            assert len(indices) == count and indices[0] == 0 and indices[-1] == total - 1
            below, above = (total - 1) // (count - 1), -((1 - total) // (count - 1))
            assert set(np.diff(indices)) <= {below, above}


def test_a_file_that_is_cut_short_is_rejected(counted, tmp_path):
    front = write(tmp_path / "front.mp4", numbered(60), options={"movflags": "faststart"})
    whole = front.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert reason(tmp_path / "cut.mp4").startswith("truncated: ")
    whole = counted.read_bytes()  # here the header is at the end, so the cut takes it away
    (tmp_path / "headless.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert reason(tmp_path / "headless.mp4") == "no video stream"


@pytest.mark.parametrize(("content", "expected"), [
    (b"", "empty: the file has zero bytes"), (b"not a video at all\n" * 50, "unreadable: "),
    (b"\x1b[2J\x1b[31mart\n" * 50, "unreadable: "),  # some demuxer reads it as a picture
    (b"ffconcat version 1.0\nfile counted.mp4\n", "unreadable: "),  # and this as a list
    (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "unreadable: ")])
def test_a_file_without_a_video_is_rejected(counted, content, expected):
    path = counted.with_name("other.mp4")
    path.write_bytes(content)
    assert reason(path).startswith(expected)


def test_folders_pipes_and_devices_are_rejected(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    assert reason(tmp_path / "folder.mp4") == "not a file: a folder has this name"
    for name in ("pipe.mp4", "zero.mp4"):
        assert reason(tmp_path / name) == "not a file: a pipe, socket or device has this name"


def test_the_rejection_of_a_missing_file_may_pass(tmp_path):
    with pytest.raises(video.Rejected, match="unreadable: No such file") as error:
        video.read(tmp_path / "nowhere.mp4", 4)
    assert error.value.passing


def test_a_file_with_sound_only_is_rejected(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert reason(tmp_path / "sound.mp4") == "no video stream"


def test_uneven_times_are_kept_with_exact_indices(tmp_path):
    pts = [0, 1, 2, 10, 11, 30, 31, 60]
    path = write(tmp_path / "uneven.mp4", numbered(8), pts=pts)
    clip = video.read(path, 8)
    assert [number(frame) for frame in clip.frames] == list(range(8))
    np.testing.assert_allclose(clip.pts, np.array(pts) / 25, atol=1e-3)


def test_a_stream_without_a_frame_count_is_counted(tmp_path):
    path = write(tmp_path / "bare.h264", numbered(20))
    clip = video.read(path.rename(tmp_path / "bare.mp4"), 5)
    assert clip.total == 20
    expected = video.evenly_spaced(20, 5).tolist()
    assert [number(frame) for frame in clip.frames] == clip.indices.tolist() == expected


def test_a_clip_that_changes_its_size_is_rejected(tmp_path):
    wide = write(tmp_path / "wide.h264", numbered(4))
    narrow = write(tmp_path / "narrow.h264", [bars(at, 64, 64) for at in range(4)])
    (tmp_path / "both.mp4").write_bytes(wide.read_bytes() + narrow.read_bytes())
    assert reason(tmp_path / "both.mp4", count=8).startswith("changing size: ")


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path):
    """A cut without re-encoding leaves the frames before it in the file and hides them."""
    whole = write(tmp_path / "whole.mp4", numbered(60))
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        step = int(1 / 25 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 10 * step, packet.dts - 10 * step
                packet.stream = stream
                target.mux(packet)
    clip = video.read(tmp_path / "cut.mp4", 5)
    assert clip.total == 50
    assert [number(frame) for frame in clip.frames] == [10, 22, 34, 47, 59]
