"""The related methods side by side: cost, unseen fakes, controls, maps.

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
from dfnb.data.crops import CropView
from dfnb.evaluation import comparison, intervals, metrics
from dfnb.evaluation.intervals import DEFAULT, Bootstrap

CONSTANT = 0.5  # the AUC of every constant answer
LORA = "LoRA"
QUALITY = "zero-shot, blurry"  # blurry against sharp: a positive control
TIMED = 64  # crops over which scoring is timed


@dataclass(frozen=True)
class Model:
    """A row of the table: a detector of `DETECTORS`, what it trains in words, and its options."""

    detector: str
    trains: str
    options: Mapping = field(default_factory=dict)
    runs: bool = True


def models(*, lora: Mapping, fitting: Mapping, frames: int, rates: Mapping[str, float],
           endpoint: str = "", model: str = "", most_calls: int = 200) -> dict[str, Model]:
    """Return the models of the chapter, in the order of its table.

    `fitting` holds epochs, batch and steps of the detectors that train by gradients; prompt tuning
    and components have their own batch. `rates` maps a detector's name to its learning rate. The
    multimodal model runs where there is an `endpoint`.
    """
    asked = {"base_url": endpoint, "model": model, "most_calls": most_calls}
    own = {name: {"learning_rate": rate} for name, rate in rates.items()}
    length = {name: value for name, value in fitting.items() if name != "batch"}
    return {
        "linear probe": Model("probe", "a logistic regression"),
        "nearest neighbours": Model("neighbours", "nothing"),
        LORA: Model("lora", "low-rank matrices at q and v, a head", {**fitting, **lora}),
        "LN-tuning": Model("layernorm", "gains and biases of the layer norms, a head",
                           {**fitting, **own["layernorm"]}),
        "prompt tuning": Model("prompt", "context vectors of two prompts",
                               {**length, **own["prompt"]}),
        "reprogramming": Model("reprogramming", "a border around the picture",
                               {**fitting, **own["reprogramming"]}),
        "components": Model("components", "a decoder beside the encoder",
                            {**length, **own["components"], "frames_per_clip": frames}),
        "zero-shot": Model("zero_shot", "nothing"),
        QUALITY: Model("zero_shot", "nothing", {"words": ("sharp", "blurry")}),
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
    score (NaN: no answer) are left out. A constant answer has no interval.
    """
    rows = []
    for ((protocol, model), trial), kind in itertools.product(trials.items(), fakes):
        test = against(trial.scores, kind)
        if test["label"].nunique() == 2:
            validation = trial.scores.query("split == 'validation'").dropna(subset="score")
            names = {"protocol": protocol, "fakes": kind, "model": model,
                     "trained": trial.detector.trainable}
            rows.append(names | _measured(test, validation, bootstrap))
    return pd.DataFrame(rows)


def against(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the test rows with a score of the reals and of one manipulation."""
    wanted = (scores["split"] == "test") & scores["manipulation"].isin(["real", kind])
    return scores[wanted & scores["score"].notna()]


def _measured(test: pd.DataFrame, validation: pd.DataFrame, bootstrap: Bootstrap) -> dict:
    videos, checked = metrics.to_videos(test), metrics.to_videos(validation)
    frame = intervals.auc_row(test, bootstrap, intervals.cluster_bootstrap)
    video = intervals.auc_row(videos, bootstrap)
    if videos["score"].nunique() == 1:  # ties with everything by definition
        frame, video = (row | {"low": np.nan, "high": np.nan} for row in (frame, video))
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
        test, of_reference = against(trial.scores, kind), against(other.scores, kind)
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


def simultaneous(trials: Mapping, fakes: Sequence[str], bootstrap: Bootstrap = DEFAULT
                 ) -> pd.DataFrame:
    """Return `table` with intervals that hold for all models of a panel together (Bonferroni).

    Each has the confidence 1 - (1 - confidence) / k for the k models that are no constant answer.
    """
    count = len({model for _, model in trials} - {"always fake"})
    level = 1 - (1 - bootstrap.confidence) / max(count, 1)
    return table(trials, fakes, replace(bootstrap, confidence=level))


def describe(rows: pd.DataFrame) -> str:
    """Word for each split and manipulation which video AUCs differ from a constant answer's.

    `rows` is the table of `simultaneous`. A model without an interval has no statement.
    """
    lines = []
    for (protocol, kind), some in rows.groupby(["protocol", "fakes"], sort=False):
        lines.append(f"- {protocol}, {kind} ({some.reals.iloc[0]} reals, {some.videos.iloc[0]} "
                     f"fakes), against the constant answer: {_standing(some)}.")
    return "\n".join(lines)


def _standing(rows: pd.DataFrame) -> str:
    """Return which models lie above one half, below it, and on neither side."""
    rows = rows[rows["video_low"].notna()]
    above, below = rows["video_low"] > CONSTANT, rows["video_high"] < CONSTANT
    groups = {"above it": above, "below it": below, "undecided": ~(above | below)}
    found = [f"{words} {', '.join(rows.loc[which, 'model'])}"
             for words, which in groups.items() if which.any()]
    return "; ".join(found) or "no model has an interval"


def best_two(trials: Mapping, protocol: str, kind: str, bootstrap: Bootstrap = DEFAULT) -> str:
    """Compare the two models with the largest video AUC directly, in one sentence."""
    tested = {model: metrics.to_videos(against(trial.scores, kind))
              for (name, model), trial in trials.items() if name == protocol}
    aucs = {model: metrics.auc(videos["label"], videos["score"])
            for model, videos in tested.items() if videos["label"].nunique() == 2}
    first, second = sorted(aucs, key=aucs.__getitem__, reverse=True)[:2]
    pair = {(protocol, model): trials[protocol, model] for model in (first, second)}
    row = differences(pair, [kind], bootstrap, reference=second).iloc[0]
    found = (intervals.words(row.difference, row.low, row.high) if not row.reason
             else f"{row.difference:+.3f}, without an interval ({row.reason})")
    decided = ("ranks these videos better" if row.low > 0 else
               "is not told apart from it")
    return (f"The largest AUC is that of {first}, then {second}; the difference is {found}, so "
            f"that {first} {decided}. Both were picked by this result, which flatters the first.")


def answer(rows: pd.DataFrame, best: str) -> str:
    """Word the main table: where models stand to a constant answer, and the best two."""
    return (f"On unseen {rows.fakes.iloc[0]}, protocol {rows.protocol.iloc[0]}, against the "
            f"constant answer, with intervals that hold for all rows together: {_standing(rows)}. "
            f"{best}")


def spelled(clip, words: Sequence[str]) -> pd.DataFrame:
    """Return how the tokenizer of a CLIP spells words; a known word is one token."""
    pieces = {word: clip.tokenizer.tokenize(word) for word in words}
    return pd.DataFrame([{"word": word, "tokens": len(parts), "spelled": " ".join(parts)}
                         for word, parts in pieces.items()]).set_index("word")
