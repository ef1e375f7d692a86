"""From one video file to its stored face crops: decode, track, cut, write; over many files in processes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache as once
from pathlib import Path

import numpy as np
import pandas as pd

from dfnb import UserError, files, machine
from dfnb.data import faces, video

VERSION = 3  # raise it when the same file and settings would give other boxes or other pixels
WORKER = 300 * 2**20  # bytes that a worker and its decoder take without any frame
FULL_HD = 1920 * 1080 * 3  # bytes of a frame as large as is usual
MEASURED = ["frame", "pts", "x0", "y0", "x1", "y1", "score", "faces", "status", "row"]
Record = dict  # measured: a list per column; source, digest: SHA-256 of file and array; bytes: of array file


@dataclass(frozen=True)
class Job:
    """All that a worker needs to crop one video, and where the results go."""

    path: str
    name: tuple[str, ...]  # corpus, manipulation, video
    frames: int
    size: int
    margin: float
    every: int
    detector: Callable[[], faces.Detect]
    limits: video.Limits
    boxes: Path  # apart from the crops: boxes depend neither on margin nor on size
    array: Path
    record: Path


def plan(path: str, name: tuple[str, ...], cache: Path, settings: dict) -> Job:
    """The job of one video; its files are named by a hash of the video's name, size, time and settings."""
    detector = f"{settings['detector'].__module__}.{settings['detector'].__qualname__}"
    seen = [VERSION, name, _stamp(path), settings["frames"], settings["every"], detector]
    cut = [*seen, settings["size"], settings["margin"]]
    seen, cut = (hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] for key in (seen, cut))
    boxes, crops = cache / "faces" / f"{seen}.json", cache / "crops" / cut
    array, record = crops.with_suffix(".npy"), crops.with_suffix(".json")
    return Job(path, name, **settings, boxes=boxes, array=array, record=record)


def finished(job: Job) -> Record | None:
    """The record of a finished video, after the cheap checks: it can be read and its array has its size."""
    try:
        record = json.loads(job.record.read_bytes())
        lengths = {len(record["measured"][name]) for name in MEASURED}
        whole = len(lengths) == 1 and (not record["bytes"] or job.array.stat().st_size == record["bytes"])
        judged_anew = record.get("limits", asdict(job.limits)) != asdict(job.limits)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole and not judged_anew else None


def make_all(jobs: list[Job], workers: int | None) -> Iterator[tuple[int, Record]]:
    """Do the jobs and yield (which, record) as each is done: in this process, or over fresh ones if many.

    By default there is a worker a core, as far as there is memory for the frames of as many videos in full HD.
    UserError where a process is killed, and where there is no memory for so many `workers`.
    """
    each = WORKER + 2 * max((job.frames for job in jobs), default=0) * FULL_HD  # the decoder's copy, and ours
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
            f"one of {workers} processes that crop faces was killed (out of memory, or started by a script "
            f"without `if __name__ == '__main__'`); finished videos are kept, run again"
        ) from error


def make(job: Job) -> Record:
    """Decode, track and crop one video; write array, then record. A rejected video's record says why."""
    try:
        clip = video.read(job.path, job.frames, threads=1, limits=job.limits)
        source = _source(job.path)
    except video.Rejected as rejected:
        record = _rejected(str(rejected), job.limits)
        if not rejected.passing:
            files.atomic_write(job.record, json.dumps(record))
        return record
    boxes = _boxes(job, clip)
    is_kept = boxes.status.eq(faces.KEPT).to_numpy()
    boxes["row"] = np.where(is_kept, is_kept.cumsum() - 1, -1)
    images = np.zeros((is_kept.sum(), job.size, job.size, 3), np.uint8)
    corners = boxes.loc[is_kept, ["x0", "y0", "x1", "y1"]].to_numpy()
    for row, (at, box) in enumerate(zip(np.flatnonzero(is_kept), corners, strict=True)):
        images[row] = faces.crop(clip.frames[at], faces.widen(box, job.margin), job.size)
    with files.atomic(job.array) as temporary:
        np.save(temporary, images)
        written = temporary.stat().st_size
    measured = boxes[MEASURED].to_dict("list")
    record = {"measured": measured, "source": source, "digest": digest(images), "bytes": written}
    files.atomic_write(job.record, json.dumps(record))
    return record


def _boxes(job: Job, clip: video.Clip) -> pd.DataFrame:
    """The clip's face track, from the cache of boxes where it holds the very frames that were decoded."""
    try:
        boxes = pd.DataFrame(json.loads(job.boxes.read_bytes()))
        if boxes.frame.tolist() == clip.indices.tolist():
            return boxes
    except (OSError, ValueError, AttributeError):
        pass  # missing or damaged: detect again
    boxes = faces.track(clip.frames, _detect(job.detector), pts=clip.pts, every=job.every)
    boxes = boxes.assign(frame=clip.indices, pts=clip.pts)
    files.atomic_write(job.boxes, json.dumps(boxes.to_dict("list")))
    return boxes


def _source(path: str) -> str:
    """SHA-256 of a video file, which may have vanished since it was decoded."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise video.Rejected(f"unreadable: {error.strerror}", passing=True) from error


_detect = once(lambda detector: detector())  # one detector a process


def _rejected(reason: str, limits: video.Limits) -> Record:
    """One row without a frame; a reason that other limits may change holds under these alone."""
    row = dict.fromkeys(MEASURED, np.nan) | {"frame": -1, "faces": 0, "status": reason, "row": -1}
    measured = {name: [value] for name, value in row.items()}
    judged = {"limits": asdict(limits)} if reason.partition(":")[0] in video.LIMITED else {}
    return {"measured": measured, "source": "", "digest": "", "bytes": 0} | judged


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and bytes."""
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def digest_of_file(path: Path) -> str:
    """The digest of a stored array, empty where the file cannot be read as one."""
    try:
        return digest(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return ""
