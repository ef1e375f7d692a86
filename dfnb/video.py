"""Evenly spaced frames of one video file, with their exact indices; what cannot be read says why."""

import io
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


def recompress(images: np.ndarray, quantiser: int) -> np.ndarray:
    """Images uint8 (n, h, w, 3) after H.264 with a constant quantiser (0 to 51; FF++'s c23 and c40 name theirs).

    Every image is coded by itself (no prediction from a neighbour), so it comes out the same in any company.
    """
    if not 0 <= quantiser <= 51:
        raise ValueError(f"the quantiser of H.264 lies in 0 to 51, got {quantiser}")
    height, width = images.shape[1:3]
    even = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # 4:2:0 halves the sides
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={
            "qp": str(quantiser), "g": "1", "threads": "1", "x264-params": "cpu-independent=1:ipratio=1"})
        stream.height, stream.width, stream.pix_fmt = *even.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for image in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)[:, :height, :width]


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
