"""Store face crops: one uint8 array per video, and the table of its frames.

Crops are built once, and their arrays are verified when they are first read.
"""

import contextlib
import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from tqdm import tqdm

from dfnb import KEY, DataError, UserError, files
from dfnb.data import crop_cache, faces, video
from dfnb.data.crop_cache import MEASURED, Job, Record

FIRST = 8  # videos of a class whose losses show whether the machine is at fault or the files are


def build(
    videos: pd.DataFrame, *, frames: int, size: int, margin: float = 1.3, most_lost: float = 0.5,
    limits: dict[str, int] | None = None, workers: int | None = None, progress: bool = True,
) -> "CropView":
    """Crop the face in `frames` frames of every video to `size` pixels, and return all crops.

    Crops in the cache are not made again, and finished videos stay when the call is interrupted.
    The table of frames has all columns of `videos` but the path. `limits` replaces values of
    `video.Limits`. DataError where a class loses more than the share `most_lost` of its frames.
    UserError where it loses more than that share of its first videos because of the machine.
    """
    bounds = video.Limits(**limits or {})
    settings = {"frames": frames, "size": size, "margin": margin, "limits": bounds}
    named = videos[["path", *KEY]].itertuples(index=False)
    jobs = [crop_cache.plan(path, tuple(name), files.cache(), settings) for path, *name in named]
    records = _records(jobs, workers, most_lost, progress)
    counts = [len(record["measured"]["row"]) for record in records]
    numbers = np.repeat(np.arange(len(records)), counts)  # the video of each row of the table
    table = _table(videos.iloc[numbers], records)
    kept = table[table.row >= 0]
    store = _Store(jobs, records, numbers[kept.index], kept.row.to_numpy())
    kept = kept.reset_index(drop=True)
    view = CropView(kept, store, size, table, frames, positions=np.arange(len(kept)))
    _check_losses(view.losses(), most_lost)
    return view


@dataclass(eq=False, repr=False)
class CropView:
    """A view of crops, whose pixels are read when `images` is called.

    All views of a store know the view of the whole store (`root`) and their `positions` (n,) in
    it: what was computed for the root serves every selection.
    """

    frames: pd.DataFrame  # a row per crop
    pixels: "_Store | _Memory"  # where the pixels lie
    size: int  # side of a crop in pixels
    all_frames: pd.DataFrame  # the frames of the whole store, with the lost ones
    asked: int  # frames that were asked for, per video
    positions: np.ndarray
    whole: "CropView | None" = None  # the root, for all views but itself

    @classmethod
    def of_arrays(cls, images: np.ndarray, frames: pd.DataFrame) -> "CropView":
        """Return a view of crops in memory, uint8 (n, size, size, 3), one per row of `frames`."""
        size = images.shape[1]
        if images.dtype != np.uint8 or images.shape != (len(frames), size, size, 3):
            wanted = f"uint8 ({len(frames)}, s, s, 3)"
            raise ValueError(f"images must be {wanted}, got {images.dtype} {images.shape}")
        frames = frames.reset_index(drop=True)
        return cls(frames, _Memory(images), size, frames, 1, positions=np.arange(len(frames)))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def root(self) -> "CropView":
        """The view of the whole store."""
        return self if self.whole is None else self.whole

    @property
    def labels(self) -> np.ndarray:
        """Labels (n,) int, 1 for fake."""
        return self.frames["label"].to_numpy(int)

    def images(self, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """Return crops as uint8 (n, size, size, 3), in the order of `rows`.

        `rows`: positions in this view, a slice, a mask, or None for all.
        """
        positions = self.positions[slice(None) if rows is None else rows]
        return self.pixels.read(np.atleast_1d(positions), self.size)

    def select(self, rows: np.ndarray) -> "CropView":
        """Return the view of some rows, by mask or by positions."""
        rows = np.arange(len(self))[rows]
        frames = self.frames.iloc[rows].reset_index(drop=True)
        return replace(self, frames=frames, positions=self.positions[rows], whole=self.root)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the crops' content, order, keys and labels, without paths, times and machine."""
        keys = [name for name in [*KEY, "frame", "label"] if name in self.frames]
        text = self.frames[keys].to_csv(index=False, header=True)
        contents = "\n".join(self.pixels.contents(self.positions))
        return hashlib.sha256(f"{self.size}\n{text}\n{contents}".encode()).hexdigest()[:32]

    def losses(self) -> pd.DataFrame:
        """Count the videos and frames of each manipulation with each status.

        Returns the columns manipulation, status, videos, frames, share. A status is the part of the
        reason before the colon. A video that could not be read has lost all the frames asked for.
        `share` is of the manipulation's frames.
        """
        table = self.all_frames.assign(status=self.all_frames.status.str.partition(":")[0])
        table["frames"] = np.where(table.frame < 0, self.asked, 1)
        table["videos"] = ~table.duplicated([*KEY, "status"])
        by_status = table.groupby(["manipulation", "status"], sort=False)
        counts = by_status[["videos", "frames"]].sum().reset_index()
        totals = counts.groupby("manipulation").frames.transform("sum")
        return counts.assign(share=counts.frames / totals)


def _records(
    jobs: list[Job], workers: int | None, most_lost: float, progress: bool
) -> list[Record]:
    """Return the record of every job; the missing ones are made."""
    records = [crop_cache.finished(job) for job in jobs]
    missing = [at for at, record in enumerate(records) if record is None]
    quiet = None if progress else True  # None: quiet where no terminal shows the bar
    done = defaultdict(list)  # (corpus, manipulation) -> job and status of each video
    with contextlib.closing(crop_cache.make_all([jobs[at] for at in missing], workers)) as made:
        for at, record in tqdm(made, "faces", len(missing), unit="video", disable=quiet):
            job = jobs[missing[at]]
            records[missing[at]] = record
            done[job.name[:2]].append((job, record["measured"]["status"][0]))
            _check_first(done[job.name[:2]], most_lost)
    return records


def _table(videos: pd.DataFrame, records: list[Record]) -> pd.DataFrame:
    """Return all frames of all videos: the columns of `videos` but the path, then the measurements.

    `videos` has a row per frame.
    """
    table = videos.drop(columns="path").reset_index(drop=True)
    for name in MEASURED:
        table[name] = [value for record in records for value in record["measured"][name]]
    return table


def _check_first(done: list[tuple[Job, str]], most_lost: float) -> None:
    """Stop after the first videos of a class if the machine loses them, and forget these losses."""
    lost = [(job, reason) for job, reason in done if reason.partition(":")[0] in video.MACHINES]
    if len(done) != FIRST or len(lost) <= most_lost * FIRST:
        return
    for job, _ in lost:
        job.record.unlink(missing_ok=True)
    job, reason = lost[-1]
    raise UserError(
        f"{len(lost)} of the first {FIRST} videos of {job.name[1]} are lost for a reason that lies "
        f"in this machine or its limits rather than in the files: {reason}; free memory and "
        "processes, or set crops.limits in the profile")


def _check_losses(losses: pd.DataFrame, most_lost: float) -> None:
    lost = losses[losses.status != faces.KEPT]
    for manipulation, reasons in lost.groupby("manipulation", sort=False):
        share, worst = reasons.share.sum(), reasons.loc[reasons.frames.idxmax()]
        if share > most_lost:
            raise DataError(
                f"{share:.0%} of the frames of {manipulation} are lost, more than the "
                f"{most_lost:.0%} allowed; most often: {worst.status} ({worst.videos} videos); fix "
                "the files or leave out the manipulation")


class _Store:
    """Crops on disk: the video (n,) of each crop, and its row (n,) in the video's array."""

    def __init__(self, jobs: list[Job], records: list[Record], videos, rows):
        self.jobs, self.records, self.videos, self.rows = jobs, records, videos, rows
        self.verified: set[int] = set()

    def read(self, positions: np.ndarray, size: int) -> np.ndarray:
        """Copy the crops out, file by file; no file stays open."""
        images = np.empty((len(positions), size, size, 3), np.uint8)
        videos = self.videos[positions]
        for number, here in pd.Series(videos).groupby(videos).indices.items():
            images[here] = self._array(number)[self.rows[positions[here]]]
        return images

    def contents(self, positions: np.ndarray) -> list[str]:
        """Return the source of each crop's pixels: video file, array and row."""
        names = [record["source"] + record["digest"] for record in self.records]
        places = zip(self.videos[positions], self.rows[positions], strict=True)
        return [f"{names[number]} {row}" for number, row in places]

    def _array(self, number: int) -> np.ndarray:
        """Return the array of one video; its first use compares the digest and repairs damage."""
        job, digest = self.jobs[number], self.records[number]["digest"]
        is_known = number in self.verified or crop_cache.digest_of_file(job.array) == digest
        if not is_known and crop_cache.make(job)["digest"] != digest:
            raise DataError(
                f"the crops of {'/'.join(job.name)} are damaged, and {job.path} no longer gives "
                "the same ones; restore that file or run again")
        self.verified.add(number)
        return np.load(job.array, mmap_mode="r", allow_pickle=False)


class _Memory:
    """Crops in memory."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def read(self, positions: np.ndarray, size: int) -> np.ndarray:
        return self.images[positions]

    def contents(self, positions: np.ndarray) -> list[str]:
        return [crop_cache.digest(self.images[at]) for at in positions]
