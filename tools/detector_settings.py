"""Choose the detectors' settings for a demo world, and confirm the headline on other worlds.

The rule is written before any run. Every detector that trains by gradients has the same number of
candidates and trains for the same number of steps, of which it keeps the best of eight points on
validation. A candidate's merit is that validation AUC (frames) on FaceSwap, in the first fold of
the protocol `cross`, averaged over the worlds `CHOICE`. The largest merit wins, of equals the first
in the list. The worlds of the choice hold no manipulation but FaceSwap, so nothing that is tested
later can influence it. A training that diverges has the merit 0.

`python -m tools.detector_settings choose` writes book/_static/settings.csv (half an hour),
`python -m tools.detector_settings confirm` writes book/_static/worlds.csv, the cross-fitted
comparison on the worlds `CONFIRMATION`, which no choice has used, with the settings of the profile.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence

import pandas as pd

from dfnb import config, files
from dfnb.detectors.training import Diverged
from dfnb.evaluation import cross_fitting
from dfnb.experiment import Experiment
from dfnb.runs import notebooks
from dfnb.runs.parameters import chapter_parameters

CHOICE = (401, 402)
CONFIRMATION = (411, 412, 413)
TRAIN_ON, TEST_ON = "FaceSwap", "NeuralTextures"
BUDGET = {"steps": 160, "epochs": 8, "patience": None}
RATES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)
CANDIDATES: dict[str, list[dict]] = {
    "lora": [{"blocks": blocks, "rank": rank, "alpha": alpha, "dropout": 0.05,
              "learning_rate": rate}
             for blocks, (rank, alpha), rate in itertools.product(
                 (1, 3), ((8, 64), (16, 16)), (3e-4, 1e-3))]}
CANDIDATES |= {name: [{"learning_rate": rate} for rate in RATES]
               for name in ("full", "layernorm", "prompt", "reprogramming")}
CANDIDATES |= {"components": [{"frames_per_clip": 4, "learning_rate": rate} for rate in RATES]}


def profile_of(world: int, manipulations: Sequence[str], base: str = "demo") -> config.Profile:
    """Return a profile of another demo world that holds only some manipulations."""
    settings = config.load(base)
    corpus = settings.corpus.model_copy(update={"manipulations": list(manipulations),
                                                "videos": {}})
    demo = settings.demo.model_copy(update={"seed": world})
    return settings.model_copy(update={"name": f"world-{world}", "corpus": corpus, "demo": demo})


def choose(worlds: Sequence[int] = CHOICE, candidates: Mapping[str, list[dict]] = CANDIDATES,
           budget: Mapping = BUDGET, base: str = "demo") -> pd.DataFrame:
    """Return a row per detector and candidate: its merit in each world, the mean, and `chosen`."""
    rows: dict[tuple[str, str], dict] = {}
    for world in worlds:
        experiment = Experiment.of(profile_of(world, [TRAIN_ON], base))
        split_table = experiment.split("cross", seed=0, fold=0, train_manipulation=TRAIN_ON,
                                       test_manipulations=[TRAIN_ON])
        for name, options in ((name, one) for name, every in candidates.items() for one in every):
            try:
                detector = experiment.trial(name, split_table, seed=0, describe=False,
                                            **options, **budget).detector
                merit = max(row["validation_auc"] for row in detector.history)
            except Diverged:
                merit = 0.0
            words = ", ".join(f"{key} {value:g}" for key, value in options.items())
            rows.setdefault((name, words), {})[f"world {world}"] = merit
            print(f"world {world}: {name}, {words}: {merit:.4f}", flush=True)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["detector", "candidate"])
    table = table.assign(mean=table.mean(axis=1)).reset_index()
    best = table.groupby("detector", sort=False)["mean"].idxmax()
    return table.assign(chosen=["yes" if row in set(best) else "" for row in table.index])


def confirm(worlds: Sequence[int] = CONFIRMATION, base: str = "demo") -> pd.DataFrame:
    """Return the cross-fitted AUCs of probe and LoRA and their difference, a row per world."""
    own = chapter_parameters(notebooks.find("03"), config.load(base))
    options = {name: own[name] for name in ("rank", "alpha", "dropout", "learning_rate", "batch",
                                            "epochs")}
    options |= {"blocks": own["blocks"] or None, "steps": own["steps"] or None}
    rows = []
    for world in worlds:
        experiment = Experiment.of(profile_of(world, [TRAIN_ON, TEST_ON], base))
        fits = dict(folds=own["folds"], train_on=TRAIN_ON, test_on=[TEST_ON])
        both = [cross_fitting.to_videos(experiment.cross_fit(name, **fits, **settings))
                for name, settings in (("probe", {}), ("lora", options))]
        found = {"linear probe": cross_fitting.auc(both[0]), "LoRA": cross_fitting.auc(both[1]),
                 "LoRA - linear probe": cross_fitting.difference(both[1], both[0])}
        rows.append({"world": world} | {name: cross_fitting.shown(one)
                                        for name, one in found.items()})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Write the table of one of the two commands."""
    if sys.argv[1:] not in (["choose"], ["confirm"]):
        sys.exit("usage: python -m tools.detector_settings choose | confirm")
    name, table = ("settings", choose) if sys.argv[1] == "choose" else ("worlds", confirm)
    path = files.ROOT / "book" / "_static" / f"{name}.csv"
    files.atomic_write(path, table().round(4).to_csv(index=False))


if __name__ == "__main__":
    main()
