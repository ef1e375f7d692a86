"""Evenly spaced frames of one video file, with their exact indices; what cannot be read says why."""

import os
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

OPTIONS = {"protocol_whitelist": "file"}  # a playlist inside a file may not open anything else


class Rejected(Exception):
    """A file that gives no frames; the message is `kind: detail` or `kind`, for the table of frames.

    `passing` is true where another attempt may succeed although the file stays the same (it vanished, access
    is denied); such a reason is not worth remembering.
    """

    def __init__(self, reason: str, passing: bool = False):
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class Clip:
    """Frames of one file: `frames` uint8 RGB (n, h, w, 3), `indices` (n,) in the file, `pts` (n,) seconds."""

    frames: np.ndarray
    indices: np.ndarray
    pts: np.ndarray
    total: int  # frames in the file


def spread(total: int, count: int) -> np.ndarray:
    """`count` indices evenly spaced over 0 .. total - 1, both ends included; all of them if there are fewer.

    One frame alone is the middle one.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if count == 1:
        return np.array([(total - 1) // 2])
    return np.round(np.linspace(0, total - 1, min(count, total))).astype(int)


def read(path: Path, count: int, *, threads: int = 0) -> Clip:
    """Decode the whole file in order and keep `spread(total, count)` of its frames.

    Decoding in order is exact where seeking is not, and it is the only way to see that a file is cut short.
    `threads` = 0 lets the decoder choose; the pixels do not depend on it. Raises Rejected.
    """
    path = Path(path).absolute()
    try:
        _check_file(path)
        total = _declared(path)
        indices = spread(total, count)
        frames, pts, decoded, hidden = _decode(path, indices, threads)
        if total - hidden <= decoded != total:  # an edit list hides some, or the header is wrong
            total, indices = decoded, spread(decoded, count)
            frames, pts, decoded, _ = _decode(path, indices, threads)
    except av.error.FFmpegError as error:
        passing = isinstance(error, FileNotFoundError | PermissionError)
        raise Rejected(f"unreadable: {error.strerror}", passing) from error
    except OSError as error:
        raise Rejected(f"unreadable: {error.strerror}", passing=True) from error
    if decoded < total or decoded == 0:
        raise Rejected(f"truncated: {decoded} of {total} frames could be decoded")
    return Clip(frames, indices, pts, total)


def traits(path: Path) -> dict[str, float]:
    """Traits of a file's video stream: width, height, frames, and bits per pixel of the compressed stream.

    What `read` rejects may raise its errors here too; nothing is decoded.
    """
    with av.open(str(Path(path).absolute()), options=OPTIONS, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        sizes = [packet.size for packet in container.demux(stream) if packet.size]
        width, height = stream.width, stream.height
    return {"width": width, "height": height, "frames": len(sizes),
            "bits": 8 * sum(sizes) / (width * height * len(sizes))}


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise Rejected("not a file: a folder has this name")
    if os.stat(path).st_size == 0:
        raise Rejected("empty: the file has zero bytes")


def _declared(path: Path) -> int:
    """The number of frames the header promises; where it says nothing, the number of video packets."""
    with av.open(str(path), options=OPTIONS, metadata_errors="replace") as container:
        if not container.streams.video:
            raise Rejected("no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise Rejected("unknown codec: no decoder for the video stream")
        total = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    if total < 1:
        raise Rejected("no frames: the video stream is empty")
    return total


def _decode(path: Path, wanted: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """The wanted frames (n, h, w, 3), their times (n,), how many frames were decoded, how many are hidden."""
    places = {index: place for place, index in enumerate(wanted.tolist())}
    frames, pts, decoded, hidden = None, np.zeros(len(wanted)), 0, 0
    with av.open(str(path), options=OPTIONS, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        rate = float(stream.average_rate or 25)
        for packet in container.demux(stream):
            hidden += packet.is_discard
            for frame in packet.decode():
                if decoded in places:
                    image = frame.to_ndarray(format="rgb24")
                    frames = np.empty((len(wanted), *image.shape), np.uint8) if frames is None else frames
                    if image.shape != frames.shape[1:]:
                        raise Rejected("changing size: the frames of the clip differ in width or height")
                    frames[places[decoded]] = image
                    pts[places[decoded]] = decoded / rate if frame.time is None else frame.time
                decoded += 1
    return frames, pts, decoded, hidden
