"""A saved detector and videos of one's own: score them, and say in how far it may be asked about them at all."""

import glob
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from dfnb import UserError, detectors, files
from dfnb.data import crops, faces
from dfnb.detectors import base as bases
from dfnb.evaluation import plots, training_domain
from dfnb.models import clip as clips
from dfnb.models import saliency
from dfnb.runs import state as run_state

SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}
NEEDED = ("threshold", "crops", "trained_on", "domain")  # of a card; `workbench.Experiment.trial` puts them there
FEW = 4  # videos that are cropped sooner than other processes have started
SHOWN = 4  # most and least suspicious crops in a picture


@dataclass
class Verdict:
    """What a detector says of one video; `reason` says why it says nothing."""

    path: Path
    threshold: float
    frames: pd.DataFrame  # a row per frame looked at: frame, pts (seconds), status, faces, score (NaN: lost)
    view: crops.CropView  # crops of the kept frames
    maps: np.ndarray  # (n, side, side) of these crops, see `relevance.maps`; NaN where there are none
    reason: str
    traits: dict  # side, face, bits, distance, farther; see `domain.compare`
    warnings: list[str]

    @property
    def score(self) -> float:
        """Mean over the kept frames of the probability of fake."""
        return float(self.frames.score.mean())

    @property
    def called(self) -> str:
        """The answer at the threshold; a video without a score has none."""
        return "" if self.reason else "fake" if self.score >= self.threshold else "real"

    @property
    def losses(self) -> dict[str, int]:
        """Why frames were lost, and how many."""
        return dict(Counter(self.frames.status[self.frames.status != faces.KEPT]))

    def sentences(self) -> list[str]:
        """The verdict, how many frames had a face, and what to be wary of."""
        if self.reason:
            return [f"not scored: {self.reason}"]
        lost = "".join(f"; {count} lost: {status}" for status, count in self.losses.items())
        return [f"called {self.called}: probability of fake {self.score:.3f}, threshold {self.threshold:.3f} (validation)",
                f"face in {len(self.view)} of {len(self.frames)} frames{lost}",
                *(f"outside of the training domain: {warning}" for warning in self.warnings)]


def load(folder: Path) -> detectors.Detector:
    """The detector of a run's folder or of an exported one, on the CLIP it was fitted on.

    Raises UserError for a run that is not complete or was damaged, and for a detector saved without a threshold.
    """
    folder = Path(folder)
    if config := run_state.read_json(folder / "config.json"):
        state, why = run_state.settled(folder, config)
        if state not in ("done", "stale"):
            raise UserError(f"the run {folder} is {state} ({why}); repeat it, as `dfnb study` does")
    base = bases.peek(folder)["base"]["name"]
    clip = clips.load(str(folder / "clip") if (folder / "clip").is_dir() else base)
    detector = detectors.load(folder, clip)
    detector.clip = clip  # those that read no features do not keep it; the domain needs it
    if lacking := [name for name in NEEDED if detector.card.get(name) is None]:
        raise UserError(f"the detector in {folder} was saved without {' and '.join(lacking)}; run its chapter again")
    if "prefix" in detector.card["options"]:
        detector.card["options"]["prefix"] = False  # a clip is scored once: nothing worth keeping on disk
    return detector


def caveat(card: dict) -> str:
    """What a detector's answer is worth, from what it was trained on."""
    told = card["trained_on"]
    fakes = " and ".join(name for name in told["videos"] if name != "real")
    if told["demo"]:
        return (f"Trained on {fakes} of the demo world (profile {told['profile']}), whose people are drawn: "
                "of a recording of a real person its answer is no evidence.")
    return (f"Trained on {fakes} of {told['corpus']}: other manipulations, cameras and compressions may be called wrongly; "
            "its answer is no evidence.")


def find(places: list[str]) -> list[Path]:
    """The files that are meant: files, folders (all videos in and below them) and patterns such as clips/*.mp4.

    What does not exist stays in the list, so that its verdict says so. UserError for a folder without a video.
    """
    found = []
    for place in map(str, places):
        path = Path(place).expanduser()
        if path.is_dir():
            paths = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
            if not paths:
                raise UserError(f"{path} holds no video; known are {', '.join(sorted(SUFFIXES))}")
        else:
            paths = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True))) or [path]
        found += paths
    return list(dict.fromkeys(found))


def _maps(detector: detectors.Detector, view: crops.CropView) -> np.ndarray:
    """Maps of relevance; NaN (n, 1, 1) of a detector that has none."""
    try:
        return saliency.maps(detector, view)
    except saliency.NoTower:
        return np.full((len(view), 1, 1), np.nan)


def score(detector: detectors.Detector, paths: list[Path], *, workers: int | None = None,
          progress: bool = True) -> list[Verdict]:
    """Crop as the detector's training videos were cropped, score, and compare with its domain; a verdict a file."""
    names = [str(Path(file).absolute()) for file in paths]
    videos = pd.DataFrame({"corpus": "clips", "manipulation": "clip", "video": names, "path": names})
    workers = workers or (1 if len(paths) <= FEW else None)
    view = crops.build(videos, **detector.card["crops"], most_lost=1.0, workers=workers, progress=progress)
    found = np.zeros(0), np.zeros((0, 1, 1)), np.zeros((0, 1))
    if len(view):
        found = detector.score(view), _maps(detector, view), detector.clip.image_features(view)
    return [_verdict(detector.card, Path(file), videos.iloc[[at]], view, *found) for at, file in enumerate(paths)]


def _verdict(card: dict, file: Path, video: pd.DataFrame, view: crops.CropView, scores: np.ndarray, maps: np.ndarray,
             features: np.ndarray) -> Verdict:
    """The verdict of one file, `video` (one row), out of the scores, maps and features of all files' crops."""
    name = video.video.item()
    rows = np.flatnonzero(view.frames.video == name)
    frames = view.all_frames.query("video == @name")[["frame", "pts", "status", "faces"]].reset_index(drop=True)
    frames["score"] = np.nan
    frames.loc[frames.status == faces.KEPT, "score"] = scores[rows]
    traits, warnings, reason = {}, [], ""
    if len(rows):
        own = training_domain.traits(video, view.frames.iloc[rows]).iloc[0]
        traits, warnings = training_domain.compare(card["domain"], own, features[rows])
    elif (frames.frame < 0).all():  # the file itself was rejected
        reason = frames.status.iloc[0]
    else:
        reason = f"no frame of {len(frames)} could be used ({'; '.join(frames.status.unique())})"
    return Verdict(file, card["threshold"], frames, view.select(rows), maps[rows], reason, traits, warnings)


def write(verdicts: list[Verdict], card: dict, out: Path, *, progress: bool = True) -> None:
    """Write scores.csv, scores.json and a picture of each scored video into a folder.

    scores.csv is a table of frame scores that `dfnb evaluate` reads, once its labels are known: they are filled in where
    a path is one of FaceForensics++. scores.json holds everything, the videos that could not be scored too.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; the scores need a folder")
    pictures = _picture_names(verdicts)
    table = pd.concat([_rows(verdict) for verdict in verdicts])
    files.atomic_write(out / "scores.csv", table.to_csv(index=False))
    content = {"detector": {name: card[name] for name in ("detector", "base", "threshold", "trained_on", "crops")},
               "caveat": caveat(card),
               "videos": [_plain(verdict, name) for verdict, name in zip(verdicts, pictures, strict=True)]}
    files.atomic_write(out / "scores.json", files.canonical(content))
    plots.style()
    named = [(verdict, name) for verdict, name in zip(verdicts, pictures, strict=True) if name]
    for verdict, name in tqdm(named, desc="pictures", disable=None if progress else True):
        figure = picture(verdict, card)
        with files.atomic(out / name) as temporary:
            figure.savefig(temporary, metadata={"Software": None})
        plt.close(figure)


def picture(verdict: Verdict, card: dict, shown: int = SHOWN) -> Figure:
    """A figure of one verdict: scores over time, the most and the least suspicious crops, where the detector looks."""
    kept = verdict.frames[verdict.frames.status == faces.KEPT]
    order = np.argsort(-kept.score.to_numpy(), kind="stable")
    shown = min(shown, len(order) // 2)  # no crop is both
    chosen = {"most suspicious": order[:shown], "least suspicious": order[::-1][:shown]} if shown else {}
    rows = {name: (verdict.view.images(at), verdict.maps[at], kept.iloc[at]) for name, at in chosen.items()}
    return plots.verdict(verdict.frames, rows, threshold=verdict.threshold, notes=[*verdict.sentences(), caveat(card)],
                         title=f"{verdict.path.name}: called {verdict.called}"
                         + (", but outside of the training domain" if verdict.warnings else ""))


def _picture_names(verdicts: list[Verdict]) -> list[str | None]:
    """A file name for each scored video: its stem, numbered where several have the same one."""
    seen, names = Counter(), []
    for verdict in verdicts:
        stem = verdict.path.stem
        seen[stem] += not verdict.reason
        names.append(None if verdict.reason else f"{stem}.png" if seen[stem] == 1 else f"{stem}-{seen[stem]}.png")
    return names


def _rows(verdict: Verdict) -> pd.DataFrame:
    manipulation, label = _known(verdict.path)
    kept = verdict.frames[verdict.frames.status == faces.KEPT]
    return pd.DataFrame({"video": str(verdict.path), "manipulation": manipulation, "label": label, "split": "test",
                         "frame": kept.frame, "time": kept.pts.round(3), "score": kept.score})


def _known(path: Path) -> tuple[str, str]:
    """Method and label where the path is one of FaceForensics++, else "unknown" and nothing."""
    folders = path.absolute().parts
    if "original_sequences" in folders:
        return "real", "0"
    if "manipulated_sequences" in folders[:-1]:
        return folders[folders.index("manipulated_sequences") + 1], "1"
    return "unknown", ""


def _plain(verdict: Verdict, picture: str | None) -> dict:
    frames = verdict.frames.astype({"score": object}).where(verdict.frames.score.notna(), None)
    return {"path": str(verdict.path), "score": None if verdict.reason else verdict.score, "called": verdict.called or None,
            "threshold": verdict.threshold, "reason": verdict.reason or None, "warnings": verdict.warnings,
            "traits": verdict.traits, "picture": picture, "lost": verdict.losses,
            "frames": json.loads(frames.to_json(orient="records"))}
