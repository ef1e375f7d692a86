"""Score videos with a saved detector, and check whether they are like its training videos."""

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
from dfnb.detectors import base
from dfnb.evaluation import plots, training_domain
from dfnb.models import clip as clips
from dfnb.models import saliency
from dfnb.runs import state as run_state

SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}
NEEDED = ("threshold", "crops", "trained_on", "domain")  # metadata that `Experiment.trial` adds
FEW = 4  # videos that one process crops sooner than further processes start
SHOWN = 4  # most and least suspicious crops in a picture


@dataclass
class Verdict:
    """What a detector answers about one video; `reason` says why there is no answer."""

    path: Path
    threshold: float
    frames: pd.DataFrame  # per frame: frame, pts (seconds), status, faces, score (NaN: lost)
    view: crops.CropView  # crops of the kept frames
    maps: np.ndarray  # (n, side, side) relevance of their patches; NaN where a detector has none
    reason: str
    traits: dict  # side, face, bits, distance, farther; see `training_domain.compare`
    warnings: list[str]

    @property
    def score(self) -> float:
        """The mean over the kept frames of the probability of fake."""
        return float(self.frames.score.mean())

    @property
    def called(self) -> str:
        """The answer at the threshold, "" for a video without a score."""
        return "" if self.reason else "fake" if self.score >= self.threshold else "real"

    @property
    def losses(self) -> dict[str, int]:
        """The number of lost frames by reason."""
        return dict(Counter(self.frames.status[self.frames.status != faces.KEPT]))

    def sentences(self) -> list[str]:
        """Return the verdict, the number of frames with a face, and the warnings."""
        if self.reason:
            return [f"not scored: {self.reason}"]
        lost = "".join(f"; {count} lost: {status}" for status, count in self.losses.items())
        return [f"called {self.called}: probability of fake {self.score:.3f}, threshold "
                f"{self.threshold:.3f} (validation)",
                f"face in {len(self.view)} of {len(self.frames)} frames{lost}",
                *(f"outside of the training domain: {warning}" for warning in self.warnings)]


def load(folder: Path) -> detectors.Detector:
    """Return the detector of a run's folder or of an exported one, on the CLIP it was fitted on.

    Raises UserError for a run that is incomplete or damaged, and for a detector that was saved
    without a threshold.
    """
    folder = Path(folder)
    if config := run_state.read_json(folder / "config.json"):
        state, why = run_state.settled(folder, config)
        if state not in ("done", "stale"):
            raise UserError(f"the run {folder} is {state} ({why}); repeat it with `dfnb study`")
    name = base.read_metadata(folder)["base"]["name"]
    clip = clips.load(str(folder / "clip") if (folder / "clip").is_dir() else name)
    detector = detectors.load(folder, clip)
    if lacking := [name for name in NEEDED if detector.metadata.get(name) is None]:
        raise UserError(f"the detector in {folder} was saved without {' and '.join(lacking)}; "
                        "run its chapter again")
    detector.cache_prefix = False  # a video is scored once
    return detector


def caveat(metadata: dict) -> str:
    """Return a sentence on what a detector's answer is worth, from what it was trained on."""
    trained_on = metadata["trained_on"]
    fakes = " and ".join(name for name in trained_on["videos"] if name != "real")
    if trained_on["demo"]:
        return (f"Trained on {fakes} of the demo world (profile {trained_on['profile']}), whose "
                "people are drawn: of a recording of a real person its answer is no evidence.")
    return (f"Trained on {fakes} of {trained_on['corpus']}: other manipulations, cameras and "
            "compressions may be called wrongly; its answer is no evidence.")


def find(places: list[str]) -> list[Path]:
    """Return the files that `places` name.

    A place is a file, a folder (all videos below it) or a pattern like clips/*.mp4. What does not
    exist stays in the list, so that its verdict says so. UserError for a folder without a video.
    """
    found = []
    for place in map(str, places):
        path = Path(place).expanduser()
        if path.is_dir():
            paths = sorted(file for file in path.rglob("*")
                           if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
            if not paths:
                raise UserError(f"{path} holds no video; dfnb reads {', '.join(sorted(SUFFIXES))}")
        elif path.exists():
            paths = [path]
        else:
            paths = sorted(map(Path, glob.glob(str(path), recursive=True))) or [path]
        found += paths
    return list(dict.fromkeys(found))


def score(detector: detectors.Detector, paths: list[Path], *, workers: int | None = None,
          progress: bool = True) -> list[Verdict]:
    """Crop and score videos as the training videos were; return one verdict for each file."""
    names = [str(Path(file).absolute()) for file in paths]
    videos = pd.DataFrame({"corpus": "clips", "manipulation": "clip", "video": names,
                           "path": names})
    workers = workers or (1 if len(paths) <= FEW else None)
    view = crops.build(videos, **detector.metadata["crops"], most_lost=1.0, workers=workers,
                       progress=progress)
    scores, maps, features = np.zeros(0), np.zeros((0, 1, 1)), np.zeros((0, 1))
    if len(view):
        scores, features = detector.score(view), detector.clip.image_features(view)
        maps = _maps(detector, view)
    return [_verdict(detector.metadata, Path(file), videos.iloc[[at]], view, scores, maps, features)
            for at, file in enumerate(paths)]


def _maps(detector: detectors.Detector, view: crops.CropView) -> np.ndarray:
    """Return the maps of relevance, NaN (n, 1, 1) for a detector that has none."""
    try:
        return detector.maps(view)
    except saliency.NoMaps:
        return np.full((len(view), 1, 1), np.nan)


def _verdict(metadata: dict, file: Path, video: pd.DataFrame, view: crops.CropView,
             scores: np.ndarray, maps: np.ndarray, features: np.ndarray) -> Verdict:
    """Return the verdict on `video` (one row); scores, maps and features are of all crops."""
    name = video.video.item()
    rows = np.flatnonzero(view.frames.video == name)
    columns = ["frame", "pts", "status", "faces"]
    frames = view.all_frames.query("video == @name")[columns].reset_index(drop=True)
    frames["score"] = np.nan
    frames.loc[frames.status == faces.KEPT, "score"] = scores[rows]
    traits, warnings, reason = {}, [], ""
    if len(rows):
        own = training_domain.traits(video, view.frames.iloc[rows]).iloc[0]
        traits, warnings = training_domain.compare(metadata["domain"], own, features[rows])
    elif (frames.frame < 0).all():  # the file itself was rejected
        reason = frames.status.iloc[0]
    else:
        statuses = "; ".join(frames.status.unique())
        reason = f"no frame of {len(frames)} could be used ({statuses})"
    return Verdict(file, metadata["threshold"], frames, view.select(rows), maps[rows], reason,
                   traits, warnings)


def write(verdicts: list[Verdict], metadata: dict, out: Path, *, progress: bool = True) -> None:
    """Write scores.csv, scores.json and a picture of each scored video into the folder `out`.

    scores.csv is a table of frame scores that `dfnb evaluate` reads once the labels are known; they
    are filled in where a path is one of FaceForensics++. scores.json also holds the videos that
    could not be scored.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; the scores need a folder")
    named = list(zip(verdicts, _picture_names(verdicts), strict=True))
    table = pd.concat([_rows(verdict) for verdict in verdicts])
    files.atomic_write(out / "scores.csv", table.to_csv(index=False))
    known = ("detector", "base", "threshold", "trained_on", "crops")
    content = {"detector": {name: metadata[name] for name in known}, "caveat": caveat(metadata),
               "videos": [_plain(verdict, name) for verdict, name in named]}
    files.atomic_write(out / "scores.json", files.canonical(content))
    plots.style()
    scored = [(verdict, name) for verdict, name in named if name]
    for verdict, name in tqdm(scored, desc="pictures", disable=None if progress else True):
        figure = picture(verdict, metadata)
        with files.atomic(out / name) as temporary:
            figure.savefig(temporary, metadata={"Software": None})
        plt.close(figure)


def picture(verdict: Verdict, metadata: dict, shown: int = SHOWN) -> Figure:
    """Draw one verdict: scores over time, the most and least suspicious crops, and their maps."""
    kept = verdict.frames[verdict.frames.status == faces.KEPT]
    order = np.argsort(-kept.score.to_numpy(), kind="stable")
    shown = min(shown, len(order) // 2)  # no crop is both
    chosen = {"most suspicious": order[:shown], "least suspicious": order[::-1][:shown]}
    rows = {name: (verdict.view.images(at), verdict.maps[at], kept.iloc[at])
            for name, at in chosen.items() if shown}
    outside = ", but outside of the training domain" if verdict.warnings else ""
    return plots.verdict(verdict.frames, rows, threshold=verdict.threshold,
                         notes=[*verdict.sentences(), caveat(metadata)],
                         title=f"{verdict.path.name}: called {verdict.called}{outside}")


def _picture_names(verdicts: list[Verdict]) -> list[str | None]:
    """Return a file name for each scored video: its stem, numbered where several are equal."""
    seen, names = Counter(), []
    for verdict in verdicts:
        stem = verdict.path.stem
        seen[stem] += not verdict.reason
        number = f"-{seen[stem]}" if seen[stem] > 1 else ""
        names.append(None if verdict.reason else f"{stem}{number}.png")
    return names


def _rows(verdict: Verdict) -> pd.DataFrame:
    manipulation, label = _known(verdict.path)
    kept = verdict.frames[verdict.frames.status == faces.KEPT]
    return pd.DataFrame({
        "video": str(verdict.path), "manipulation": manipulation, "label": label, "split": "test",
        "frame": kept.frame, "time": kept.pts.round(3), "score": kept.score})


def _known(path: Path) -> tuple[str, str]:
    """Return manipulation and label of a path of FaceForensics++, else "unknown" and ""."""
    folders = path.absolute().parts
    if "original_sequences" in folders:
        return "real", "0"
    if "manipulated_sequences" in folders[:-1]:
        return folders[folders.index("manipulated_sequences") + 1], "1"
    return "unknown", ""


def _plain(verdict: Verdict, picture: str | None) -> dict:
    frames = verdict.frames.astype({"score": object}).where(verdict.frames.score.notna(), None)
    return {"path": str(verdict.path), "score": None if verdict.reason else verdict.score,
            "called": verdict.called or None, "threshold": verdict.threshold,
            "reason": verdict.reason or None, "warnings": verdict.warnings,
            "traits": verdict.traits, "picture": picture, "lost": verdict.losses,
            "frames": json.loads(frames.to_json(orient="records"))}
