"""Broken or hostile files are read or rejected with a reason, and the other videos are cropped."""

import functools
import os
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter

import av
import numpy as np
import pytest
from test_crops import steady, table
from test_video import bars, number, numbered, reason, write

from dfnb import DataError, UserError
from dfnb.data import corpora, crop_cache, crops, decoder, faces, video

DOUBLE = """
import os, signal, time
import av
from dfnb.data import decoder

real, spoilt = decoder.read, []

def spin():
    while True:
        pass

def refuse():
    raise PermissionError(13, "Permission denied")

def read(path, *rest):
    faults = {"crash": os.abort, "sleep": lambda: time.sleep(60), "spin": spin, "denied": refuse,
              "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP), "leave": lambda: os._exit(3),
              "bloat": lambda: bytearray(1 << 40), "spoil": lambda: spoilt.append(path),
              "pipe": lambda: av.open(path)}  # as if the file became a pipe after the check
    if spoilt:
        os.abort()
    faults.get(os.path.basename(path).split(".")[0], lambda: None)()
    return real(path, *rest)

decoder.read = read
decoder.main()
"""


@pytest.fixture
def double(tmp_path, monkeypatch):
    """Replace the decoder by one that decodes, or does what the name of the file says."""
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
    return write(tmp_path / "good.mp4", numbered(12))


def copies(good, *names):
    for name in names:
        good.with_name(f"{name}.mp4").write_bytes(good.read_bytes())


@pytest.fixture
def crop(tmp_path, monkeypatch):
    """Return `crops.build` with 4 frames, in this process, with its own cache and the double."""
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(faces, "detector", steady)
    return functools.partial(crops.build, frames=4, size=32, workers=1)


def why(path, **limits):
    with pytest.raises(video.Rejected) as error:
        video.read(path, 4, limits=video.Limits(**limits))
    return str(error.value)


# ------------------------------------------------- a decoder that hangs, dies or takes memory
SLOW = "timed out: decoding took more than 1 s"


@pytest.mark.parametrize(("kind", "expected"), [
    ("sleep", SLOW), ("spin", SLOW), ("stop", SLOW), ("pipe", SLOW),
    ("crash", "crashed: the decoder was killed by SIGABRT"),
    ("leave", "crashed: the decoder ended with exit code 3"),
    ("bloat", "out of memory: decoding needs more than 4.3 GB"),
    ("denied", "unreadable: Permission denied")])
def test_only_the_file_that_breaks_the_decoder_is_rejected(double, good, tmp_path, kind, expected):
    if kind == "pipe":
        os.mkfifo(tmp_path / "pipe.mp4")
    else:
        copies(good, kind)
    assert why(tmp_path / f"{kind}.mp4", timeout=1) == expected
    assert video.read(good, 4).total == 12


def test_a_decoder_damaged_by_an_earlier_file_is_replaced(double, good, tmp_path):
    copies(good, "spoil")
    assert video.read(tmp_path / "spoil.mp4", 4).total == 12
    assert video.read(good, 4).total == 12


def test_one_decoder_serves_many_files_until_an_interrupt_ends_it(double, good, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    video.read(good, 4)
    first = video._current
    video.read(good, 4)
    assert video._current is first
    monkeypatch.setattr(first, "_receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        video.read(good, 4)
    assert first.process.poll() is not None
    assert video.read(good, 1).indices.tolist() == [5]  # not the answer to the earlier request


def test_a_decoder_that_cannot_start_is_an_error_and_loses_no_video(double, good, monkeypatch):
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
    code = (f"import os\nfrom dfnb.data import video\nvideo.read({str(good)!r}, 4)\n"
            f"print(video._current.process.pid, flush=True)\n{end}")
    pid = int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout)
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ------------------------------------------------- claims beyond the limits
def test_what_exceeds_a_limit_is_rejected_with_both_numbers(good, tmp_path):
    assert why(good, pixels=8000) == "too large: 128 x 64 pixels, at most 8000 are decoded"
    assert why(good, frames=11) == "too long: more than 11 frames"
    bare = write(tmp_path / "bare.h264", numbered(20)).rename(tmp_path / "bare.mp4")
    assert why(bare, frames=19) == "too long: more than 19 frames"  # none are counted beyond it
    slow = write(tmp_path / "slow.mp4", [bars(0)] * 2, pts=[0, 90])
    assert why(slow, seconds=2).startswith("too long: 4 s, at")
    message = "too large: 200 frames of 4000 x 3000 pixels need more than 4.3 GB"
    with pytest.raises(video.Rejected, match=message):
        decoder._check_size(4000, 3000, video.Limits(), count=200)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        video.read(good, 0)


def test_a_header_of_100000_by_100000_pixels_does_not_end_the_decoder(tmp_path):
    """The codec is PNG, whose header can hold such a size; those of mp4 and H.264 cannot."""
    path = tmp_path / "png.mp4"
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=25, width=64, height=48, pix_fmt="rgb24")
        for at in range(3):
            frame = av.VideoFrame.from_ndarray(bars(at, 48, 64), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert video.read(path, 3).frames.shape == (3, 48, 64, 3)
    content = path.read_bytes()
    for size in (100_000, 5000):  # beyond any decoder's limit, and beyond our own
        huge = b"IHDR" + struct.pack(">II", size, size) + b"\x08\x02\x00\x00\x00"
        at = content.index(b"IHDR")
        head = huge + struct.pack(">I", zlib.crc32(huge))
        path.write_bytes(content.replace(content[at : at + 21], head))
        assert reason(path).partition(":")[0] in ("unreadable", "too large", "out of memory")
        assert video._current.process.poll() is None


def test_a_header_of_65535_by_65535_pixels_is_checked(good):
    at = good.read_bytes().index(b"avc1", good.read_bytes().index(b"stsd")) + 28
    content = bytearray(good.read_bytes())
    content[at : at + 4] = b"\xff" * 4
    good.write_bytes(content)
    try:
        assert video.read(good, 4).frames.shape == (4, 64, 128, 3)  # H.264 states its size again
    except video.Rejected as rejected:
        assert str(rejected).partition(":")[0] in ("too large", "unreadable")


# ------------------------------------------------- unusual, but videos
@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv444p"])
def test_ten_bits_full_chroma_and_odd_names_are_read(tmp_path, pixel_format):
    path = write(tmp_path / "plain.mp4", numbered(5), pixel_format=pixel_format)
    for name in ("<script>alert(1)<", "{eval}`x`", "a\nb", "-y",
                 "$\\frac", "\udcff", "\N{WINKING FACE}"):
        odd = os.path.join(tmp_path, f"{name}.mp4")
        os.link(path, odd)
        assert [number(frame) for frame in video.read(odd, 5).frames] == list(range(5))


def test_a_single_frame_is_read(tmp_path):
    clip = video.read(write(tmp_path / "one.mp4", [bars(9)]), 8)
    assert (clip.total, clip.indices.tolist(), number(clip.frames[0])) == (1, [0], 9)


@pytest.mark.parametrize(("matrix", "turned"), [
    ((1, 0, 0, 1), lambda image: image),
    ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # an upright phone, clockwise
    ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    ((-1, 0, 0, 1), lambda image: image[:, ::-1]),  # a mirrored selfie
    ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1))])
def test_frames_are_turned_upright(tmp_path, matrix, turned):
    image = np.zeros((64, 128, 3), np.uint8)
    image[:32, :32] = 200
    image[32:, 96:] = 90  # no symmetry
    path = write(tmp_path / "turned.mp4", [image] * 3)
    plain = video.read(path, 2).frames
    content, (a, b, c, d) = bytearray(path.read_bytes()), matrix
    at = content.index(b"tkhd") + 44
    one = 1 << 16
    numbers = a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    content[at : at + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(content)
    expected = np.stack([turned(frame) for frame in plain])
    np.testing.assert_array_equal(video.read(path, 2).frames, expected)


# ------------------------------------------------- the other videos are cropped
@pytest.fixture
def mixed(tmp_path, good):
    """Write nine clips of one class; three of them can be read."""
    copies(good, "000", "001", "002", "crash", "sleep")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    names = ["000", "001", "002", "crash", "sleep", "text", "zero", "folder", "gone"]
    return table(tmp_path, names)


def test_every_broken_video_is_counted_and_the_others_are_cropped(double, mixed, crop):
    limits = {"timeout": 3}  # more than a good clip takes on a busy machine
    view = crop(mixed, limits=limits, most_lost=0.9)
    assert view.frames.video.value_counts().to_dict() == {"000": 4, "001": 4, "002": 4}
    assert view.losses().set_index("status").videos.to_dict() == {
        "kept": 3, "crashed": 1, "timed out": 1, "unreadable": 2, "empty": 1, "not a file": 1}
    with pytest.raises(DataError, match="67% of the frames of real are lost, more than the 50% al"):
        crop(mixed, limits=limits)


def test_a_rejection_by_a_limit_is_tried_again_under_another(good, tmp_path, crop, monkeypatch):
    videos = table(tmp_path, ["good"])
    with pytest.raises(DataError, match=r"too long \(1 videos\)"):
        crop(videos, limits={"frames": 5})
    assert len(crop(videos)) == 4
    monkeypatch.setattr(crop_cache, "make", lambda job: pytest.fail("made again"))
    assert len(crop(videos, limits={"frames": 99})) == 4  # crops stay under any limit


def test_the_loss_of_a_video_that_vanishes_after_decoding_may_pass(
        good, tmp_path, crop, monkeypatch):
    read = video.read
    monkeypatch.setattr(video, "read", lambda path, *rest, **options: (
        read(path, *rest, **options), path.unlink())[0])
    view = crop(table(tmp_path, ["good"]), most_lost=1.0)
    assert view.all_frames.status.tolist() == ["unreadable: No such file or directory"]
    assert list((tmp_path / "cache").rglob("*.json")) == []


def test_links_are_followed_and_a_name_that_is_not_text_is_an_error(tmp_path, good):
    place = tmp_path / "corpus" / "original_sequences" / "youtube" / "c23" / "videos"
    place.mkdir(parents=True)
    (place / "000.mp4").symlink_to(good)
    (place / "001.mp4").symlink_to(tmp_path / "nowhere")
    there, gone = corpora.index(tmp_path / "corpus", manipulations=[]).path
    assert video.read(there, 2).total == 12
    assert reason(gone) == "unreadable: No such file or directory"
    os.link(good, os.path.join(place, "\udcff.mp4"))
    with pytest.raises(UserError, match="is no text; rename"):
        corpora.index(tmp_path / "corpus", manipulations=[])


# ------------------------------------------------- fuzzing
BOXES = [b"stsz", b"stco", b"stts", b"stsc", b"tkhd", b"mvhd", b"mdhd", b"avcC", b"stsd", b"trak",
         b"moov", b"elst", b"ctts"]


def mutants(originals: list[bytes], count: int, seed: int):
    """Yield files with bytes flipped, cut, spliced, repeated or zeroed, or with other headers."""
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
            data[a:] = other[min(b, len(other)) :]
        elif kind == 3:
            data[b:b] = data[a:b]
        elif kind == 4:
            data[a:b] = bytes(b - a)
        else:  # the size or the content of a box that states a number, a size or a place
            names = [name for name in BOXES if name in data]
            box = data.index(names[generator.integers(len(names))])
            place = box - 4 if kind == 5 else box + 4 + int(generator.integers(0, 40))
            values = [0, 1, 2**16, 2**31 - 1, 2**32 - 1, int(generator.integers(2**32))]
            data[place : place + 4] = struct.pack(">I", values[generator.integers(6)])
        yield bytes(data)


def outcomes(folder, originals, count, seed) -> Counter:
    """Count the kinds of outcome; all but a clip or a rejection is raised."""
    kinds, limits = Counter(), video.Limits(timeout=5)
    for at, data in enumerate(mutants(originals, count, seed)):
        path = folder / f"{at}.mp4"
        path.write_bytes(data)
        try:
            clip = video.read(path, 4, limits=limits)
            assert 1 <= len(clip.frames) == len(clip.indices) == len(clip.pts) <= 4
            assert all(np.diff(clip.indices) > 0) and clip.indices[-1] < clip.total
            kinds["kept"] += 1
        except video.Rejected as rejected:
            kinds[str(rejected).partition(":")[0]] += 1
        path.unlink()
    return kinds


@pytest.fixture
def originals(tmp_path, good):
    front = write(tmp_path / "front.mp4", numbered(8), options={"movflags": "faststart"})
    small = [bars(at, 48, 80) for at in range(8)]
    fragments = write(tmp_path / "fragments.mp4", small, pixel_format="yuv444p",
                      options={"movflags": "frag_keyframe+empty_moov"})
    return [good.read_bytes(), front.read_bytes(), fragments.read_bytes()]


def test_mutants_of_videos_are_kept_or_rejected(tmp_path, originals):
    kinds = outcomes(tmp_path, originals, 60, seed=1)
    assert kinds.total() == 60 and kinds["kept"] > 5 and len(kinds) > 3


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2, 7))
def test_two_thousand_mutants_are_kept_or_rejected(tmp_path, originals, corpus, seed):
    demo = [path.read_bytes() for path in sorted(corpus.rglob("c23/videos/*.mp4"))[:4]]
    assert outcomes(tmp_path, originals + demo, 400, seed).total() == 400
