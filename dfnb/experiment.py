"""What a notebook opens: the videos of a profile, their crops, and CLIP."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
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

CROPPING = {"frames", "size", "margin"}  # the settings that decide the pixels of crops


@dataclass
class Trial:
    """A fitted detector, its scores on validation and test, and the seconds of fit and scoring."""

    detector: Detector
    scores: pd.DataFrame
    seconds: float


@dataclass
class Experiment:
    """A profile with its corpus indexed and its faces cropped; CLIP is loaded at first use."""

    profile: config.Profile
    videos: pd.DataFrame  # a row per video, with its identity group
    crops: crops.CropView  # every kept frame of every video

    @classmethod
    def open(cls, profile: str, *, progress: bool = True) -> "Experiment":
        """Open a profile: make a missing demo corpus, index the videos, crop the faces.

        Raises UserError first if the notebook was given parameters that it does not have.
        """
        check_kernel()
        return cls.of(config.load(profile), progress=progress)

    @classmethod
    def of(cls, settings: config.Profile, *, progress: bool = True) -> "Experiment":
        """Open a profile that no file holds, as `open` does."""
        videos = index(settings, progress=progress)
        return cls(settings, videos, _crops(videos, settings, progress))

    @cached_property
    def clip(self) -> clips.Clip:
        """Return the profile's CLIP."""
        return clips.load(self.profile.clip, precision=self.profile.precision)

    @cached_property
    def known(self) -> dict[str, dict]:
        """Return the official lists, YouTube ids and persons that the profile names."""
        return identity.read_known(*self.profile.corpus.known)

    def split(self, protocol: str = "study", *, seed: int, **options) -> pd.DataFrame:
        """Split the videos by a named protocol (`splits.split`).

        With `train_manipulation` and `test_manipulations`, other fakes are dropped
        (`splits.keep_manipulations`).
        """
        given = {"frames": self.crops.frames} | self.known | options
        split_table = splits.split(self.videos, protocol, seed=seed, **given)
        if {"train_manipulation", "test_manipulations"} <= set(options):
            return splits.keep_manipulations(split_table, options["train_manipulation"],
                                             options["test_manipulations"])
        return split_table

    def view(self, split_table: pd.DataFrame, split: str, manipulations: list[str] | None = None
             ) -> crops.CropView:
        """Return the crops of one split, of all or of some manipulations, in stored order."""
        frames = self.crops.frames
        keys = [name for name in [*KEY, "frame"] if name in split_table]
        wanted = split_table.loc[split_table.split == split, keys]
        chosen = frames[keys].merge(wanted, how="left", indicator=True)["_merge"] == "both"
        if manipulations is not None:
            chosen &= frames.manipulation.isin(manipulations)
        return self.crops.select(chosen.to_numpy())

    def trial(self, detector: str, split_table: pd.DataFrame, *, seed: int,
              model: clips.Clip | None = None, describe: bool = True, **options) -> Trial:
        """Fit a detector on the training split, chosen by validation; score validation and test.

        The detector's metadata receive what later uses need: the threshold that validation chose,
        the cropping and the training data. `describe` adds the training domain, which a detector
        that is not saved does not need.
        """
        clip = model or self.clip
        train, validation, test = (self.view(split_table, split) for split in SPLITS)
        started = time.perf_counter()
        fitted = DETECTORS[detector].fit(train, validation, clip=clip, seed=seed, **options)
        scores = [scores_table(view, split, fitted.score(view), split_seed=seed)
                  for split, view in (("validation", validation), ("test", test))]
        seconds = time.perf_counter() - started
        by_video = metrics.to_videos(scores[0])
        threshold = metrics.best_threshold(by_video.label, by_video.score)
        fitted.metadata |= {
            "threshold": None if np.isnan(threshold) else threshold, "split_seed": seed,
            "crops": self.profile.crops.model_dump(include=CROPPING),
            "trained_on": self._training_data(train)}
        if describe and "path" in self.videos and "x0" in train.frames:
            fitted.metadata["domain"] = training_domain.learn(
                training_domain.traits(self.videos, train.frames),
                *(clip.image_features(view) for view in (train, validation)),
                validation.frames.groupby(KEY, sort=False).ngroup().to_numpy())
        return Trial(fitted, pd.concat(scores, ignore_index=True), seconds)

    def cross_fit(self, detector: str, *, folds: int, train_on: str, test_on: Sequence[str],
                  draws: Sequence[int] = (0,), seeds: Sequence[int] = (0,), **options
                  ) -> pd.DataFrame:
        """Fit a detector once per fold of the protocol `cross` and return all test scores.

        Every real video and every fake of `test_on` is tested once for each of the `draws` of the
        folds and each of the training `seeds`. The table has the columns draw, seed, fold and
        `threshold`, which the fold's validation chose, and feeds `evaluation.cross_fitting`.
        """
        tested = []
        for draw, fold in itertools.product(draws, range(folds)):
            split_table = self.split("cross", seed=draw, folds=folds, fold=fold,
                                     train_manipulation=train_on, test_manipulations=test_on)
            for seed in seeds:
                trial = self.trial(detector, split_table, seed=seed, describe=False, **options)
                test = trial.scores[trial.scores["split"] == "test"]
                threshold = trial.detector.metadata["threshold"]
                tested.append(test.drop(columns="split_seed").assign(
                    draw=draw, seed=seed, fold=fold, threshold=threshold))
        return pd.concat(tested, ignore_index=True)

    def _training_data(self, train: crops.CropView) -> dict:
        """Return profile, corpus, whether it is the demo world, and videos by manipulation."""
        videos = train.frames.drop_duplicates(KEY).manipulation.value_counts(sort=False)
        return {"profile": self.profile.name, "corpus": self.profile.folder.name,
                "demo": self.profile.demo is not None, "videos": videos.to_dict(),
                "frames": len(train)}

    def paired(self, pairs: int, manipulations: list[str]) -> "Experiment":
        """Return an experiment with at least `pairs` closed pairs of all `manipulations`.

        That is this experiment if its videos hold them, else one of the first closed pairs of the
        whole corpus (the first hundred videos of FaceForensics++ hold few). It takes a tenth more,
        since some may lose too many frames; there are fewer if the corpus does not have them.
        """
        if len(leak_splits.closed_pairs(self.crops.frames, manipulations, 1)) >= pairs:
            return self
        all_videos = {"videos_per_class": None, "manipulations": manipulations}
        whole = self.profile.corpus.index | all_videos
        videos = _with_groups(corpora.index(self.profile.folder, **whole), **self.known)
        closed = leak_splits.closed_pairs(videos, manipulations, 1)[:pairs + pairs // 10 + 1]
        targets = {(pair.corpus, target) for pair in closed for target in (pair.a, pair.b)}
        chosen = [key in targets for key in zip(videos.corpus, videos.target, strict=True)]
        videos = videos[chosen].reset_index(drop=True)
        experiment = Experiment(self.profile, videos, _crops(videos, self.profile))
        experiment.clip = self.clip
        return experiment


def index(settings: config.Profile, *, progress: bool = True) -> pd.DataFrame:
    """Return the profile's videos with identity groups; make a missing demo world first."""
    if settings.demo:
        from dfnb.demo import corpus

        kinds = tuple(settings.corpus.manipulations)
        corpus.make(settings.folder, **settings.demo.model_dump(), kinds=kinds,
                    videos=settings.corpus.videos, progress=progress)
    videos = corpora.index(settings.folder, **settings.corpus.index)
    return _with_groups(videos, **identity.read_known(*settings.corpus.known))


def others(profile: config.Profile) -> Iterator[tuple[str, crops.CropView]]:
    """Yield name and crops of each corpus in `test_corpora`, cropped like the profile's own.

    If such a corpus has official splits (Celeb-DF's testing videos), only its test split is taken.
    Raises UserError if it is the profile's own corpus or if two have one name.
    """
    names: set[str] = set()
    for other in profile.test_corpora:
        name = other.name or (other.folder.parent if other.folder.is_file() else other.folder).name
        if other.folder.resolve() == profile.folder.resolve():
            raise UserError(f"test_corpora names {other.root}, the corpus that is trained on; "
                            "name another one")
        if name in names:
            raise UserError(f"test_corpora has two corpora called {name}; "
                            "give one of them another name")
        names.add(name)
        videos = corpora.index(other.folder, **other.index)
        if "split" in videos and videos.split.eq("test").any():
            videos = videos[videos.split.eq("test")].reset_index(drop=True)
        yield name, _crops(_with_groups(videos), profile)


def across(profile: config.Profile, finished: Mapping[str, Result], split_seed: int
           ) -> pd.DataFrame:
    """Score the profile's `test_corpora` with saved detectors; return an empty table without any.

    `finished` maps a model's name to the result that saved its detector, fitted on the split of
    `split_seed`. The table has a row per crop, the constant split "test", and the columns model,
    split_seed and `tested`, the name of the corpus.
    """
    if not profile.test_corpora:
        return pd.DataFrame()
    clip, tables = clips.load(profile.clip, precision=profile.precision), []
    fitted = {name: detectors.load(result.folder, clip) for name, result in finished.items()}
    for tested, view in others(profile):
        for model, detector in fitted.items():
            tables.append(scores_table(view, "test", detector.score(view), split_seed=split_seed,
                                       model=model, tested=tested))
    return pd.concat(tables, ignore_index=True)


def masks(experiment: Experiment, view: crops.CropView) -> np.ndarray:
    """Return how strongly each pixel of a view was changed: uint8 (n, size, size), 0 for reals.

    The demo world makes its fakes again for this, about half a second per video. UserError for
    other corpora, whose changed pixels are unknown.
    """
    profile = experiment.profile
    if not profile.demo:
        raise UserError("masks are known in the demo world only, "
                        f"the profile {profile.name} has another corpus")
    from dfnb.demo import corpus

    changed = np.zeros((len(view), view.size, view.size), np.uint8)
    fakes = view.frames[view.labels == 1]
    for (manipulation, name), rows in fakes.groupby(["manipulation", "video"]):
        frames = corpus.masks(profile.folder, manipulation, name)  # (frames, height, width)
        changed[rows.index] = pointing_game.crop_masks(frames, rows, size=view.size,
                                                       margin=profile.crops.margin)
    return changed


def planted_worlds(profile: config.Profile, amplitude: float, *, identities: int, frames: int,
                   seed: int | None = None) -> dict[str, Experiment]:
    """Return a small demo world twice: "cue off", and "cue on" with a cue of `amplitude` levels.

    The cue gives away the label of scenes that were seen and nothing about others
    (`demo.corpus.make`). The fakes are NeuralTextures at its weakest, with no loss in the
    bottleneck and no colour error, so that hardly any other trace is left. `seed` is that of the
    profile's own world by default.
    """
    from dfnb.demo import corpus, reenact

    if seed is None:
        seed = profile.demo.seed if profile.demo else 0
    weakest = reenact.ReenactStrength(bottleneck=1.0, colour=0.0)
    cropping = profile.crops.model_dump(include=CROPPING) | {"frames": frames}
    worlds = {}
    for name, cue in (("cue off", 0.0), ("cue on", amplitude)):
        place = files.data() / f"{profile.name}-planted" / f"{seed}-{identities}-{frames}-{cue:g}"
        corpus.make(place, seed=seed, identities=identities, frames=frames,
                    kinds=("NeuralTextures",), reenact=weakest, planted=cue)
        videos = _with_groups(corpora.index(place, manipulations=["NeuralTextures"]))
        worlds[name] = Experiment(profile, videos, crops.build(videos, **cropping))
    return worlds


def scores_table(view: crops.CropView, split: str, scores: np.ndarray, **columns) -> pd.DataFrame:
    """Join scores (n,), one per crop of `view`, with the crops' keys and constant `columns`."""
    table = view.frames[[*KEY, "group", "frame", "label"]]
    return table.assign(split=split, score=np.asarray(scores, float), **columns)


def _with_groups(videos: pd.DataFrame, youtube: Mapping[str, str] | None = None,
                 persons: Mapping[str, str] | None = None, lists=None) -> pd.DataFrame:
    """Add the identity groups; the parameters are those that `identity.read_known` returns."""
    groups = identity.identity_groups(videos, youtube=youtube, persons=persons)
    return videos.assign(group=groups)


def _crops(videos: pd.DataFrame, settings: config.Profile, progress: bool = True
           ) -> crops.CropView:
    """Crop the videos without the column of the corpus's official splits."""
    videos = videos.drop(columns="split", errors="ignore")
    return crops.build(videos, **settings.crops.model_dump(), progress=progress)
