"""The process behind `video.read`, the only one that opens videos: `python -m dfnb.data.decoder DESCRIPTOR`.

It says `{}` when it is ready, then answers each line of JSON (path, count, threads, limits) with one: shape, indices,
pts and total, while the pixels lie in the file of the descriptor; or why the video is rejected.
"""

import contextlib
import json
import os
import queue
import resource
import signal
import stat
import sys
import threading
from collections.abc import Iterator

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from dfnb.data.video import Limits, Rejected, spread

FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v"  # neither playlists nor pictures nor text
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
CONVERTERS = 1  # threads that turn a frame into RGB; FFmpeg's own choice is one a core, each with a stack of 8 MB

_reformatter = VideoReformatter()  # one for all frames: each has threads of its own


def main() -> None:
    """Answer until the one who asks is gone, and end in the middle of a video when that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    pixels, answers = int(sys.argv[1]), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints must not look like an answer
    _limit(resource.RLIMIT_CORE, 0)
    lines = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    print("{}", file=answers, flush=True)
    while True:
        request = json.loads(lines.get())
        limits = Limits(**request.pop("limits"))
        with _guarded(limits, request["threads"]):
            answer = answer_to(**request, limits=limits, pixels=pixels)
        print(json.dumps(answer), file=answers, flush=True)


def _listen(lines: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


@contextlib.contextmanager
def _guarded(limits: Limits, threads: int) -> Iterator[None]:
    """Bound memory, processor time and time on the clock; the system kills a process that is over its time.

    The alarm is set here and not by the parent alone, so that a decoder that hangs does not outlive a killed parent.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + limits.timeout * threads) + 1)
    _limit(resource.RLIMIT_AS, limits.memory)
    signal.setitimer(signal.ITIMER_REAL, limits.timeout)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit of address space
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def answer_to(path: str, count: int, threads: int, limits: Limits, pixels: int) -> dict:
    """What the parent is told of one video; nothing that a file can cause is raised."""
    try:
        return _clip(path, count, threads, limits, pixels)
    except Rejected as rejected:
        return {"rejected": str(rejected), "passing": rejected.passing}
    except MemoryError:
        return {"rejected": f"out of memory: decoding needs more than {_gb(limits.memory)}", "passing": False}
    except BlockingIOError as error:  # no thread more: a limit of processes, or of memory, that no file has set
        return {"rejected": f"refused by the system: {error.strerror}", "passing": True}
    except (av.error.FFmpegError, OSError) as error:
        passing = not isinstance(error, av.error.FFmpegError) or isinstance(error, FileNotFoundError | PermissionError)
        return {"rejected": f"unreadable: {error.strerror}", "passing": passing}
    except Exception as error:  # PyAV's wrapping of a broken field: text that is no UTF-8, a rate of 1/0
        return {"rejected": f"unreadable: {' '.join(f'{type(error).__name__} {error}'.split())[:200]}", "passing": False}


def _clip(path: str, count: int, threads: int, limits: Limits, pixels: int) -> dict:
    _check_file(path)
    if count < 0:
        return _traits(path, limits)
    total, size = _declared(path, limits)
    if not count:  # the header alone is asked for
        return {"shape": [0, *size], "indices": [], "pts": [], "total": total}
    indices = spread(total, count)
    shape, pts, decoded, hidden = _decode(path, indices, threads, limits, pixels)
    if total - hidden <= decoded != total:  # an edit list hides some, or the header is wrong
        total, indices = decoded, spread(decoded, count)
        shape, pts, decoded, _ = _decode(path, indices, threads, limits, pixels)
    if decoded < total or decoded == 0:
        raise Rejected(f"truncated: {decoded} of {total} frames could be decoded")
    return {"shape": [len(indices), *shape], "indices": indices.tolist(), "pts": pts, "total": total}


def _traits(path: str, limits: Limits) -> dict:
    """No frame, but the size of one, and the bits per pixel of the video's own packets: a file may hold sound too."""
    sizes = []
    with _opened(path, limits) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        for packet in container.demux(stream):
            sizes += [packet.size] if packet.size else []
            _check_length(len(sizes), limits)
    if not sizes or not width * height:
        raise Rejected("no frames: the video stream is empty")
    bits = 8 * sum(sizes) / (width * height * len(sizes))
    return {"shape": [0, height, width], "indices": [], "pts": [], "total": len(sizes), "bits": bits}


def _check_file(path: str) -> None:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise Rejected("not a file: a folder has this name")
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read without end
        raise Rejected("not a file: a pipe, socket or device has this name")
    if status.st_size == 0:
        raise Rejected("empty: the file has zero bytes")


@contextlib.contextmanager
def _opened(path: str, limits: Limits) -> Iterator[tuple]:
    """The container and its first video stream, whose frames stay below the limit of pixels."""
    options = OPTIONS | {"max_pixels": str(limits.pixels)}
    with av.open(path, options=options, metadata_errors="replace") as container:
        if not container.streams.video:
            raise Rejected("no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise Rejected("unknown codec: no decoder for the video stream")
        _check_size(stream.codec_context.width, stream.codec_context.height, limits)
        stream.codec_context.options = {"max_pixels": str(limits.pixels)}
        yield container, stream


def _declared(path: str, limits: Limits) -> tuple[int, tuple[int, int]]:
    """The number of frames the header promises, else the number of video packets; and (h, w) as they are stored."""
    with _opened(path, limits) as (container, stream):
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if seconds > limits.seconds:
            raise Rejected(f"too long: {seconds:.0f} s, at most {limits.seconds} are read")
        total, size = stream.frames, (stream.codec_context.height, stream.codec_context.width)
        if not total:
            for packet in container.demux(stream):
                total += packet.size > 0
                _check_length(total, limits)
    if total < 1:
        raise Rejected("no frames: the video stream is empty")
    _check_length(total, limits)
    return total, size


def _decode(path: str, wanted: np.ndarray, threads: int, limits: Limits, pixels: int) -> tuple:
    """Write the wanted frames; their (h, w), their times, how many frames were decoded, how many are hidden."""
    places = {index: place for place, index in enumerate(wanted.tolist())}
    shape, pts, decoded, hidden = None, [0.0] * len(wanted), 0, 0
    with _opened(path, limits) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        rate = float(stream.average_rate or 25)
        for packet in container.demux(stream):
            hidden += packet.is_discard
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if not decoded:
                    raise
                continue  # a damaged packet: the frames that it lacks are counted, whichever thread decodes
            for at, frame in enumerate(frames, start=decoded):
                decoded += 1
                _check_length(decoded, limits)
                if at not in places:
                    continue
                _check_size(frame.width, frame.height, limits, len(wanted))
                image = _upright(frame)
                shape = shape or image.shape[:2]
                if image.shape[:2] != shape:
                    raise Rejected("changing size: the frames of the clip differ in width or height")
                os.pwrite(pixels, np.ascontiguousarray(image), places[at] * image.nbytes)
                pts[places[at]] = at / rate if frame.time is None else float(frame.time)
    return shape, pts, decoded, hidden


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """The frame as RGB (h, w, 3), turned and mirrored as its display matrix says (x' = a x + c y, y' = b x + d y)."""
    image = _reformatter.reformat(frame, format="rgb24", threads=CONVERTERS).to_ndarray()
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # `frame.side_data` is the same, and a reference cycle
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(int)
    if abs(b) > abs(a):  # the axes change places
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _check_size(width: int, height: int, limits: Limits, count: int = 0) -> None:
    if width * height > limits.pixels:
        raise Rejected(f"too large: {width} x {height} pixels, at most {limits.pixels} are decoded")
    if count * width * height * 3 > limits.memory:
        raise Rejected(f"too large: {count} frames of {width} x {height} pixels need more than {_gb(limits.memory)}")


def _check_length(total: int, limits: Limits) -> None:
    if total > limits.frames:
        raise Rejected(f"too long: more than {limits.frames} frames")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
