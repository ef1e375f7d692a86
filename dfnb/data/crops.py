"""The crop store: one uint8 array per video and the table of its frames, built once, verified when read."""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from dfnb import KEY, UserError, files
from dfnb.data import crop_cache, faces, video
from dfnb.data.crop_cache import MEASURED, Job, Record

FIRST = 8  # videos of a class after which a fault of the machine is told from one of the files


def build(
    videos: pd.DataFrame,
    *,
    frames: int,
    size: int,
    margin: float = 1.3,
    every: int = 1,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
    detector: Callable[[], faces.Detect] = faces.detector,
    most_lost: float = 0.5,
    limits: dict[str, int] | None = None,
) -> "CropView":
    """Crop the face of `frames` frames of every video to `size` pixels, and open the store as a CropView.

    What lies in the cache (default `paths.cache()`) is not made again, and finished videos stay when the call
    is interrupted. `every`: faces are searched in each `every`-th of the frames. `detector` makes the face
    detector in each worker (a function of a module, so that a process can import it). `videos` lends all its
    columns but the path to the table of frames. `limits`: other values than those of `video.Limits`. Raises
    UserError where a class loses more than the share `most_lost` of its frames, and at once where it loses so many
    of its first videos for a reason that is the machine's.
    """
    cache = Path(cache or files.cache())
    settings = {"frames": frames, "size": size, "margin": margin, "every": every, "detector": detector}
    settings["limits"] = video.Limits(**limits or {})
    named = videos[["path", *KEY]].itertuples(index=False)
    jobs = [crop_cache.plan(path, tuple(name), cache, settings) for path, *name in named]
    records = [crop_cache.finished(job) for job in jobs]
    missing = [at for at, record in enumerate(records) if record is None]
    quiet = None if progress else True  # None: quiet unless a terminal is watching
    first = defaultdict(list)  # corpus and manipulation -> the videos that were done first
    with contextlib.closing(crop_cache.make_all([jobs[at] for at in missing], workers)) as made:
        for at, record in tqdm(made, total=len(missing), desc="faces", unit="video", disable=quiet):
            records[missing[at]] = record
            job = jobs[missing[at]]
            first[job.name[:2]].append((job, record))
            _check_first(first[job.name[:2]], most_lost)
    table = _table(videos, records)
    _check_losses(table, frames, most_lost)
    kept = table[table.row >= 0]
    codes = np.repeat(np.arange(len(records)), [len(record["measured"]["row"]) for record in records])
    store = _Store(jobs, records, codes[kept.index], kept.row.to_numpy())
    return CropView(kept.reset_index(drop=True), store, size, all_frames=table, asked=frames)


class CropView:
    """An indexable view of crops: `frames` has one row per crop, pixels lie on disk until `images` is called.

    `size`: side of a crop in pixels. `all_frames`: the frames of the whole store, those not kept too. A
    selection knows its `root` and its `positions` (n,) there: what is computed for the root serves every
    selection.
    """

    def __init__(self, frames, source, size, *, all_frames, asked, root=None, positions=None):
        self.frames: pd.DataFrame = frames
        self.size: int = size
        self.all_frames: pd.DataFrame = all_frames
        self.asked: int = asked  # frames asked for per video
        self.root: CropView = self if root is None else root
        self.positions: np.ndarray = np.arange(len(frames)) if positions is None else positions
        self._source = source

    @classmethod
    def of_arrays(cls, images: np.ndarray, frames: pd.DataFrame) -> "CropView":
        """A view of crops in memory, uint8 (n, size, size, 3), with one row of `frames` each."""
        size = images.shape[1]
        if images.dtype != np.uint8 or images.shape != (len(frames), size, size, 3):
            wanted = f"uint8 ({len(frames)}, s, s, 3)"
            raise ValueError(f"images must be {wanted}, got {images.dtype} {images.shape}")
        frames = frames.reset_index(drop=True)
        return cls(frames, _Memory(images), size, all_frames=frames, asked=1)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int, 1 for fake."""
        return self.frames["label"].to_numpy(int)

    def images(self, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """Crops as uint8 (n, size, size, 3), in the order of `rows`: positions, slice, mask, None for all."""
        positions = self.positions[slice(None) if rows is None else rows]
        return self._source.read(np.atleast_1d(positions), self.size)

    def select(self, rows: np.ndarray) -> "CropView":
        """The view of some rows, by mask or by positions; it keeps the columns and the pixels' source."""
        rows = np.arange(len(self))[rows]
        frames = self.frames.iloc[rows].reset_index(drop=True)
        whole = {"all_frames": self.all_frames, "asked": self.asked, "root": self.root}
        return CropView(frames, self._source, self.size, positions=self.positions[rows], **whole)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the crops' content, their order, keys and labels; not of paths, times or the machine."""
        keys = [name for name in [*KEY, "frame", "label"] if name in self.frames]
        text = self.frames[keys].to_csv(index=False, header=True)
        contents = "\n".join(self._source.contents(self.positions))
        return hashlib.sha256(f"{self.size}\n{text}\n{contents}".encode()).hexdigest()[:32]

    def losses(self) -> pd.DataFrame:
        """How many videos and frames of each manipulation have each status: manipulation, status, videos, frames, share.

        A status is the part of the reason before the colon. A video that could not be read lost all the
        frames asked of it. `share` is of the manipulation's frames.
        """
        return _losses(self.all_frames, self.asked)


def _table(videos: pd.DataFrame, records: list[Record]) -> pd.DataFrame:
    """All frames of all videos: the columns of `videos` but the path, then what was measured."""
    counts = [len(record["measured"]["row"]) for record in records]
    table = videos.drop(columns="path").iloc[np.repeat(np.arange(len(videos)), counts)].reset_index(drop=True)
    for name in MEASURED:
        table[name] = [value for record in records for value in record["measured"][name]]
    return table


def _losses(table: pd.DataFrame, asked: int) -> pd.DataFrame:
    table = table.assign(status=table.status.str.partition(":")[0])
    table["frames"] = np.where(table.frame < 0, asked, 1)
    table["videos"] = ~table.duplicated([*KEY, "status"])
    counts = table.groupby(["manipulation", "status"], sort=False)[["videos", "frames"]].sum().reset_index()
    return counts.assign(share=counts.frames / counts.groupby("manipulation").frames.transform("sum"))


def _check_first(done: list[tuple[Job, Record]], most_lost: float) -> None:
    """Stop after the first videos of a class when it is the machine that loses them, and remember no such loss."""
    if len(done) != FIRST:
        return
    lost = [(job, reason) for job, record in done for reason in record["measured"]["status"][:1]
            if reason.partition(":")[0] in video.MACHINES]
    if len(lost) <= most_lost * FIRST:
        return
    for job, _ in lost:
        job.record.unlink(missing_ok=True)
    raise UserError(
        f"{len(lost)} of the first {FIRST} videos of {lost[0][0].name[1]} are lost for a reason that lies in this machine "
        f"or its limits rather than in the files: {lost[-1][1]}; free memory and processes, or set crops.limits in the "
        "profile"
    )


def _check_losses(table: pd.DataFrame, asked: int, most_lost: float) -> None:
    lost = _losses(table, asked).query("status != @faces.KEPT")
    for manipulation, reasons in lost.groupby("manipulation", sort=False):
        share, worst = reasons.share.sum(), reasons.loc[reasons.frames.idxmax()]
        if share > most_lost:
            raise UserError(
                f"{share:.0%} of the frames of {manipulation} are lost, more than the {most_lost:.0%} allowed; "
                f"most often: {worst.status} ({worst.videos} videos); mend the files or leave out the class"
            )


class _Store:
    """Crops on disk: which video (n,) and which row of its array (n,) each crop is."""

    def __init__(self, jobs: list[Job], records: list[Record], videos: np.ndarray, rows: np.ndarray):
        self.jobs, self.records, self.videos, self.rows = jobs, records, videos, rows
        self.verified: set[int] = set()

    def read(self, positions: np.ndarray, size: int) -> np.ndarray:
        """Copy the crops out, file by file; no file stays open."""
        images = np.empty((len(positions), size, size, 3), np.uint8)
        videos = self.videos[positions]
        order = np.argsort(videos, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(videos[order])) + 1):
            if len(group):
                images[group] = self._array(videos[group[0]])[self.rows[positions[group]]]
        return images

    def contents(self, positions: np.ndarray) -> list[str]:
        """For each crop what its pixels came from: source file, array and row."""
        names = [record["source"] + record["digest"] for record in self.records]
        wanted = zip(self.videos[positions], self.rows[positions], strict=True)
        return [f"{names[at]} {row}" for at, row in wanted]

    def _array(self, at: int) -> np.ndarray:
        """The array of one video; at first use its digest is compared, and a damaged one is made again."""
        job, digest = self.jobs[at], self.records[at]["digest"]
        if at not in self.verified:
            if crop_cache.digest_of_file(job.array) != digest and crop_cache.make(job)["digest"] != digest:
                raise UserError(
                    f"the crops of {'/'.join(job.name)} are damaged, and {job.path} no longer gives the "
                    f"same ones; restore that file or run again"
                )
            self.verified.add(at)
        return np.load(job.array, mmap_mode="r", allow_pickle=False)


class _Memory:
    """Crops in memory."""

    def __init__(self, images: np.ndarray):
        self.pixels = images

    def read(self, positions: np.ndarray, size: int) -> np.ndarray:
        return self.pixels[positions]

    def contents(self, positions: np.ndarray) -> list[str]:
        return [crop_cache.digest(self.pixels[at]) for at in positions]
