"""What a notebook opens: one profile's videos, their crops, and CLIP."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from dfnb import UserError, config, detectors, files
from dfnb.data import corpora, crops, leak_splits, splits
from dfnb.detectors import METHODS, Detector
from dfnb.evaluation import metrics, pointing_game, training_domain
from dfnb.models import clip as clips
from dfnb.runs import parameters, results

KEY = ["corpus", "method", "video"]
LOOK = {"frames", "size", "margin"}  # what decides the pixels of a crop


@dataclass
class Trial:
    """A fitted detector, its scores on validation and test, and the seconds that fitting and scoring took."""

    detector: Detector
    scores: pd.DataFrame
    seconds: float


@dataclass
class Bench:
    """A profile with its corpus indexed and its faces cropped; CLIP is loaded at first use."""

    profile: config.Profile
    videos: pd.DataFrame  # one row a video, with its identity group
    crops: crops.CropView  # every kept frame of every video

    @cached_property
    def clip(self) -> clips.Clip:
        return clips.load(self.profile.clip)

    @cached_property
    def known(self) -> dict[str, dict]:
        """The official lists, YouTube videos and persons that the profile names; see `splits.read_known`."""
        return splits.read_known(*self.profile.corpus.known)

    def parts(self, regime: str = "study", *, seed: int, **options) -> pd.DataFrame:
        """Split the videos by a named regime; see `splits.REGIMES`.

        With `train_method` and `test_methods` every regime keeps the fakes that these leave (`splits.keep`).
        """
        given = {"frames": self.crops.frames} | self.known | options
        parts = splits.split(self.videos, regime, seed=seed, **given)
        if {"train_method", "test_methods"} <= set(options):
            return splits.keep(parts, options["train_method"], options["test_methods"])
        return parts

    def trial(self, method: str, parts: pd.DataFrame, *, seed: int, model: clips.Clip | None = None, describe: bool = True,
              **options) -> "Trial":
        """Fit one method on the training part, choosing on validation, and score validation and test.

        What a later use needs is put on the detector's card: the threshold that validation chose, the cropping, and
        what it was trained on, in words and as a domain (the last not without `describe`: for detectors that nobody keeps).
        """
        train, validation, test = (self.view(parts, part) for part in splits.PARTS)
        started = time.perf_counter()
        detector = METHODS[method].fit(train, validation, clip=model or self.clip, seed=seed, **options)
        scores = [scores_table(view, part, detector.score(view), split=seed)
                  for part, view in (("validation", validation), ("test", test))]
        seconds = time.perf_counter() - started
        judged = metrics.to_videos(scores[0])
        threshold = metrics.best_threshold(judged.label, judged.score)
        detector.card |= {"threshold": None if np.isnan(threshold) else threshold, "split": seed,
                          "crops": self.profile.crops.model_dump(include=LOOK), "trained_on": self._told(train)}
        if describe and "path" in self.videos and "x0" in train.frames:
            detector.card["domain"] = self._domain(train, validation, model or self.clip)
        return Trial(detector, pd.concat(scores, ignore_index=True), seconds)

    def _told(self, train: crops.CropView) -> dict:
        """What a detector was trained on: profile, corpus, whether it is the demo world, and videos by method."""
        counts = train.frames.drop_duplicates(KEY).method.value_counts(sort=False)
        return {"profile": self.profile.name, "corpus": self.profile.folder.name, "demo": self.profile.demo is not None,
                "videos": {name: int(count) for name, count in counts.items()}, "frames": len(train)}

    def _domain(self, train: crops.CropView, validation: crops.CropView, model: clips.Clip) -> dict:
        videos = validation.frames.groupby(KEY, sort=False).ngroup().to_numpy()
        features = [model.image_features(view) for view in (train, validation)]
        return training_domain.learn(training_domain.traits(self.videos, train.frames), *features, videos)

    def paired(self, pairs: int, methods: list[str]) -> "Bench":
        """A bench with at least `pairs` closed pairs of all `methods`, where the corpus has them.

        That is this bench where its own videos hold them; else one of the first closed pairs of the whole corpus, a tenth
        more than asked, since some may lose too many frames: the first hundred videos of FaceForensics++ hold few.
        """
        if len(leak_splits.closed_pairs(self.crops.frames, methods, 1)) >= pairs:
            return self
        chosen = self.profile.corpus.index | {"videos_per_class": None, "methods": methods}
        videos = _grouped(corpora.index(self.profile.folder, **chosen), self.profile)
        found = leak_splits.closed_pairs(videos, methods, 1)[: pairs + pairs // 10 + 1]
        ids = {(pair.corpus, id) for pair in found for id in (pair.a, pair.b)}
        videos = videos[[key in ids for key in zip(videos.corpus, videos.target, strict=True)]].reset_index(drop=True)
        paired = Bench(self.profile, videos, _crops(videos, self.profile, True))
        paired.clip = self.clip
        return paired

    def view(self, parts: pd.DataFrame, part: str, methods: list[str] | None = None) -> crops.CropView:
        """Crops of one part, in the order of the store; `methods` keeps only some of them."""
        keys = [name for name in [*KEY, "frame"] if name in parts]
        wanted = parts.loc[parts.part == part, keys]
        chosen = self.crops.frames[keys].merge(wanted, how="left", indicator=True)["_merge"].eq("both").to_numpy()
        if methods is not None:
            chosen = chosen & self.crops.frames.method.isin(methods).to_numpy()
        return self.crops.select(chosen)


def open(profile: str, *, progress: bool = True) -> Bench:
    """Open a profile: make the demo corpus when it is missing, index the videos, crop the faces.

    UserError for parameters that the notebook does not have, before any of this.
    """
    parameters.check_kernel()
    settings = config.load(profile)
    videos = index(settings, progress=progress)
    return Bench(settings, videos, _crops(videos, settings, progress))


def index(settings: config.Profile, *, progress: bool = True) -> pd.DataFrame:
    """The profile's videos with their identity groups; the embedded demo world is made when it is not there yet."""
    if settings.demo:
        from dfnb.demo import corpus

        kinds = tuple(settings.corpus.methods)
        corpus.make(settings.folder, **settings.demo.model_dump(), kinds=kinds, videos=settings.corpus.videos,
                    progress=progress)
    return _grouped(corpora.index(settings.folder, **settings.corpus.index), settings)


def others(profile: config.Profile, *, progress: bool = True) -> Iterator[tuple[str, crops.CropView]]:
    """The name and the crops of each corpus in the profile's `test_corpora`, cut as its own are.

    Where such a corpus has parts of its own (Celeb-DF's list of testing videos), its test part alone is taken.
    UserError where it is the corpus of the profile itself, or two have one name.
    """
    names: set[str] = set()
    for other in profile.test_corpora:
        name = other.name or (other.folder.parent if other.folder.is_file() else other.folder).name
        if other.folder.resolve() == profile.folder.resolve():
            raise UserError(f"test_corpora names {other.root}, the corpus that is trained on; name another one")
        if name in names:
            raise UserError(f"test_corpora has two corpora called {name}; give one of them another name")
        names.add(name)
        videos = corpora.index(other.folder, **other.index)
        if "part" in videos and videos.part.eq("test").any():
            videos = videos[videos.part.eq("test")].reset_index(drop=True)
        videos = videos.assign(group=splits.identity_groups(videos))
        yield name, _crops(videos, profile, progress)


def across(
    profile: config.Profile, finished: Mapping[str, results.Result], split: int, *, progress: bool = True
) -> pd.DataFrame:
    """Score the profile's `test_corpora` with detectors that finished chapters saved; empty when there are none.

    `finished`: the name of a model -> the result whose detector was fitted on `split`. One row a crop: a score table with
    the constant part "test", and model, split and `tested`, the name of the corpus.
    """
    if not profile.test_corpora:
        return pd.DataFrame()
    clip, found = clips.load(profile.clip), []
    fitted = {name: detectors.load(result.folder, clip) for name, result in finished.items()}
    for tested, view in others(profile, progress=progress):
        for model, detector in fitted.items():
            found.append(scores_table(view, "test", detector.score(view), split=split, model=model, tested=tested))
    return pd.concat(found, ignore_index=True)


def _grouped(videos: pd.DataFrame, settings: config.Profile) -> pd.DataFrame:
    """The videos with their identity groups, by all that the profile knows of them."""
    known = splits.read_known(*settings.corpus.known)
    return videos.assign(group=splits.identity_groups(videos, youtube=known.get("youtube"), persons=known.get("persons")))


def _crops(videos: pd.DataFrame, settings: config.Profile, progress: bool) -> crops.CropView:
    """The crops of some videos; the corpus's own parts stay behind, a split gives its own."""
    videos = videos.drop(columns="part", errors="ignore")
    return crops.build(videos, **settings.crops.model_dump(), progress=progress)


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
        found[rows.index] = pointing_game.crop_masks(whole, rows, size=view.size, margin=bench.profile.crops.margin)
    return found


def planted(profile: config.Profile, amplitude: float, *, identities: int, frames: int, seed: int | None = None,
            workers: int | None = None, progress: bool = True) -> dict[str, Bench]:
    """The same small demo world without and with a planted cue of so many grey levels: "cue off" and "cue on".

    The cue gives away the label of scenes one knows and tells nothing about others (`demo.corpus.make`). The fakes are
    NeuralTextures at its weakest (nothing is lost in the bottleneck, no error of colour), so that there is next to
    nothing else to be found. The world's `seed` is the profile's unless it is given.
    """
    from dfnb.demo import corpus, reenact

    if seed is None:
        seed = profile.demo.seed if profile.demo else 0
    kinds, weakest, worlds = ("NeuralTextures",), reenact.ReenactStrength(bottleneck=1.0, colour=0.0), {}
    for name, cue in (("cue off", 0.0), ("cue on", amplitude)):
        place = files.data() / f"{profile.name}-planted" / f"{seed}-{identities}-{frames}-{cue:g}"
        corpus.make(place, seed=seed, identities=identities, frames=frames, kinds=kinds, reenact=weakest, planted=cue,
                    workers=workers, progress=progress)
        videos = corpora.index(place, methods=list(kinds))
        videos = videos.assign(group=splits.identity_groups(videos))
        look = profile.crops.model_dump(include=LOOK - {"frames"})
        view = crops.build(videos, frames=frames, **look, workers=workers, progress=progress)
        worlds[name] = Bench(profile, videos, view)
    return worlds


def scores_table(view: crops.CropView, part: str, scores: np.ndarray, **columns) -> pd.DataFrame:
    """Join scores (n,), one a crop of `view`, with the crops' keys; extra `columns` are constants."""
    table = view.frames[[*KEY, "group", "frame", "label"]].assign(part=part, score=np.asarray(scores, float))
    return table.assign(**columns)
