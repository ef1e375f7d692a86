"""Write people of one world as mp4 files in the official layout of FaceForensics++.

Real videos have the ids 000, 001, ...; the pairs (000, 001), (002, 003), ... are closed, and a pair
(a, b) gives the fakes a_b and b_a of every kind, named target_source.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from dfnb import machine
from dfnb.demo import people
from dfnb.demo.kinds import KINDS, Strengths, fakes, plant, record

WORLD = 1  # raise it when the code changes the pictures: corpora made before are then refused
WORKER = 2**29  # bytes that a process takes which makes videos of up to some hundred frames
FPS, CRF = 25, 23  # crf 23 is the c23 of FaceForensics++
UNFINISHED = "corpus.unfinished.json"  # the settings, until all videos are there


@dataclass(frozen=True)
class Settings:
    """All settings that decide the bytes of the corpus; stored in corpus.json."""

    seed: int
    identities: int
    frames: int
    kinds: tuple[str, ...]
    strengths: Strengths
    planted: float
    videos: dict[str, int] = field(
        default_factory=dict)  # kind -> number of its fakes, where not all are made
    world: int = WORLD

    def __post_init__(self) -> None:
        if self.world != WORLD:
            raise ValueError(
                f"the corpus is of version {self.world} of the demo world, not of {WORLD}; "
                "delete its folder and make it again")
        if self.identities % 2 or not 2 <= self.identities <= 1000:
            raise ValueError(
                f"identities must be an even number from 2 to 1000, got {self.identities}")
        if self.frames < 1 or self.seed < 0 or not 0 <= self.planted <= 50:
            raise ValueError(
                "frames must be at least 1, seed at least 0 and planted in [0, 50]; got frames "
                f"{self.frames}, seed {self.seed}, planted {self.planted}")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise ValueError(
                f"the demo world makes no {', '.join(unknown)}; it makes {', '.join(KINDS)}")
        for kind, count in self.videos.items():
            if kind not in self.kinds or not 1 <= count <= self.identities:
                raise ValueError(
                    f"videos says how many of its at most {self.identities} fakes a kind among "
                    f"{', '.join(self.kinds)} has, at least 1; got {kind}: {count}")

    def pairs(self) -> list[tuple[int, int]]:
        """Return the ids of all pairs."""
        return [(first, first + 1) for first in range(0, self.identities, 2)]

    def fakes(self, pair: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
        """Return the fakes of a pair as (kind, ids); target k is the k-th fake of a kind."""
        return [(kind, ids) for kind in self.kinds for ids in (pair, pair[::-1])
                if ids[0] < self.videos.get(kind, self.identities)]


def make(folder: Path | str, *, seed: int, identities: int, frames: int,
         kinds: tuple[str, ...] = tuple(KINDS), videos: Mapping[str, int] | None = None,
         planted: float = 0.0, workers: int | None = None, progress: bool = True,
         **strengths) -> Path:
    """Write the videos that are missing in `folder` and return the folder.

    The bytes depend on the settings alone, not on `workers` (processes; all cores by default) and
    not on interruptions. `videos` limits the number of fakes of a kind. `planted` adds a cue that
    reveals the label of known people and nothing about others: each person has a fixed smooth
    pattern of at most `planted` grey levels, added to the real video and taken off the fakes of
    which that person is the target. `strengths` are fields of `Strengths`, such as
    swap=SwapStrength(feather=3).

    Raises ValueError for a setting out of range and for a folder that holds a corpus of other
    settings.
    """
    folder = Path(folder)
    settings = Settings(seed, identities, frames, tuple(kinds), Strengths(**strengths), planted,
                        dict(videos or {}))
    _claim(folder, settings)
    todo = [pair for pair in settings.pairs() if _missing(folder, settings, pair)]
    _in_parallel(partial(_make_pair, folder, settings), todo, workers, progress)
    _replace(folder / "corpus.json", _json(settings))
    (folder / UNFINISHED).unlink(missing_ok=True)
    return folder


def masks(folder: Path | str, manipulation: str, video: str) -> np.ndarray:
    """Return how much of each pixel of a fake is new: uint8 (frames, h, w), 0 none .. 255 all.

    Nothing is stored: the video is manipulated once more with the settings in corpus.json, which
    takes as long as making it. Raises ValueError when the corpus has no such fake.
    """
    settings = _settings(Path(folder) / "corpus.json")
    made = {kind: {} for kind in settings.kinds}
    for kind, ids in (fake for pair in settings.pairs() for fake in settings.fakes(pair)):
        made[kind][_name(ids)] = ids
    if video not in made.get(manipulation, {}):
        there = "; ".join(
            f"{kind}: {next(iter(names))} to {list(names)[-1]}" for kind, names in made.items())
        raise ValueError(f"{folder} has no fake {manipulation}/{video}; it has {there}")
    takes = [record(settings.seed, id, settings.frames) for id in made[manipulation][video]]
    return np.stack([np.rint(255 * mask).astype(np.uint8)
                     for _, mask in fakes(manipulation, *takes, settings.strengths)])


def video_path(folder: Path, manipulation: str, video: str) -> Path:
    """Return the path of a video; `manipulation` is "real" or the name of one."""
    real = manipulation == "real"
    place = "original_sequences/youtube" if real else f"manipulated_sequences/{manipulation}"
    return folder / place / f"c{CRF}" / "videos" / f"{video}.mp4"


def _name(ids: tuple[int, ...]) -> str:
    return "_".join(f"{id:03d}" for id in ids)


def _missing(folder: Path, settings: Settings,
             pair: tuple[int, int]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the videos of a pair that do not exist yet, as (manipulation, ids)."""
    wanted = [("real", (id,)) for id in pair] + settings.fakes(pair)
    return [(manipulation, ids)
            for manipulation, ids in wanted
            if not video_path(folder, manipulation, _name(ids)).exists()]


def _make_pair(folder: Path, settings: Settings, pair: tuple[int, int]) -> None:
    """Write a pair's missing videos; both people are recorded once, for all kinds."""
    takes = {id: record(settings.seed, id, settings.frames) for id in pair}
    for manipulation, ids in _missing(folder, settings, pair):
        if manipulation == "real":
            pictures, sign = [frame.image for frame in takes[ids[0]].frames], 1
        else:
            pairs = fakes(manipulation, *(takes[id] for id in ids), settings.strengths)
            pictures, sign = [picture for picture, _ in pairs], -1
        pictures = plant(pictures, people.person(settings.seed, ids[0]), sign * settings.planted)
        _replace(video_path(folder, manipulation, _name(ids)), _encode(pictures))


def _in_parallel(task: partial, todo: list, workers: int | None, progress: bool) -> None:
    """Run the task on each item with a progress bar; TQDM_DISABLE=1 hides it as well."""
    quiet = {} if progress else {"disable": True}  # an explicit False would overrule TQDM_DISABLE
    shown = partial(tqdm, total=len(todo), desc="demo corpus", unit="pair", **quiet)
    workers = min(machine.look().workers(workers, WORKER), len(todo))
    if workers <= 1:
        list(shown(map(task, todo)) if todo else ())
        return
    with machine.pool(workers) as pool:
        list(shown(pool.map(task, todo)))


def _encode(pictures: list[np.ndarray]) -> bytes:
    """Return an H.264 file of pictures uint8 (h, w, 3); one thread, or its bytes would vary."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=FPS,
            options={"crf": str(CRF), "threads": "1", "x264-params": "cpu-independent=1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _claim(folder: Path, settings: Settings) -> None:
    """Check that `folder` is free or of the same settings, and note them there."""
    stored = next(
        (folder / name for name in ("corpus.json", UNFINISHED) if (folder / name).exists()), None)
    if stored is None:
        if next(folder.glob("*_sequences"), None):
            raise ValueError(f"{folder} holds videos but no corpus.json: it is no demo corpus; "
                             "choose another folder")
        _replace(folder / UNFINISHED, _json(settings))
        return
    defaults = {
        f"strengths.{name}": value
        for name, value in _flat(dataclasses.asdict(Strengths())).items()
    }
    there, here = defaults | _flat(_load(stored)), _flat(json.loads(_json(settings)))
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            raise ValueError(f"{folder} holds a demo corpus with {name} {there.get(name)}, "
                             f"not {here.get(name)}; delete the folder or choose another one")


def _flat(tree: dict, prefix: str = "") -> dict:
    """Return {"swap": {"feather": 1}} becomes {"swap.feather": 1}."""
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value,
                                                               dict) else {prefix + name: value}
    return flat


def _json(settings: Settings) -> bytes:
    return (json.dumps(dataclasses.asdict(settings), indent=2) + "\n").encode()


def _load(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold the settings of a demo corpus ({error}); delete the folder "
            "or choose another one") from error


def _settings(path: Path) -> Settings:
    stored = _load(path)
    strengths = {each.name: each.default_factory(**stored["strengths"].get(each.name, {}))
                 for each in dataclasses.fields(Strengths)}
    return Settings(**stored
                    | {"kinds": tuple(stored["kinds"]), "strengths": Strengths(**strengths)})


def _replace(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
