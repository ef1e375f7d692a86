"""Train on few pairs, and test on perturbed crops: what is left of an AUC.

The score tables and models are those of `method_comparison`.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dfnb.data import perturbations, splits
from dfnb.data.crops import CropView
from dfnb.evaluation import intervals, method_comparison, metrics
from dfnb.evaluation.intervals import NAN

LEAST_DRAWS = 3  # of pairs, for an interval


def few_shot(experiment, split_table: pd.DataFrame,
             chosen: Mapping[str, method_comparison.Model], kind: str, *,
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
                        | _aucs(method_comparison.against(trial.scores, kind)))
    return pd.DataFrame(rows, columns=["model", "pairs", "draw", "frame_AUC", "video_AUC"])


def _aucs(test: pd.DataFrame) -> dict[str, float]:
    """Return the AUC of frames and that of videos of a score table."""
    videos = metrics.to_videos(test)
    return {"frame_AUC": metrics.auc(test.label, test.score),
            "video_AUC": metrics.auc(videos.label, videos.score)}


def few_shot_table(curves: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return the mean frame AUC over the draws by model and number of pairs, with its interval.

    The interval is Student's over the draws, so it covers which pairs were drawn and no other test
    videos. It is NaN for fewer than three draws.
    """
    grouped = curves.groupby(["model", "pairs"], sort=False)["frame_AUC"]
    found = grouped.agg(["mean", "min", "max", "size"])
    bounds = [intervals.over_draws(values, confidence) if len(values) >= LEAST_DRAWS
              else (NAN, NAN) for _, values in grouped]
    return found.assign(**dict(zip(("low", "high"), np.transpose(bounds), strict=True)))


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
        with method_comparison.scratch():
            scores = {name: np.split(detector.score(whole), len(changed))
                      for name, detector in detectors.items()}
        for name, strength in itertools.product(detectors, range(len(names))):
            test = view.frames.assign(score=[untouched[name], *scores[name]][strength])
            rows.append({"model": name, "kind": kind, "strength": strength,
                         "amount": names[strength]} | _aucs(test))
    return pd.DataFrame(rows)
