"""The related manipulations side by side: what each costs, how it ranks unseen fakes, what it learns from few, what unsettles it.

A `Model` is a row of the chapter's table: a manipulation with options. Everything here works on score tables and detectors, so
it can be repeated without training again.
"""

import contextlib
import copy
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from dfnb import KEY
from dfnb.data import perturbations, splits
from dfnb.data.crops import CropView
from dfnb.evaluation import comparison, intervals, metrics
from dfnb.evaluation.intervals import DEFAULT, Bootstrap
from dfnb.models import saliency

CONSTANT = 0.5  # the AUC of every constant answer
LORA = "LoRA"
TIMED = 64  # crops over which scoring is timed


@dataclass(frozen=True)
class Model:
    """A row of the table: a manipulation of `DETECTORS`, its options, and in words what it trains."""

    detector: str
    trains: str
    options: Mapping = field(default_factory=dict)
    runs: bool = True


def models(*, lora: Mapping, fitting: Mapping, frames: int, layernorm_rate: float, components_rate: float,
           endpoint: str = "", model: str = "", most_calls: int = 200) -> dict[str, Model]:
    """The models of the chapter, in the order of its table.

    `fitting`: epochs and batch of what trains by gradients; where no learning rate is given, the manipulation's own holds, the
    paper's. The multimodal model runs where an `endpoint` is given.
    """
    asked = {"base_url": endpoint, "model": model, "most_calls": most_calls}
    return {
        "linear probe": Model("probe", "a logistic regression"),
        "nearest neighbours": Model("neighbours", "nothing"),
        LORA: Model("lora", "low-rank matrices at q and v, a head", {**fitting, **lora}),
        "LN-tuning": Model("layernorm", "gains and biases of the layer norms, a head",
                           {**fitting, "learning_rate": layernorm_rate}),
        "prompt tuning": Model("prompt", "context vectors of two prompts"),
        "reprogramming": Model("reprogramming", "a border around the picture", fitting),
        "components": Model("components", "a decoder beside the tower",
                            {"epochs": fitting["epochs"], "frames_per_clip": frames, "learning_rate": components_rate}),
        "zero-shot": Model("zero_shot", "nothing"),
        "multimodal": Model("multimodal", "nothing" if endpoint else "not run", asked, bool(endpoint)),
        "always fake": Model("baselines", "nothing", {"kind": "constant"}),
        "lost frames": Model("baselines", "nothing", {"kind": "missingness"}),
        "sharpness": Model("baselines", "slope and intercept", {"kind": "sharpness"}),
    }


def trials(experiment, split_table: Mapping[str, pd.DataFrame], chosen: Mapping[str, Model], *, seed: int) -> dict[tuple, object]:
    """Fit every model that runs on every split: (name of the split, model) -> `Trial`."""
    return {(protocol, name): experiment.trial(model.detector, table, seed=seed, describe=False, **model.options)
            for name, model in chosen.items() if model.runs for protocol, table in split_table.items()}


def both_splits(experiment, train_on: str, test_on: Sequence[str], seed: int) -> dict[str, pd.DataFrame]:
    """The study's split and an identity-disjoint one, which both train and validate on reals and `train_on` alone."""
    study = experiment.split("study", seed=seed, train_manipulation=train_on, test_manipulations=test_on)
    disjoint = experiment.split("identity", seed=seed)
    known = disjoint["manipulation"].isin(["real", train_on])
    return {"study": study, "identity": disjoint[known | (disjoint["split"] == "test")].reset_index(drop=True)}


def swapped(model: Model, words: tuple[str, str]) -> Model:
    """The same text manipulation with its words of the real and the fake class exchanged."""
    return replace(model, options={**model.options, "words": words[::-1]})


def thinned(view: CropView, frames: int) -> CropView:
    """Return at most `frames` crops of each video, evenly spaced, with the caches of the store."""
    place, size = view.frames.groupby(KEY).cumcount(), view.frames.groupby(KEY)["frame"].transform("size")
    taken = place * frames // size  # which of the bins of its video a crop falls into
    first = taken.groupby([view.frames[name] for name in KEY]).diff().ne(0)
    return view.select(first.to_numpy())


def table(trials: Mapping, fakes: Sequence[str], bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """One row per split, fakes and model: parameters, frame and video AUC with intervals, EER, balanced accuracy.

    `trials`: (name of the split, model) -> `Trial`. Each kind of fakes is held against all reals of the test split.
    EER and balanced accuracy are those of videos; the threshold comes from validation. Splits that test no video of
    a kind have no row for it; crops without a score (NaN: not asked, no answer) are left out.
    """
    rows = []
    for (protocol, model), trial in trials.items():
        for kind in fakes:
            test = _against(trial.scores, kind)
            if test["label"].nunique() == 2:
                validation = trial.scores.query("split == 'validation'").dropna(subset="score")
                rows.append({"protocol": protocol, "fakes": kind, "model": model, "trained": trial.detector.trainable}
                            | _measured(test, validation, bootstrap))
    return pd.DataFrame(rows)


def _against(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    return scores[(scores["split"] == "test") & scores["manipulation"].isin(["real", kind]) & scores["score"].notna()]


def _measured(test: pd.DataFrame, validation: pd.DataFrame, bootstrap: Bootstrap) -> dict:
    videos, checked = metrics.to_videos(test), metrics.to_videos(validation)
    frame = intervals.cluster_bootstrap(test.label, test.score, test.group, bootstrap)
    video = intervals.interval(videos.label, videos.score, videos.group, bootstrap)
    judged = metrics.row(videos.label, videos.score, metrics.best_threshold(checked.label, checked.score))
    return {"frame_AUC": frame.value, "frame_low": frame.low, "frame_high": frame.high,
            "video_AUC": video.value, "video_low": video.low, "video_high": video.high,
            "EER": judged["EER"], "balanced": judged["balanced"], "reals": int((videos.label == 0).sum()),
            "videos": int((videos.label == 1).sum())}


def differences(trials: Mapping, fakes: Sequence[str], bootstrap: Bootstrap = DEFAULT, *,
                reference: str = LORA) -> pd.DataFrame:
    """Each model minus the reference on the same test videos: one row of `compare.compare` per split, fakes and model."""
    rows = []
    for (protocol, model), trial in trials.items():
        for kind in fakes if model != reference else ():
            first, second = (metrics.to_videos(_against(of.scores, kind)) for of in (trial, trials[protocol, reference]))
            both = first.merge(second, on=KEY, suffixes=("", "_other"), validate="one_to_one")
            if both["label"].nunique() == 2:
                found = comparison.compare(both.label, both.score, both.score_other, both.group, bootstrap)
                names = {"protocol": protocol, "fakes": kind, "model": model, "videos": found["fakes"]}
                rows.append(found | names)  # `compare` counts in "fakes" what is named here
    return pd.DataFrame(rows)


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """A cache of its own that is thrown away: for crops that are scored once, and to time what is not cached."""
    before = os.environ.get("DFNB_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DFNB_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("DFNB_CACHE")
            if before is not None:
                os.environ["DFNB_CACHE"] = before


def milliseconds(detector, view: CropView, count: int = TIMED) -> float:
    """How long scoring takes a crop, with nothing cached, the whole way from pixels."""
    some = view.select(np.linspace(0, len(view) - 1, min(count, len(view))).astype(int))
    some = CropView.of_arrays(some.images(), some.frames)
    with scratch():
        started = time.perf_counter()
        detector.score(some)
    return 1000 * (time.perf_counter() - started) / len(some)


def costs(trials: Mapping, protocol: str, view: CropView) -> pd.DataFrame:
    """What each model cost on one split: seconds of training and of scoring its splits, milliseconds a crop.

    Trainings share the cached activations of frozen blocks, scoring a crop shares nothing. An answer that is asked for
    elsewhere is not timed again.
    """
    rows = {model: {"seconds": trial.seconds, "ms": np.nan if model == "multimodal" else milliseconds(trial.detector, view)}
            for (name, model), trial in trials.items() if name == protocol}
    return pd.DataFrame(rows).T.rename_axis("model")


def few_shot(experiment, split_table: pd.DataFrame, chosen: Mapping[str, Model], kind: str, *, pairs: Sequence[int], draws: int,
             seed: int = 0) -> pd.DataFrame:
    """Train each model on few pairs, drawn `draws` times: model, pairs, draw, frame_AUC, video_AUC on `kind`.

    Draws of one number lie inside the same draws of a larger one. Numbers that the training split has not are left out.
    """
    split_table = split_table[(split_table["split"] != "test") | split_table["manipulation"].isin(["real", kind])]
    there, rows = len(splits.training_pairs(split_table, experiment.videos)), []
    for name, model in chosen.items():
        for count, draw in ((count, draw) for count in pairs if count <= there for draw in range(draws)):
            some = splits.few(split_table, experiment.videos, count, seed + draw)
            trial = experiment.trial(model.detector, some, seed=seed + draw, describe=False, **model.options)
            test = _against(trial.scores, kind)
            videos = metrics.to_videos(test)
            rows.append({"model": name, "pairs": count, "draw": draw, "frame_AUC": metrics.auc(test.label, test.score),
                         "video_AUC": metrics.auc(videos.label, videos.score)})
    return pd.DataFrame(rows, columns=["model", "pairs", "draw", "frame_AUC", "video_AUC"])


def robustness(detectors: Mapping[str, object], view: CropView, *, seed: int = 0,
               kinds: Sequence[str] = tuple(perturbations.KINDS)) -> pd.DataFrame:
    """Frame and video AUC of each detector on reals and fakes perturbed alike: model, kind, strength, amount, AUCs."""
    untouched = {name: detector.score(view) for name, detector in detectors.items()}
    rows = []
    for kind in kinds:
        names = perturbations.KINDS[kind].names()
        changed = [perturbations.apply(view, kind, strength, seed) for strength in range(1, len(names))]
        whole = CropView.of_arrays(np.concatenate([each.images() for each in changed]),
                                   pd.concat([each.frames for each in changed]))
        with scratch():
            scores = {name: np.split(detector.score(whole), len(changed)) for name, detector in detectors.items()}
        for name, strength in itertools.product(detectors, range(len(names))):
            test = view.frames.assign(score=[untouched[name], *scores[name]][strength])
            videos = metrics.to_videos(test)
            rows.append({"model": name, "kind": kind, "strength": strength, "amount": names[strength],
                         "frame_AUC": metrics.auc(test.label, test.score),
                         "video_AUC": metrics.auc(videos.label, videos.score)})
    return pd.DataFrame(rows)


def forgetful(detector, seed: int = 0):
    """A copy of a detector whose heads are drawn at random: what it has learnt below them stays."""
    other = copy.copy(detector)
    name = "model" if hasattr(detector, "model") else "decoder"
    setattr(other, name, copy.deepcopy(getattr(detector, name)))
    network = getattr(other, name)
    generator = torch.Generator().manual_seed(seed)
    heads = network.head if hasattr(network, "head") else network.heads
    with torch.no_grad():
        for value in heads.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * value.std(unbiased=False))
    return other


def alike(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over crops of the rank correlation of two maps (n, side, side); crops with an even map do not count."""
    pairs = ((a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True))
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs if np.ptp(a) > 0 and np.ptp(b) > 0]))


def head_matters(detectors: Mapping[str, object], view: CropView, maps: Mapping[str, np.ndarray],
                 seed: int = 0) -> pd.DataFrame:
    """Do maps follow what was learnt? Rank correlation of each detector's maps with those under a random head."""
    return pd.DataFrame([{"model": name, "correlation": alike(maps[name], saliency.maps(forgetful(detector, seed), view))}
                         for name, detector in detectors.items()])


def says(rows: pd.DataFrame) -> str:
    """Word the table: of which models the interval of the video AUC lies above one half, the constant answer's."""
    lines = []
    for (protocol, kind), some in rows.groupby(["protocol", "fakes"], sort=False):
        above, below = some["video_low"] > CONSTANT, some["video_high"] < CONSTANT
        text = "; ".join(f"{words} {', '.join(some.loc[which, 'model'])}" for words, which in (
            ("above it", above), ("below it", below), ("not told apart from it", ~(above | below))) if which.any())
        lines.append(f"- {protocol}, {kind} ({some.reals.iloc[0]} reals, {some.videos.iloc[0]} fakes), against the constant "
                     f"answer: {text}.")
    return "\n".join(lines)
