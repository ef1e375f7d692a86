"""Turn video files into stored face crops: decode, track, cut and write, in several processes."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dfnb import UserError, files, machine
from dfnb.data import faces, video

VERSION = 3  # raise it when the same file and settings would give other boxes or other pixels
DETECTOR = "dlib"  # in the cache's keys, whatever the module of the detector is called
WORKER = 300 * 2**20  # bytes that a worker and its decoder take without any frame
FULL_HD = 1920 * 1080 * 3  # bytes of the largest frame that is usual
MEASURED = ["frame", "pts", "x0", "y0", "x1", "y1", "score", "faces", "status", "row"]
Record = dict  # measured: a list per column; source, digest: SHA-256 of the file and of the array


@dataclass(frozen=True)
class Job:
    """All that a worker needs to crop one video, and the files of the results."""

    path: str
    name: tuple[str, ...]  # corpus, manipulation, video
    frames: int
    size: int
    margin: float
    limits: video.Limits
    boxes: Path  # apart from the crops: boxes depend neither on margin nor on size
    array: Path
    record: Path


def plan(path: str, name: tuple[str, ...], cache: Path, settings: dict) -> Job:
    """Return the job of one video; a hash of name, size, time and settings names its files."""
    boxes_key = [VERSION, name, _stamp(path), settings["frames"], DETECTOR]
    boxes = cache / "faces" / f"{_hash(boxes_key)}.json"
    crops = cache / "crops" / _hash([*boxes_key, settings["size"], settings["margin"]])
    array, record = crops.with_suffix(".npy"), crops.with_suffix(".json")
    return Job(path, name, **settings, boxes=boxes, array=array, record=record)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _hash(key: list) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def finished(job: Job) -> Record | None:
    """Return the record of a finished video; None where it or the array's file is damaged."""
    limits = asdict(job.limits)
    try:
        record = files.read_json(job.record)
        is_whole = not record["digest"] or job.array.is_file()
        is_valid = is_whole and record.get("limits", limits) == limits
    except (ValueError, KeyError):
        return None
    return record if is_valid else None


def make_all(jobs: list[Job], workers: int | None) -> Iterator[tuple[int, Record]]:
    """Do the jobs and yield (index, record) as each is done.

    The jobs run in new processes, or in this one if `workers` is 1. The default is one worker per
    core, as far as memory holds the frames of as many videos in full HD. UserError where a process
    is killed, and where memory is too small for `workers`.
    """
    frames = max((job.frames for job in jobs), default=0)
    each = WORKER + 2 * frames * FULL_HD  # the decoder's copy, and the worker's
    workers = min(machine.look().workers(workers, each), len(jobs))
    if workers < 2:
        yield from ((at, make(job)) for at, job in enumerate(jobs))
        return
    try:
        with machine.pool(workers) as pool:
            waiting = {pool.submit(make, job): at for at, job in enumerate(jobs)}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} processes that crop faces was killed (out of memory, or started by "
            "a script without `if __name__ == '__main__'`); finished videos are kept, run again"
        ) from error


def make(job: Job) -> Record:
    """Decode, track and crop one video; write array, then record.

    The record of a rejected video holds the reason, and is written only if the reason lasts.
    """
    try:
        clip = video.read(Path(job.path), job.frames, limits=job.limits)
    except video.Rejected as rejected:
        record = _rejected(str(rejected), job.limits)
        if not rejected.passing:
            files.write_json(job.record, record)
        return record
    try:
        source = files.sha256(Path(job.path))
    except OSError as error:  # the file has vanished since it was decoded
        return _rejected(f"unreadable: {error.strerror}", job.limits)
    boxes = _boxes(job, clip)
    images = _cut(clip.frames, boxes, job)
    with files.atomic(job.array) as temporary:
        np.save(temporary, images)
    measured = boxes[MEASURED].to_dict("list")
    record = {"measured": measured, "source": source, "digest": digest(images)}
    files.write_json(job.record, record)
    return record


def _boxes(job: Job, clip: video.Clip) -> pd.DataFrame:
    """Return the clip's face track, from the cache where it has the same frames, and the rows."""
    try:
        boxes = pd.DataFrame(files.read_json(job.boxes))
        is_usable = boxes.frame.tolist() == clip.indices.tolist()
    except (ValueError, AttributeError):  # missing or damaged
        is_usable = False
    if not is_usable:
        boxes = faces.track(clip.frames, faces.detector(), pts=clip.pts)
        boxes = boxes.assign(frame=clip.indices, pts=clip.pts)
        files.write_json(job.boxes, boxes.to_dict("list"))
    is_kept = boxes.status.eq(faces.KEPT)
    return boxes.assign(row=np.where(is_kept, is_kept.cumsum() - 1, -1))


def _cut(frames: np.ndarray, boxes: pd.DataFrame, job: Job) -> np.ndarray:
    """Return the crops of the kept frames, uint8 (n, size, size, 3)."""
    kept = boxes[boxes.row >= 0]
    images = np.zeros((len(kept), job.size, job.size, 3), np.uint8)
    for row, (at, *box) in enumerate(kept[["x0", "y0", "x1", "y1"]].itertuples()):
        images[row] = faces.crop(frames[at], faces.widen(box, job.margin), job.size)
    return images


def _rejected(reason: str, limits: video.Limits) -> Record:
    """Return the record of a rejected video, with the limits if other ones may change it."""
    row = dict.fromkeys(MEASURED, np.nan) | {"frame": -1, "faces": 0, "status": reason, "row": -1}
    measured = {name: [value] for name, value in row.items()}
    judged = {"limits": asdict(limits)} if reason.partition(":")[0] in video.LIMITED else {}
    return {"measured": measured, "source": "", "digest": ""} | judged


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's type, shape and bytes."""
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the digest of a stored array, "" where the file cannot be read as one."""
    try:
        return digest(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return ""
