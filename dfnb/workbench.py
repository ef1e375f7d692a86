"""What a notebook opens: one profile's videos, their crops, and CLIP."""

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from dfnb import UserError, corpora, crops, paths, pointing, profiles, splits, video
from dfnb import clip as clips
from dfnb.methods import METHODS, Detector

KEY = ["corpus", "method", "video"]


@dataclass
class Trial:
    """A fitted detector, its scores on validation and test, and the seconds that fitting and scoring took."""

    detector: Detector
    scores: pd.DataFrame
    seconds: float


@dataclass
class Bench:
    """A profile with its corpus indexed and its faces cropped; CLIP is loaded at first use."""

    profile: profiles.Profile
    videos: pd.DataFrame  # one row a video, with its identity group
    crops: crops.CropView  # every kept frame of every video

    @cached_property
    def clip(self) -> clips.Clip:
        return clips.load(self.profile.clip)

    def parts(self, regime: str = "study", *, seed: int, **options) -> pd.DataFrame:
        """Split the videos by a named regime; see `splits.REGIMES`."""
        return splits.split(self.videos, regime, seed=seed, **options)

    def trial(self, method: str, parts: pd.DataFrame, *, seed: int, model: clips.Clip | None = None, **options) -> "Trial":
        """Fit one method on the training part, choosing on validation, and score validation and test."""
        train, validation, test = (self.view(parts, part) for part in splits.PARTS)
        started = time.perf_counter()
        detector = METHODS[method].fit(train, validation, clip=model or self.clip, seed=seed, **options)
        scores = [scores_table(view, part, detector.score(view), split=seed)
                  for part, view in (("validation", validation), ("test", test))]
        return Trial(detector, pd.concat(scores, ignore_index=True), time.perf_counter() - started)

    def view(self, parts: pd.DataFrame, part: str, methods: list[str] | None = None) -> crops.CropView:
        """Crops of one part, in the order of the store; `methods` keeps only some of them."""
        keys = [name for name in [*KEY, "frame"] if name in parts]
        wanted = parts.loc[parts.part == part, keys]
        chosen = self.crops.frames[keys].merge(wanted, how="left", indicator=True)["_merge"].eq("both").to_numpy()
        if methods is not None:
            chosen = chosen & self.crops.frames.method.isin(methods).to_numpy()
        return self.crops.select(chosen)


def open(profile: str, *, progress: bool = True) -> Bench:
    """Open a profile: make the demo corpus when it is missing, index the videos, crop the faces."""
    settings = profiles.load(profile)
    videos = index(settings, progress=progress)
    view = crops.build(videos, **settings.crops.model_dump(), progress=progress)
    return Bench(settings, videos, view)


def index(settings: profiles.Profile, *, progress: bool = True) -> pd.DataFrame:
    """The profile's videos with their identity groups; the embedded demo world is made when it is not there yet."""
    if settings.demo:
        from dfnb.demo import corpus

        wanted = {"kinds": tuple(settings.corpus.methods), "videos": settings.corpus.videos}
        corpus.make(settings.folder, **settings.demo.model_dump(), **wanted, progress=progress)
    videos = corpora.index(settings.folder, **settings.corpus.model_dump(exclude={"root"}))
    return videos.assign(group=splits.identity_groups(videos))


def masks(bench: Bench, view: crops.CropView) -> np.ndarray:
    """How much of each pixel of the fake crops of a view is new: uint8 (n, size, size), 0 .. 255.

    The demo world makes its fakes once more for this, about half a second a video. Reals are black. UserError for
    a corpus that is not the demo's: nobody knows what was changed there to the pixel.
    """
    if not bench.profile.demo:
        raise UserError(f"masks are known in the demo world only, the profile {bench.profile.name} has another corpus")
    from dfnb.demo import corpus

    found = np.zeros((len(view), view.size, view.size), np.uint8)
    for (method, name), rows in view.frames[view.labels == 1].groupby(["method", "video"]):
        whole = corpus.masks(bench.profile.folder, method, name)  # (frames, h, w)
        found[rows.index] = pointing.crop_masks(whole, rows, size=view.size, margin=bench.profile.crops.margin)
    return found


def planted(profile: profiles.Profile, amplitude: float, *, identities: int, frames: int, seed: int | None = None,
            workers: int | None = None, progress: bool = True) -> Bench:
    """A small demo world with a planted cue of so many grey levels, reduced to what the cue adds to each picture.

    The cue gives away the label of scenes one knows and tells nothing about others (`demo.corpus.make`). A "crop" is a
    whole picture minus the same one of a world without the cue, plus 128: on the picture itself, the scene tells a
    leaky detector so much that a cue can add little. Reals and FaceSwap; the world's `seed` is the profile's unless
    it is given.
    """
    from dfnb.demo import corpus

    if seed is None:
        seed = profile.demo.seed if profile.demo else 0
    pictures = []
    for cue in (0.0, amplitude):
        place = paths.data() / f"{profile.name}-planted" / f"{seed}-{identities}-{frames}-{cue:g}"
        corpus.make(place, seed=seed, identities=identities, frames=frames, kinds=("FaceSwap",), planted=cue,
                    workers=workers, progress=progress)
        videos = corpora.index(place, methods=["FaceSwap"])
        pictures.append(np.concatenate([video.read(path, frames).frames for path in videos.path]).astype(np.int16))
    added = np.clip(pictures[1] - pictures[0] + 128, 0, 255).astype(np.uint8)  # (n, h, w, 3)
    videos = videos.assign(group=splits.identity_groups(videos))
    table = videos.drop(columns="path").merge(pd.DataFrame({"frame": range(frames)}), how="cross")
    return Bench(profile, videos, crops.CropView.of_arrays(added, table))


def scores_table(view: crops.CropView, part: str, scores: np.ndarray, **columns) -> pd.DataFrame:
    """Join scores (n,), one a crop of `view`, with the crops' keys; extra `columns` are constants."""
    table = view.frames[[*KEY, "group", "frame", "label"]].assign(part=part, score=np.asarray(scores, float))
    return table.assign(**columns)
