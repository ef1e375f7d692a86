"""What a notebook opens: one profile's videos, their crops, and CLIP."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from dfnb import KEY, SPLITS, UserError, config, detectors, files
from dfnb.data import corpora, crops, identity, leak_splits, splits
from dfnb.detectors import DETECTORS, Detector
from dfnb.evaluation import metrics, pointing_game, training_domain
from dfnb.models import clip as clips
from dfnb.runs.parameters import check_kernel
from dfnb.runs.results import Result

LOOK = {"frames", "size", "margin"}  # what decides the pixels of a crop


@dataclass
class Trial:
    """A fitted detector, its scores on validation and test, and the seconds that fitting and scoring took."""

    detector: Detector
    scores: pd.DataFrame
    seconds: float


@dataclass
class Experiment:
    """A profile with its corpus indexed and its faces cropped; CLIP is loaded at first use."""

    profile: config.Profile
    videos: pd.DataFrame  # one row a video, with its identity group
    crops: crops.CropView  # every kept frame of every video

    @classmethod
    def open(cls, profile: str, *, progress: bool = True) -> "Experiment":
        """Open a profile: make the demo corpus when it is missing, index the videos, crop the faces.

        UserError for parameters that the notebook does not have, before any of this.
        """
        check_kernel()
        settings = config.load(profile)
        videos = index(settings, progress=progress)
        return cls(settings, videos, _crops(videos, settings, progress))

    @cached_property
    def clip(self) -> clips.Clip:
        return clips.load(self.profile.clip, precision=self.profile.precision)

    @cached_property
    def known(self) -> dict[str, dict]:
        """The official lists, YouTube videos and persons that the profile names; see `identity.read_known`."""
        return identity.read_known(*self.profile.corpus.known)

    def split(self, protocol: str = "study", *, seed: int, **options) -> pd.DataFrame:
        """Split the videos by a named protocol; see `splits.REGIMES`.

        With `train_manipulation` and `test_manipulations` every protocol keeps the fakes that these leave (`splits.keep`).
        """
        given = {"frames": self.crops.frames} | self.known | options
        split_table = splits.split(self.videos, protocol, seed=seed, **given)
        if {"train_manipulation", "test_manipulations"} <= set(options):
            return splits.keep(split_table, options["train_manipulation"], options["test_manipulations"])
        return split_table

    def trial(self, detector: str, split_table: pd.DataFrame, *, seed: int, model: clips.Clip | None = None, describe: bool = True,
              **options) -> "Trial":
        """Fit one detector on the training split, choosing on validation, and score validation and test.

        What a later use needs is put on the detector's card: the threshold that validation chose, the cropping, and
        what it was trained on, in words and as a domain (the last not without `describe`: for detectors that nobody keeps).
        """
        train, validation, test = (self.view(split_table, split) for split in SPLITS)
        started = time.perf_counter()
        fitted = DETECTORS[detector].fit(train, validation, clip=model or self.clip, seed=seed, **options)
        scores = [scores_table(view, split, fitted.score(view), split_seed=seed)
                  for split, view in (("validation", validation), ("test", test))]
        seconds = time.perf_counter() - started
        judged = metrics.to_videos(scores[0])
        threshold = metrics.best_threshold(judged.label, judged.score)
        fitted.card |= {"threshold": None if np.isnan(threshold) else threshold, "split_seed": seed,
                          "crops": self.profile.crops.model_dump(include=LOOK), "trained_on": self._told(train)}
        if describe and "path" in self.videos and "x0" in train.frames:
            fitted.card["domain"] = self._domain(train, validation, model or self.clip)
        return Trial(fitted, pd.concat(scores, ignore_index=True), seconds)

    def _told(self, train: crops.CropView) -> dict:
        """What a detector was trained on: profile, corpus, whether it is the demo world, and videos by manipulation."""
        counts = train.frames.drop_duplicates(KEY).manipulation.value_counts(sort=False)
        return {"profile": self.profile.name, "corpus": self.profile.folder.name, "demo": self.profile.demo is not None,
                "videos": {name: int(count) for name, count in counts.items()}, "frames": len(train)}

    def _domain(self, train: crops.CropView, validation: crops.CropView, model: clips.Clip) -> dict:
        videos = validation.frames.groupby(KEY, sort=False).ngroup().to_numpy()
        features = [model.image_features(view) for view in (train, validation)]
        return training_domain.learn(training_domain.traits(self.videos, train.frames), *features, videos)

    def paired(self, pairs: int, manipulations: list[str]) -> "Experiment":
        """A experiment with at least `pairs` closed pairs of all `manipulations`, where the corpus has them.

        That is this experiment where its own videos hold them; else one of the first closed pairs of the whole corpus, a tenth
        more than asked, since some may lose too many frames: the first hundred videos of FaceForensics++ hold few.
        """
        if len(leak_splits.closed_pairs(self.crops.frames, manipulations, 1)) >= pairs:
            return self
        chosen = self.profile.corpus.index | {"videos_per_class": None, "manipulations": manipulations}
        videos = _grouped(corpora.index(self.profile.folder, **chosen), self.profile)
        found = leak_splits.closed_pairs(videos, manipulations, 1)[: pairs + pairs // 10 + 1]
        ids = {(pair.corpus, id) for pair in found for id in (pair.a, pair.b)}
        videos = videos[[key in ids for key in zip(videos.corpus, videos.target, strict=True)]].reset_index(drop=True)
        paired = Experiment(self.profile, videos, _crops(videos, self.profile, True))
        paired.clip = self.clip
        return paired

    def view(self, split_table: pd.DataFrame, split: str, manipulations: list[str] | None = None) -> crops.CropView:
        """Crops of one split, in the order of the store; `manipulations` keeps only some of them."""
        keys = [name for name in [*KEY, "frame"] if name in split_table]
        wanted = split_table.loc[split_table.split == split, keys]
        chosen = self.crops.frames[keys].merge(wanted, how="left", indicator=True)["_merge"].eq("both").to_numpy()
        if manipulations is not None:
            chosen = chosen & self.crops.frames.manipulation.isin(manipulations).to_numpy()
        return self.crops.select(chosen)


def index(settings: config.Profile, *, progress: bool = True) -> pd.DataFrame:
    """The profile's videos with their identity groups; the embedded demo world is made when it is not there yet."""
    if settings.demo:
        from dfnb.demo import corpus

        kinds = tuple(settings.corpus.manipulations)
        corpus.make(settings.folder, **settings.demo.model_dump(), kinds=kinds, videos=settings.corpus.videos,
                    progress=progress)
    return _grouped(corpora.index(settings.folder, **settings.corpus.index), settings)


def others(profile: config.Profile, *, progress: bool = True) -> Iterator[tuple[str, crops.CropView]]:
    """The name and the crops of each corpus in the profile's `test_corpora`, cut as its own are.

    Where such a corpus has splits of its own (Celeb-DF's list of testing videos), its test split alone is taken.
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
        if "split" in videos and videos.split.eq("test").any():
            videos = videos[videos.split.eq("test")].reset_index(drop=True)
        videos = videos.assign(group=identity.identity_groups(videos))
        yield name, _crops(videos, profile, progress)


def across(
    profile: config.Profile, finished: Mapping[str, Result], split_seed: int, *, progress: bool = True
) -> pd.DataFrame:
    """Score the profile's `test_corpora` with detectors that finished chapters saved; empty when there are none.

    `finished`: the name of a model -> the result whose detector was fitted on `split`. One row a crop: a score table with
    the constant split "test", and model, split and `tested`, the name of the corpus.
    """
    if not profile.test_corpora:
        return pd.DataFrame()
    clip, found = clips.load(profile.clip, precision=profile.precision), []
    fitted = {name: detectors.load(result.folder, clip) for name, result in finished.items()}
    for tested, view in others(profile, progress=progress):
        for model, detector in fitted.items():
            found.append(scores_table(view, "test", detector.score(view), split_seed=split_seed, model=model, tested=tested))
    return pd.concat(found, ignore_index=True)


def _grouped(videos: pd.DataFrame, settings: config.Profile) -> pd.DataFrame:
    """The videos with their identity groups, by all that the profile knows of them."""
    known = identity.read_known(*settings.corpus.known)
    return videos.assign(group=identity.identity_groups(videos, youtube=known.get("youtube"), persons=known.get("persons")))


def _crops(videos: pd.DataFrame, settings: config.Profile, progress: bool) -> crops.CropView:
    """The crops of some videos; the corpus's own splits stay behind, a split gives its own."""
    videos = videos.drop(columns="split", errors="ignore")
    return crops.build(videos, **settings.crops.model_dump(), progress=progress)


def masks(experiment: Experiment, view: crops.CropView) -> np.ndarray:
    """How much of each pixel of the fake crops of a view is new: uint8 (n, size, size), 0 .. 255.

    The demo world makes its fakes once more for this, about half a second a video. Reals are black. UserError for
    a corpus that is not the demo's: nobody knows what was changed there to the pixel.
    """
    if not experiment.profile.demo:
        raise UserError(f"masks are known in the demo world only, the profile {experiment.profile.name} has another corpus")
    from dfnb.demo import corpus

    found = np.zeros((len(view), view.size, view.size), np.uint8)
    for (manipulation, name), rows in view.frames[view.labels == 1].groupby(["manipulation", "video"]):
        whole = corpus.masks(experiment.profile.folder, manipulation, name)  # (frames, h, w)
        found[rows.index] = pointing_game.crop_masks(whole, rows, size=view.size, margin=experiment.profile.crops.margin)
    return found


def planted_worlds(profile: config.Profile, amplitude: float, *, identities: int, frames: int, seed: int | None = None,
            workers: int | None = None, progress: bool = True) -> dict[str, Experiment]:
    """The same small demo world without and with a planted cue of `amplitude` grey levels: "cue off" and "cue on".

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
        videos = corpora.index(place, manipulations=list(kinds))
        videos = videos.assign(group=identity.identity_groups(videos))
        look = profile.crops.model_dump(include=LOOK - {"frames"})
        view = crops.build(videos, frames=frames, **look, workers=workers, progress=progress)
        worlds[name] = Experiment(profile, videos, view)
    return worlds


def scores_table(view: crops.CropView, split: str, scores: np.ndarray, **columns) -> pd.DataFrame:
    """Join scores (n,), one a crop of `view`, with the crops' keys; extra `columns` are constants."""
    table = view.frames[[*KEY, "group", "frame", "label"]].assign(split=split, score=np.asarray(scores, float))
    return table.assign(**columns)
