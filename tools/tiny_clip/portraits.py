"""Pictures to pre-train on: face crops of many people of the demo world, rendered once."""

import hashlib
import io
import os
import tempfile
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from dfnb import machine
from dfnb.demo import motion, people, render
from tools.tiny_clip.tiny_clip import SIZE
from tools.tiny_clip.vocabulary import FIELDS

STORED = 72  # pixels of a stored crop; a random window of 64 is shown
CHUNK = 25  # people in one file
TRACK = 250  # frames (10 s) of a performance from which a person's frames are drawn
ANGLES = (10.0, 5.0, 4.0)  # degrees of yaw, pitch and roll that count as one in the measures
BOX_CENTRE, BOX_SIDE = np.array([0.5, 0.42]), 1.08  # of dlib's box, in extents of the landmarks


@dataclass
class Portraits:
    """Crops uint8 (n, 72, 72, 3), codes int8 (n, fields - 1), angles float32 (n, 3), ids (n,)."""

    images: np.ndarray
    codes: np.ndarray
    angles: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def portraits(world: int, ids: range, frames: int, *, workers: int, folder: Path) -> Portraits:
    """Return crops of the people `ids` of a world, `frames` each.

    What `folder` holds is not rendered again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [
        range(first, min(first + CHUNK, ids.stop)) for first in range(ids.start, ids.stop, CHUNK)
    ]
    files = [folder / f"world{world}-{chunk.start}-{chunk.stop}-x{frames}.npz" for chunk in chunks]
    missing = [(chunk, file)
               for chunk, file in zip(chunks, files, strict=True)
               if not file.exists()]
    if not missing:
        return _read(files)
    with machine.pool(workers) as pool:
        jobs = [pool.submit(_render_chunk, world, chunk, frames, file) for chunk, file in missing]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="portraits", unit="chunk"):
            job.result()
    return _read(files)


def _read(files: list[Path]) -> Portraits:
    parts = [np.load(file) for file in files]
    return Portraits(*(np.concatenate([part[name]
                                       for part in parts])
                       for name in ("images", "codes", "angles", "ids")))


def look() -> str:
    """Return twelve hex digits of the code behind the portraits.

    Kept ones of another look are not used.
    """
    here = Path(__file__).parent
    names = ("people", "motion", "grid", "face", "features", "hair", "scenery", "render",
             "portraits")
    code = b"".join((here / f"{name}.py").read_bytes() for name in names)
    return hashlib.sha256(code + repr(FIELDS).encode()).hexdigest()[:12]


def _render_chunk(world: int, ids: range, frames: int, file: Path) -> None:
    rows = [each for id in ids for each in _shots(people.person(world, id), frames)]
    images, codes, angles = (np.stack(column) for column in zip(*rows, strict=True))
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".npz")
    with os.fdopen(handle, "wb") as stream:
        np.savez(stream, images=images, codes=codes, angles=angles,
                 ids=np.repeat(np.array(ids, np.int32), frames))
    os.replace(name, file)


def _shots(person: people.Person, frames: int) -> list[tuple]:
    """Return crops, codes and angles of one person, through H.264 like a video (crf 18 to 28)."""
    rng = person.rng(77)
    poses = _poses(motion.performance(person, TRACK, seed=77), frames, rng)
    scene = render.Scene(person)
    shots = [scene.frame(pose, rng=rng) for pose in poses]
    seen = recode(np.stack([shot.image for shot in shots]), crf=int(rng.integers(18, 29)))
    return [
        (
            _crop(image, shot.landmarks, rng),
            _codes(person, pose),
            np.array([pose.yaw, pose.pitch, pose.roll], np.float32) / np.array(ANGLES, np.float32),
        )
        for image, shot, pose in zip(seen, shots, poses, strict=True)
    ]


def _poses(track: list[motion.Pose], frames: int, rng: np.random.Generator) -> list[motion.Pose]:
    """Return frames of a track in order, drawn so that rare expressions are as frequent as common.

    Frames with closed eyes are left out: their glance cannot be seen.
    """
    track = [pose for pose in track if pose.blink < 0.4]
    kinds = [(motion.expression(pose), motion.gaze(pose)) for pose in track]
    odds = np.array([1 / kinds.count(kind) for kind in kinds])
    return [
        track[at]
        for at in sorted(rng.choice(len(track), frames, replace=False, p=odds / odds.sum()))
    ]


def _codes(person: people.Person, pose: motion.Pose) -> np.ndarray:
    """Return the index of each field's value, without the quality, int8 (fields - 1,)."""
    seen = {"expression": motion.expression(pose), "gaze": motion.gaze(pose)}
    named = {name: seen.get(name, getattr(person, name, None)) for name in list(FIELDS)[:-1]}
    return np.array([FIELDS[name].index(value) for name, value in named.items()], np.int8)


def recode(frames: np.ndarray, crf: int) -> np.ndarray:
    """Return frames uint8 (n, h, w, 3) after H.264 at a constant rate factor, in memory."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as box:
        video = box.add_stream(
            "libx264", rate=25, options={"crf": str(crf), "preset": "medium", "threads": "1"}
        )
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt, video.codec_context.thread_count = "yuv420p", 1
        for frame in frames:
            box.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        box.mux(video.encode())
    stream.seek(0)
    with av.open(stream) as box:
        return np.stack(
            [frame.to_ndarray(format="rgb24", threads=1) for frame in box.decode(video=0)])


def _crop(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a crop of 72 pixels, whose middle 64 are 1.3 x dlib's box, a little off."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    reach = high - low
    centre = low + reach * BOX_CENTRE + rng.normal(0, 0.03, 2) * reach[1]
    side = round(reach[1] * BOX_SIDE * rng.uniform(0.88, 1.12) * 1.3 * STORED / SIZE)
    left, top = np.round(centre - side / 2).astype(int)
    padded = cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REFLECT_101)
    window = padded[top + side : top + 2 * side, left + side : left + 2 * side]
    return cv2.resize(window, (STORED, STORED), interpolation=cv2.INTER_AREA)
