"""Files that are broken or mean harm: each is handled or rejected with its reason, and the study goes on."""

import os
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from itertools import pairwise

import av
import numpy as np
import pytest
from test_crops import steady, table
from test_video import bars, number, reason, write

from dfnb import UserError
from dfnb.data import corpora, crop_cache, crops, decoder, faces, video

DOUBLE = """
import os, signal, time
import av
from dfnb.data import decoder as decoding

real, spoilt = decoding._clip, []

def clip(path, *rest):
    kind = os.path.basename(path).split(".")[0]
    if spoilt or kind == "crash":
        os.abort()
    if kind == "sleep":
        time.sleep(60)
    while kind == "spin":
        pass
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "leave":
        os._exit(3)
    if kind == "bloat":
        bytearray(1 << 40)
    if kind == "denied":
        raise PermissionError(13, "Permission denied")
    if kind == "pipe":
        av.open(path)  # as if the check of the file's kind had come too early
    if kind == "spoil":
        spoilt.append(path)
    return real(path, *rest)

decoding._clip = clip
decoding.main()
"""


@pytest.fixture
def double(tmp_path, monkeypatch):
    """A decoder that does what the name of the file says, and else decodes."""
    (tmp_path / "double.py").write_text(DOUBLE)
    monkeypatch.setattr(video, "PROGRAM", ["-P", str(tmp_path / "double.py")])
    monkeypatch.setattr(video, "GRACE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(video, "_current", None)
        yield
        if video._current:
            video._current.stop()


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "good.mp4", [bars(at) for at in range(12)])


def why(path, **limits):
    with pytest.raises(video.Rejected) as error:
        video.read(path, 4, limits=video.Limits(**limits))
    return str(error.value)


# ------------------------------------------------------------------- a decoder that hangs, dies or bloats
@pytest.mark.parametrize(("kind", "said"), [
    ("sleep", "timed out: decoding took more than 1 s"),
    ("spin", "timed out: decoding took more than 1 s"),
    ("stop", "timed out: decoding took more than 1 s"),
    ("crash", "crashed: the decoder was killed by SIGABRT"),
    ("leave", "crashed: the decoder ended with exit code 3"),
    ("bloat", "out of memory: decoding needs more than 4.3 GB"),
    ("denied", "unreadable: Permission denied"),
])
def test_a_decoder_that_does_not_end_well_costs_its_own_file_only(double, good, tmp_path, kind, said):
    (tmp_path / f"{kind}.mp4").write_bytes(good.read_bytes())
    assert why(tmp_path / f"{kind}.mp4", timeout=1) == said
    assert video.read(good, 4).total == 12


def test_opening_a_pipe_that_nobody_writes_to_ends_with_the_alarm(double, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert why(tmp_path / "pipe.mp4", timeout=1) == "timed out: decoding took more than 1 s"


def test_a_decoder_spoilt_by_the_file_before_is_replaced_and_the_file_is_read(double, good, tmp_path):
    (tmp_path / "spoil.mp4").write_bytes(good.read_bytes())
    assert video.read(tmp_path / "spoil.mp4", 4).total == 12
    assert video.read(good, 4).total == 12


def test_one_decoder_serves_many_files_and_an_interrupt_ends_it(double, good, monkeypatch):
    video.read(good, 4)
    first = video._current
    video.read(good, 4)
    assert video._current is first
    with monkeypatch.context() as patch:
        patch.setattr(video, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            video.read(good, 4)
    assert first.process.poll() is not None
    assert video.read(good, 1).indices.tolist() == [5]  # not the answer to the question before


def test_a_decoder_that_cannot_start_is_a_sentence_not_three_hundred_lost_videos(double, good, monkeypatch):
    monkeypatch.setattr(video, "PROGRAM", ["-c", "raise SystemExit(7)"])
    with pytest.raises(UserError, match=r"does not start \(exit code 7\)"):
        video.read(good, 4)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_a_decoder_ends_with_its_parent(good, end):
    code = f"import os\nfrom dfnb.data import video\nvideo.read({str(good)!r}, 4)\nprint(video._current.process.pid, flush=True)"
    pid = int(subprocess.run([sys.executable, "-c", f"{code}\n{end}"], capture_output=True, text=True).stdout)
    for _ in range(400):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


# ------------------------------------------------------------------- claims beyond the limits
def test_what_exceeds_a_limit_is_rejected_with_both_numbers(good):
    assert why(good, pixels=8000) == "too large: 128 x 64 pixels, at most 8000 are decoded"
    assert why(good, frames=11) == "too long: more than 11 frames"
    assert why(write(good.with_name("slow.mp4"), [bars(0)] * 2, pts=[0, 90]), seconds=2).startswith("too long: 4 s, at")
    with pytest.raises(video.Rejected, match="too large: 200 frames of 4000 x 3000 pixels need more than 4.3 GB"):
        decoder._check_size(4000, 3000, video.Limits(), count=200)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        video.read(good, 0)
    with pytest.raises(UserError, match="the limit frames of a video must be positive, got 0"):
        video.Limits(frames=0)


def test_a_bare_stream_is_not_counted_beyond_the_limit(tmp_path):
    path = write(tmp_path / "bare.h264", [bars(at) for at in range(20)]).rename(tmp_path / "bare.mp4")
    assert why(path, frames=19) == "too long: more than 19 frames"


def test_a_header_of_100000_by_100000_pixels_costs_nothing(tmp_path):
    """PNG as a codec: its header has room for such a size, other than those of mp4 and H.264."""
    path = tmp_path / "png.mp4"
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=25, width=64, height=48, pix_fmt="rgb24")
        for at in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(at, 48, 64), format="rgb24")))
        container.mux(stream.encode())
    assert video.read(path, 3).frames.shape == (3, 48, 64, 3)
    content = path.read_bytes()
    for size in (100_000, 5000):  # beyond any limit, and beyond ours
        huge = b"IHDR" + struct.pack(">II", size, size) + b"\x08\x02\x00\x00\x00"
        at = content.index(b"IHDR")
        head = huge + struct.pack(">I", zlib.crc32(huge))
        path.write_bytes(content.replace(content[at : at + 21], head))
        assert reason(path).partition(":")[0] in ("unreadable", "too large", "out of memory")
        assert video._current.process.poll() is None


def test_a_header_of_65535_by_65535_pixels_is_not_believed(good):
    at = good.read_bytes().index(b"avc1", good.read_bytes().index(b"stsd")) + 28
    content = bytearray(good.read_bytes())
    content[at : at + 4] = b"\xff" * 4
    good.write_bytes(content)
    found = Counter()
    try:
        found[video.read(good, 4).frames.shape] += 1
    except video.Rejected as rejected:
        found[str(rejected).partition(":")[0]] += 1
    assert set(found) <= {(4, 64, 128, 3), "too large", "unreadable"}  # H.264 states its size again


# ------------------------------------------------------------------- unusual, but videos
def test_ten_bits_and_one_frame_and_odd_names_are_read(tmp_path):
    ten = write(tmp_path / "ten.mp4", [bars(at) for at in range(5)], pixel_format="yuv420p10le")
    assert [number(frame) for frame in video.read(ten, 5).frames] == list(range(5))
    one = video.read(write(tmp_path / "one.mp4", [bars(9)]), 8)
    assert (one.total, one.indices.tolist(), number(one.frames[0])) == (1, [0], 9)
    for name in ("<script>alert(1)<", "{eval}`x`", "a\nb", "-y", "$\\frac", "\udcff"):
        path = os.path.join(tmp_path, f"{name}.mp4")
        os.link(ten, path)
        assert video.read(path, 1).total == 5


@pytest.mark.parametrize(("matrix", "turned"), [
    ((1, 0, 0, 1), lambda image: image),
    ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright: a quarter turn clockwise
    ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    ((-1, 0, 0, 1), lambda image: image[:, ::-1]),  # a mirrored selfie
    ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
])
def test_frames_are_turned_upright(tmp_path, matrix, turned):
    image = np.zeros((64, 128, 3), np.uint8)
    image[:32, :32] = 200
    image[32:, 96:] = 90  # no symmetry
    path = write(tmp_path / "turned.mp4", [image] * 3)
    plain = video.read(path, 2).frames
    content, (a, b, c, d) = bytearray(path.read_bytes()), matrix
    at = content.index(b"tkhd") + 44
    one = 1 << 16
    content[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    found = video.read(path, 2).frames
    np.testing.assert_array_equal(found, np.stack([turned(frame) for frame in plain]))


def test_a_pipe_and_a_device_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "x.mp4")
    os.symlink("/dev/zero", tmp_path / "zero.mp4")
    for name in ("x.mp4", "zero.mp4"):
        assert reason(tmp_path / name) == "not a file: a pipe, socket or device has this name"


def test_text_that_some_demuxer_would_take_for_a_picture_or_a_list_is_rejected(tmp_path, good):
    (tmp_path / "ansi.mp4").write_text("\x1b[2J\x1b[31mart\n" * 50)
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {good.name}\n")
    for name in ("ansi.mp4", "concat.mp4"):
        assert reason(tmp_path / name).startswith("unreadable: ")


# ------------------------------------------------------------------- the study goes on
@pytest.fixture
def mixed(tmp_path, good):
    """Ten clips of one class, three of them sound."""
    names = ["000", "001", "002", "crash", "sleep", "text", "zero", "folder", "pipe", "gone"]
    for name in names[:5]:
        (tmp_path / f"{name}.mp4").write_bytes(good.read_bytes())
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    return table(tmp_path, names)


def test_every_broken_video_is_counted_with_its_reason_and_the_others_are_cropped(double, mixed, tmp_path):
    options = {"frames": 4, "size": 32, "workers": 1, "detector": steady, "cache": tmp_path / "cache"}
    limits = {"timeout": 3}  # more than a sound clip takes on a busy machine
    view = crops.build(mixed.query("video != 'pipe'"), **options, limits=limits, most_lost=0.9)
    assert view.frames.video.value_counts().to_dict() == {"000": 4, "001": 4, "002": 4}
    counts = view.losses().set_index("status").videos.to_dict()
    assert counts == {"kept": 3, "crashed": 1, "timed out": 1, "unreadable": 2, "empty": 1, "not a file": 1}
    with pytest.raises(UserError, match=r"67% of the frames of real are lost, more than the 50% allowed"):
        crops.build(mixed.query("video != 'pipe'"), **options, limits=limits)


def test_what_a_limit_rejected_is_judged_anew_under_another(good, tmp_path, monkeypatch):
    videos = table(tmp_path, ["good"])
    options = {"frames": 4, "size": 32, "workers": 1, "detector": steady, "cache": tmp_path / "cache"}
    with pytest.raises(UserError, match=r"too long \(1 videos\)"):
        crops.build(videos, **options, limits={"frames": 5})
    assert len(crops.build(videos, **options)) == 4
    monkeypatch.setattr(crop_cache, "make", lambda job: pytest.fail("made again"))
    assert len(crops.build(videos, **options, limits={"frames": 99})) == 4  # what was kept stays


def test_a_video_that_vanishes_after_decoding_is_lost_for_the_moment_only(good, tmp_path, monkeypatch):
    read = video.read
    monkeypatch.setattr(video, "read", lambda path, *rest, **limits: (read(path, *rest, **limits), os.unlink(path))[0])
    view = crops.build(table(tmp_path, ["good"]), frames=4, size=32, workers=1, detector=steady, most_lost=1.0,
                       cache=tmp_path / "cache")
    assert view.all_frames.status.tolist() == ["unreadable: No such file or directory"]
    assert list((tmp_path / "cache").rglob("*.json")) == []


def several():
    """A detector double: none, one or two faces, and one that leaves, by the number that the frame says."""
    stays, other = ((4, 10, 44, 50), 0.9), ((90, 30, 114, 54), 0.9)

    def detect(grey):
        at = number(np.stack([grey] * 3, axis=-1))
        return [[], [stays], [stays, other], [((-32, 10, 12, 50), 0.9)], [other]][at]

    return detect


def test_no_face_several_faces_and_a_leaving_face_are_told_frame_by_frame(tmp_path):
    write(tmp_path / "000.mp4", [bars(at) for at in (1, 2, 0, 1, 4, 1, 2, 3)], pts=range(0, 200, 25))
    view = crops.build(table(tmp_path, ["000"]), frames=8, size=32, workers=1, detector=several, cache=tmp_path / "cache")
    told = view.all_frames
    assert told.faces.tolist() == [1, 2, 0, 1, 1, 1, 2, 1]
    assert told.status.tolist() == [
        "kept", "kept", faces.NO_FACE, "kept", faces.OTHER_FACE, "kept", "kept", faces.LEAVES]
    assert set(view.losses().status) == {"kept", faces.NO_FACE, faces.OTHER_FACE, faces.LEAVES}


def test_dlib_bears_frames_of_any_shape():
    detect = faces.detector()
    for shape in ((1, 1), (2, 300), (300, 2), (7, 9)):
        assert faces.find(np.zeros((*shape, 3), np.uint8), detect) == []


def test_links_to_videos_are_videos_and_a_name_that_is_no_text_is_a_sentence(tmp_path, good):
    place = tmp_path / "corpus" / "original_sequences" / "youtube" / "c23" / "videos"
    place.mkdir(parents=True)
    (place / "000.mp4").symlink_to(good)
    (place / "001.mp4").symlink_to(tmp_path / "nowhere")
    videos = corpora.index(tmp_path / "corpus", manipulations=[])
    assert [reason(path) if name == "001" else video.read(path, 2).total
            for name, path in zip(videos.video, videos.path, strict=True)] == [12, "unreadable: No such file or directory"]
    os.link(good, os.path.join(place, "\udcff.mp4"))
    with pytest.raises(UserError, match="is no text; rename"):
        corpora.index(tmp_path / "corpus", manipulations=[])


# ------------------------------------------------------------------- fuzzing
def mutants(originals: list[bytes], count: int, seed: int):
    """Files with flipped bytes, cut, spliced, with sections repeated, zeroed or with boxes of another size."""
    generator = np.random.default_rng(seed)
    for at in range(count):
        data = bytearray(originals[at % len(originals)])
        size, other = len(data), originals[generator.integers(len(originals))]
        a, b = sorted(generator.integers(0, size, 2).tolist())
        kind = at % 7
        if kind == 0:
            for place in generator.integers(0, size, generator.integers(1, 30)):
                data[place] = generator.integers(256)
        elif kind == 1:
            del data[a:]
        elif kind == 2:
            data = data[:a] + other[min(b, len(other)) :]
        elif kind == 3:
            data[b:b] = data[a:b]
        elif kind == 4:
            data[a:b] = bytes(b - a)
        else:  # a header: one of the boxes that say how many, how large and where; its size or its content
            names = [name for name in (b"stsz", b"stco", b"stts", b"stsc", b"tkhd", b"mvhd", b"mdhd", b"avcC", b"stsd",
                                       b"trak", b"moov", b"elst", b"ctts") if name in data]
            box = data.index(names[generator.integers(len(names))])
            place = box - 4 if kind == 5 else box + 4 + int(generator.integers(0, 40))
            value = [0, 1, 2**16, 2**31 - 1, 2**32 - 1, int(generator.integers(2**32))][generator.integers(6)]
            data[place : place + 4] = struct.pack(">I", value)
        yield bytes(data)


def outcomes(folder, originals, count, seed) -> Counter:
    """Kinds of outcome; anything but a clip or a rejection is raised."""
    found, limits = Counter(), video.Limits(timeout=5)
    for at, data in enumerate(mutants(originals, count, seed)):
        path = folder / f"{at}.mp4"
        path.write_bytes(data)
        try:
            clip = video.read(path, 4, threads=1, limits=limits)
            assert clip.frames.dtype == np.uint8 and 1 <= len(clip.frames) == len(clip.indices) == len(clip.pts) <= 4
            assert all(before < after for before, after in pairwise(clip.indices)) and clip.indices[-1] < clip.total
            found["kept"] += 1
        except video.Rejected as rejected:
            found[str(rejected).partition(":")[0]] += 1
        path.unlink()
    return found


@pytest.fixture
def originals(tmp_path, good):
    front = write(tmp_path / "front.mp4", [bars(at) for at in range(8)], options={"movflags": "faststart"})
    split_table = write(tmp_path / "splits.mp4", [bars(at, 48, 80) for at in range(8)], pixel_format="yuv444p",
                  options={"movflags": "frag_keyframe+empty_moov"})
    return [good.read_bytes(), front.read_bytes(), split_table.read_bytes()]


def test_mutants_of_videos_are_kept_or_rejected(tmp_path, originals):
    found = outcomes(tmp_path, originals, 60, seed=1)
    assert found.total() == 60 and found["kept"] > 5 and len(found) > 3


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2, 7))
def test_two_thousand_mutants_are_kept_or_rejected(tmp_path, originals, corpus, seed, capsys):
    demo = [path.read_bytes() for path in sorted(corpus.rglob("c23/videos/*.mp4"))[:4]]
    found = outcomes(tmp_path, originals + demo, 400, seed)
    with capsys.disabled():
        print(f"\n{seed}: {dict(found)}")
    assert found.total() == 400
