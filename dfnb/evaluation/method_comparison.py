"""The related methods side by side: cost, unseen fakes, few samples, perturbations, maps.

A `Model` is a row of the chapter's table: a detector with options. The functions that take score
tables or fitted detectors can be repeated without training again.
"""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from dfnb import KEY
from dfnb.data import perturbations, splits
from dfnb.data.crops import CropView
from dfnb.evaluation import comparison, intervals, metrics
from dfnb.evaluation.intervals import DEFAULT, Bootstrap

CONSTANT = 0.5  # the AUC of every constant answer
LORA = "LoRA"
TIMED = 64  # crops over which scoring is timed


@dataclass(frozen=True)
class Model:
    """A row of the table: a detector of `DETECTORS`, what it trains in words, and its options."""

    detector: str
    trains: str
    options: Mapping = field(default_factory=dict)
    runs: bool = True


def models(*, lora: Mapping, fitting: Mapping, frames: int, layernorm_rate: float,
           components_rate: float, endpoint: str = "", model: str = "", most_calls: int = 200
           ) -> dict[str, Model]:
    """Return the models of the chapter, in the order of its table.

    `fitting` holds epochs and batch of the detectors that train by gradients. Where no learning
    rate is given, the detector's default holds, which is the paper's. The multimodal model runs
    where there is an `endpoint`.
    """
    asked = {"base_url": endpoint, "model": model, "most_calls": most_calls}
    decoder = {"epochs": fitting["epochs"], "frames_per_clip": frames,
               "learning_rate": components_rate}
    return {
        "linear probe": Model("probe", "a logistic regression"),
        "nearest neighbours": Model("neighbours", "nothing"),
        LORA: Model("lora", "low-rank matrices at q and v, a head", {**fitting, **lora}),
        "LN-tuning": Model("layernorm", "gains and biases of the layer norms, a head",
                           {**fitting, "learning_rate": layernorm_rate}),
        "prompt tuning": Model("prompt", "context vectors of two prompts"),
        "reprogramming": Model("reprogramming", "a border around the picture", fitting),
        "components": Model("components", "a decoder beside the encoder", decoder),
        "zero-shot": Model("zero_shot", "nothing"),
        "multimodal": Model("multimodal", "nothing" if endpoint else "not run", asked,
                            bool(endpoint)),
        "always fake": Model("baselines", "nothing", {"kind": "constant"}),
        "lost frames": Model("baselines", "nothing", {"kind": "missingness"}),
        "sharpness": Model("baselines", "slope and intercept", {"kind": "sharpness"}),
    }


def trials(experiment, split_tables: Mapping[str, pd.DataFrame], chosen: Mapping[str, Model], *,
           seed: int) -> dict[tuple, object]:
    """Fit every model that runs on every split; return (protocol, model) -> `Trial`."""
    return {(protocol, name): experiment.trial(model.detector, table, seed=seed, describe=False,
                                               **model.options)
            for name, model in chosen.items() if model.runs
            for protocol, table in split_tables.items()}


def both_splits(experiment, train_on: str, test_on: Sequence[str], seed: int
                ) -> dict[str, pd.DataFrame]:
    """Return the study's split and an identity-disjoint one.

    Both train and validate on reals and on `train_on` alone.
    """
    study = experiment.split("study", seed=seed, train_manipulation=train_on,
                             test_manipulations=test_on)
    disjoint = experiment.split("identity", seed=seed)
    wanted = disjoint["manipulation"].isin(["real", train_on]) | (disjoint["split"] == "test")
    return {"study": study, "identity": disjoint[wanted].reset_index(drop=True)}


def swapped(model: Model, words: tuple[str, str]) -> Model:
    """Return a model that reads prompts with its words of the real and the fake class exchanged."""
    return replace(model, options={**model.options, "words": words[::-1]})


def thinned(view: CropView, frames: int) -> CropView:
    """Return the first crop of each of `frames` equal pieces of a video; short videos stay whole.

    The view shares the caches of its store.
    """
    by_video = view.frames.groupby(KEY)
    place, size = by_video.cumcount(), by_video["frame"].transform("size")
    first = place * frames // size != (place - 1) * frames // size  # a crop enters the next piece
    return view.select(first.to_numpy())


def table(trials: Mapping, fakes: Sequence[str], bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Return AUCs, intervals, EER and balanced accuracy by split, manipulation and model.

    `trials`: (protocol, model) -> `Trial`. The fakes of each manipulation are compared with all
    reals of the test split. EER and balanced accuracy are those of videos, at the threshold from
    validation. A split without test videos of a manipulation has no row for it. Crops without a
    score (NaN: no answer) are left out.
    """
    rows = []
    for ((protocol, model), trial), kind in itertools.product(trials.items(), fakes):
        test = _against(trial.scores, kind)
        if test["label"].nunique() == 2:
            validation = trial.scores.query("split == 'validation'").dropna(subset="score")
            names = {"protocol": protocol, "fakes": kind, "model": model,
                     "trained": trial.detector.trainable}
            rows.append(names | _measured(test, validation, bootstrap))
    return pd.DataFrame(rows)


def _against(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the test rows with a score of the reals and of one manipulation."""
    wanted = (scores["split"] == "test") & scores["manipulation"].isin(["real", kind])
    return scores[wanted & scores["score"].notna()]


def _measured(test: pd.DataFrame, validation: pd.DataFrame, bootstrap: Bootstrap) -> dict:
    videos, checked = metrics.to_videos(test), metrics.to_videos(validation)
    frame = intervals.auc_row(test, bootstrap, intervals.cluster_bootstrap)
    video = intervals.auc_row(videos, bootstrap)
    threshold = metrics.best_threshold(checked.label, checked.score)
    rates = metrics.at_threshold(videos.label, videos.score, threshold)
    return {"frame_AUC": frame["AUC"], "frame_low": frame["low"], "frame_high": frame["high"],
            "video_AUC": video["AUC"], "video_low": video["low"], "video_high": video["high"],
            "EER": video["EER"], "balanced": rates["balanced"],
            "reals": video["reals"], "videos": video["fakes"]}


def differences(trials: Mapping, fakes: Sequence[str], bootstrap: Bootstrap = DEFAULT, *,
                reference: str = LORA) -> pd.DataFrame:
    """Return each model minus the reference on the same test videos.

    The table has a row of `comparison.compare` per split, manipulation and model.
    """
    rows = []
    for ((protocol, model), trial), kind in itertools.product(trials.items(), fakes):
        other = trials[protocol, reference]
        test, of_reference = _against(trial.scores, kind), _against(other.scores, kind)
        if model != reference and test["label"].nunique() == 2:
            found = comparison.table(test, of_reference, bootstrap).iloc[0].to_dict()
            names = {"protocol": protocol, "fakes": kind, "model": model}
            rows.append(found | {"videos": found["fakes"]} | names)
    return pd.DataFrame(rows)


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Use an empty cache and throw it away: for crops that are scored once, and for timing."""
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
    """Return how many milliseconds scoring takes per crop, from pixels, with nothing cached."""
    some = view.select(np.linspace(0, len(view) - 1, min(count, len(view))).astype(int))
    some = CropView.of_arrays(some.images(), some.frames)
    with scratch():
        started = time.perf_counter()
        detector.score(some)
    return 1000 * (time.perf_counter() - started) / len(some)


def costs(trials: Mapping, protocol: str, view: CropView) -> pd.DataFrame:
    """Return seconds of training and scoring on one split, and milliseconds per crop, by model.

    Trainings share the cached activations of frozen blocks; scoring a crop shares nothing. The
    multimodal model, whose answers come from elsewhere, is not timed again.
    """
    rows = {model: {"seconds": trial.seconds,
                    "ms": np.nan if model == "multimodal" else milliseconds(trial.detector, view)}
            for (name, model), trial in trials.items() if name == protocol}
    return pd.DataFrame(rows).T.rename_axis("model")


def few_shot(experiment, split_table: pd.DataFrame, chosen: Mapping[str, Model], kind: str, *,
             pairs: Sequence[int], draws: int, seed: int = 0) -> pd.DataFrame:
    """Train each model on few pairs, drawn `draws` times; return both AUCs on the fakes `kind`.

    Draws of one number lie inside the same draws of a larger one. Numbers above that of the
    training split's pairs are left out.
    """
    wanted = (split_table["split"] != "test") | split_table["manipulation"].isin(["real", kind])
    split_table, rows = split_table[wanted], []
    known = len(splits.training_pairs(split_table, experiment.videos))
    for (name, model), count, draw in itertools.product(chosen.items(), pairs, range(draws)):
        if count <= known:
            some = splits.few_pairs(split_table, experiment.videos, count, seed + draw)
            trial = experiment.trial(model.detector, some, seed=seed + draw, describe=False,
                                     **model.options)
            rows.append({"model": name, "pairs": count, "draw": draw}
                        | _aucs(_against(trial.scores, kind)))
    return pd.DataFrame(rows, columns=["model", "pairs", "draw", "frame_AUC", "video_AUC"])


def _aucs(test: pd.DataFrame) -> dict[str, float]:
    """Return the AUC of frames and that of videos of a score table."""
    videos = metrics.to_videos(test)
    return {"frame_AUC": metrics.auc(test.label, test.score),
            "video_AUC": metrics.auc(videos.label, videos.score)}


def robustness(detectors: Mapping, view: CropView, *, seed: int = 0,
               kinds: Sequence[str] = tuple(perturbations.KINDS)) -> pd.DataFrame:
    """Return both AUCs of each detector on reals and fakes that are perturbed alike.

    The columns are model, kind, strength (0: untouched), amount, frame_AUC, video_AUC.
    """
    untouched = {name: detector.score(view) for name, detector in detectors.items()}
    rows = []
    for kind in kinds:
        names = perturbations.KINDS[kind].names()
        changed = [perturbations.apply(view, kind, strength, seed)
                   for strength in range(1, len(names))]
        whole = CropView.of_arrays(np.concatenate([each.images() for each in changed]),
                                   pd.concat([each.frames for each in changed]))
        with scratch():
            scores = {name: np.split(detector.score(whole), len(changed))
                      for name, detector in detectors.items()}
        for name, strength in itertools.product(detectors, range(len(names))):
            test = view.frames.assign(score=[untouched[name], *scores[name]][strength])
            rows.append({"model": name, "kind": kind, "strength": strength,
                         "amount": names[strength]} | _aucs(test))
    return pd.DataFrame(rows)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean rank correlation of two maps (n, side, side); even maps do not count."""
    pairs = ((a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True))
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs
                          if np.ptp(a) > 0 and np.ptp(b) > 0]))


def head_matters(detectors: Mapping, view: CropView, maps: Mapping[str, np.ndarray],
                 seed: int = 0) -> pd.DataFrame:
    """Return the rank correlation of each detector's maps with those under a random head.

    Maps that follow what was learnt change with the head (Adebayo et al., 2018).
    """
    return pd.DataFrame([
        {"model": name,
         "correlation": likeness(maps[name], detector.without_head(seed).maps(view))}
        for name, detector in detectors.items()])


def describe(rows: pd.DataFrame) -> str:
    """Word for each split and manipulation which video AUCs differ from a constant answer's."""
    lines = []
    for (protocol, kind), some in rows.groupby(["protocol", "fakes"], sort=False):
        above, below = some["video_low"] > CONSTANT, some["video_high"] < CONSTANT
        groups = {"above it": above, "below it": below, "undecided": ~(above | below)}
        text = "; ".join(f"{words} {', '.join(some.loc[which, 'model'])}"
                         for words, which in groups.items() if which.any())
        lines.append(f"- {protocol}, {kind} ({some.reals.iloc[0]} reals, {some.videos.iloc[0]} "
                     f"fakes), against the constant answer: {text}.")
    return "\n".join(lines)
