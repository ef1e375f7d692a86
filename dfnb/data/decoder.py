"""The only process that opens videos: `python -m dfnb.data.decoder DESCRIPTOR`, for `video.read`.

The descriptor is a socket. The process sends the line `{}` when it is ready. It then answers each
request (a line of JSON: path, count, limits) with a line that gives shape, indices, pts and total,
and the pixels of the frames. A rejection is a line with the reason.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Iterator

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from dfnb.data.video import HEADER, TRAITS, Limits, Rejected, evenly_spaced

FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v"  # no lists, no images
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
CONVERTERS = 1  # threads that convert to RGB; FFmpeg's default is one a core, of 8 MB each

_reformatter = VideoReformatter()  # shared by all frames, because each one starts its own threads


def main() -> None:
    """Answer requests until the parent ends, each within its limits of memory and time.

    Linux kills this process with the thread that started it. The alarm is set in this process, so
    that a hanging decoder does not outlive a killed parent elsewhere either.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _limit(resource.RLIMIT_CORE, 0)
    parent = socket.socket(fileno=int(sys.argv[1]))
    parent.sendall(b"{}\n")
    for line in parent.makefile("rb"):
        request = json.loads(line)
        limits = Limits(**request.pop("limits"))
        _limit(resource.RLIMIT_AS, limits.memory)
        signal.setitimer(signal.ITIMER_REAL, limits.timeout)  # ends this process, if need be
        answer, images = answer_to(**request, limits=limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        parent.sendall(json.dumps(answer).encode() + b"\n")
        for image in images:
            parent.sendall(image)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS cannot limit the address space
        resource.setrlimit(kind, (value, hard))


def answer_to(path: str, count: int, limits: Limits) -> tuple[dict, list[np.ndarray]]:
    """Return the answer about one video, and its frames; no file makes this function raise."""
    passing = False
    try:
        return read(path, count, limits)
    except Rejected as rejected:
        reason, passing = str(rejected), rejected.passing
    except MemoryError:
        reason = f"out of memory: decoding needs more than {limits.memory / 1e9:.1f} GB"
    except BlockingIOError as error:  # no new thread: this limit is the system's, not the file's
        reason, passing = f"refused by the system: {error.strerror}", True
    except (av.error.FFmpegError, OSError) as error:
        reason = f"unreadable: {error.strerror}"
        may_pass = isinstance(error, FileNotFoundError | PermissionError)
        passing = may_pass or not isinstance(error, av.error.FFmpegError)
    except Exception as error:  # PyAV on a broken field: text that is not UTF-8, a rate of 1/0
        reason = f"unreadable: {' '.join(f'{type(error).__name__} {error}'.split())[:200]}"
    return {"rejected": reason, "passing": passing}, []


def read(path: str, count: int, limits: Limits) -> tuple[dict, list[np.ndarray]]:
    """Return the answer about one readable video, and its frames as RGB.

    Raises Rejected or an error of PyAV for other files.
    """
    _check_file(path)
    if count == TRAITS:
        return _traits(path, limits), []
    total = _declared(path, limits)
    if count == HEADER:
        return {"shape": [0, 0, 0], "indices": [], "pts": [], "total": total}, []
    indices = evenly_spaced(total, count)
    decoded, hidden, shape, pts, images = _decode(path, indices, limits)
    if total - hidden <= decoded != total:  # an edit list hides some, or the header is wrong
        total, indices = decoded, evenly_spaced(decoded, count)
        decoded, _, shape, pts, images = _decode(path, indices, limits)
    _require(decoded >= max(total, 1), f"truncated: {decoded} of {total} frames could be decoded")
    shape = [len(indices), *shape]
    return {"shape": shape, "indices": indices.tolist(), "pts": pts, "total": total}, images


def _traits(path: str, limits: Limits) -> dict:
    """Return the size of a frame and the bits per pixel of the video's packets, without sound."""
    with _opened(path, limits) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        sizes = _packet_sizes(container, stream, limits)
    _require(sizes and width * height, "no frames: the video stream is empty")
    answer = {"shape": [0, height, width], "indices": [], "pts": [], "total": len(sizes)}
    return answer | {"bits": 8 * sum(sizes) / (width * height * len(sizes))}


def _declared(path: str, limits: Limits) -> int:
    """Return the number of frames that the header promises, else the number of video packets."""
    with _opened(path, limits) as (container, stream):
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        _require(seconds <= limits.seconds,
                 f"too long: {seconds:.0f} s, at most {limits.seconds} are read")
        total = stream.frames or len(_packet_sizes(container, stream, limits))
    _require(total > 0, "no frames: the video stream is empty")
    _check_length(total, limits)
    return total


def _packet_sizes(container, stream, limits: Limits) -> list[int]:
    sizes = []
    for packet in container.demux(stream):
        if packet.size:
            sizes.append(packet.size)
            _check_length(len(sizes), limits)
    return sizes


@contextlib.contextmanager
def _opened(path: str, limits: Limits) -> Iterator[tuple]:
    """Yield the container and its first video stream, with the limit of pixels set."""
    most = {"max_pixels": str(limits.pixels)}
    with av.open(path, options=OPTIONS | most, metadata_errors="replace") as container:
        _require(container.streams.video, "no video stream")
        stream = container.streams.video[0]
        _require(stream.codec_context is not None,
                 "unknown codec: no decoder for the video stream")
        _check_size(stream.codec_context.width, stream.codec_context.height, limits)
        stream.codec_context.options = most
        yield container, stream


def _decode(path: str, wanted: np.ndarray, limits: Limits) -> tuple:
    """Return two numbers of frames, (h, w), and the times and pixels of the wanted frames.

    The numbers are how many were decoded and how many an edit list hides.
    """
    decoded, hidden, shape, pts, images = 0, 0, None, [], []
    with _opened(path, limits) as (container, stream):
        stream.codec_context.thread_count = 1
        rate = float(stream.average_rate or 25)
        for packet in container.demux(stream):
            hidden += packet.is_discard
            for at, frame in enumerate(_frames_of(packet, is_first=not decoded), start=decoded):
                decoded += 1
                _check_length(decoded, limits)
                if at not in wanted:
                    continue
                _check_size(frame.width, frame.height, limits, len(wanted))
                image = _upright(frame)
                shape = shape or image.shape[:2]
                _require(image.shape[:2] == shape,
                         "changing size: the frames of the clip differ in width or height")
                images.append(np.ascontiguousarray(image))
                pts.append(at / rate if frame.time is None else float(frame.time))
    return decoded, hidden, shape, pts, images


def _frames_of(packet: av.Packet, is_first: bool) -> list[av.VideoFrame]:
    """Return the frames of a packet: none of a damaged one, whose frames are then missing."""
    try:
        return packet.decode()
    except av.error.InvalidDataError:
        if is_first:
            raise
        return []


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return RGB (h, w, 3), turned and mirrored by the frame's display matrix.

    The matrix means x' = a x + c y and y' = b x + d y.
    """
    image = _reformatter.reformat(frame, format="rgb24", threads=CONVERTERS).to_ndarray()
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # `frame.side_data` is a reference cycle
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(int)
    if abs(b) > abs(a):  # the axes change places
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _check_file(path: str) -> None:
    status = os.stat(path)
    _require(not stat.S_ISDIR(status.st_mode), "not a file: a folder has this name")
    _require(stat.S_ISREG(status.st_mode),  # opening a pipe would wait, a device has no end
             "not a file: a pipe, socket or device has this name")
    _require(status.st_size, "empty: the file has zero bytes")


def _check_size(width: int, height: int, limits: Limits, count: int = 0) -> None:
    size = f"{width} x {height} pixels"
    _require(width * height <= limits.pixels,
             f"too large: {size}, at most {limits.pixels} are decoded")
    _require(count * width * height * 3 <= limits.memory,
             f"too large: {count} frames of {size} need more than {limits.memory / 1e9:.1f} GB")


def _check_length(total: int, limits: Limits) -> None:
    _require(total <= limits.frames, f"too long: more than {limits.frames} frames")


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise Rejected(reason)


if __name__ == "__main__":
    main()
