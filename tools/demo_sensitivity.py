"""Measure how settings of the demo world change a frozen and an adapted detector, one at a time.

FaceSwap's settings change what is learnt, so each one is trained anew. NeuralTextures' bottleneck
changes only what is tested. The difference of two detectors is paired: same world, same draw of the
split, same test videos.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dfnb import KEY, config, files
from dfnb.data import corpora, crops, identity, splits
from dfnb.detectors import DETECTORS
from dfnb.evaluation import metrics
from dfnb.models import clip

WORLDS = (303, 304)  # neither the demo's nor those on which its strengths were first tried
SEEDS = (0, 1, 2)
DEFAULT = "default"
SWAPS = {DEFAULT: {}, "finer source": {"source_resolution": 0.6},
         "coarser source": {"source_resolution": 0.25},
         "better colour match": {"colour_match": 0.9}}
REENACTMENTS = {DEFAULT: {}, "narrower bottleneck": {"bottleneck": 0.12},
                "wider bottleneck": {"bottleneck": 0.35}}
MODELS = ("linear probe", "LoRA")
COLUMNS = ["world", "swap", "reenactment", "split_seed", "model", "validation", "frame", "video"]
DRAW = ["swap", "reenactment", "world", "split_seed"]


def measure(
    lora: Mapping[str, object], worlds: Sequence[int] = WORLDS, seeds: Sequence[int] = SEEDS,
    swaps: Mapping[str, dict] = SWAPS, reenactments: Mapping[str, dict] = REENACTMENTS, *,
    identities: int = 100, frames: int = 8,
) -> pd.DataFrame:
    """Return one row per world, setting of both manipulations, split seed and model (COLUMNS).

    Probe and LoRA (with the options `lora`) learn real and FaceSwap on the study's split.
    `validation` is the AUC of the frames of the validation split; `frame` and `video` are AUCs on
    NeuralTextures.
    """
    rows, model = [], clip.load("tiny")
    for world in worlds:
        tested = {name: _cropped(world, "NeuralTextures", name, settings, identities, frames)
                  for name, settings in reenactments.items()}
        fakes = next(iter(tested.values()))[0].query("label == 1")
        for name, settings in swaps.items():
            videos, learnt = _cropped(world, "FaceSwap", name, settings, identities, frames)
            both = pd.concat([videos, fakes], ignore_index=True)
            for seed, shown in itertools.product(seeds, MODELS):
                kind, options = ("lora", lora) if shown == "LoRA" else ("probe", {})
                table = splits.split(both, "study", seed=seed)
                train, validation = (_view(learnt, table, split)
                                     for split in ("train", "validation"))
                detector = DETECTORS[kind].fit(train, validation, clip=model, seed=seed, **options)
                best = next(row["validation_auc"] for row in detector.history if row["best"])
                rows += [[world, name, changed, seed, shown, best,
                          *_aucs(detector, _view(view, table, "test"))]
                         for changed, (_, view) in tested.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _cropped(world: int, kind: str, name: str, settings: dict, identities: int, frames: int):
    """Return the videos and crops of one manipulation in one world with one setting."""
    from dfnb.demo import corpus, reenact, swap

    option, strength = {"FaceSwap": ("swap", swap.SwapStrength),
                        "NeuralTextures": ("reenact", reenact.ReenactStrength)}[kind]
    folder = f"{world}-{kind}-{name.replace(' ', '-')}-{identities}-{frames}"
    place = files.data() / "demo-sensitivity" / folder
    corpus.make(place, seed=world, identities=identities, frames=frames, kinds=(kind,),
                **{option: strength(**settings)})
    videos = corpora.index(place, manipulations=[kind])
    videos = videos.assign(group=identity.identity_groups(videos))
    return videos, crops.build(videos, frames=frames, size=64)


def _view(view: crops.CropView, table: pd.DataFrame, split: str) -> crops.CropView:
    keys = pd.MultiIndex.from_frame(table.loc[table.split == split, KEY])
    return view.select(pd.MultiIndex.from_frame(view.frames[KEY]).isin(keys))


def _aucs(detector, view: crops.CropView) -> tuple[float, float]:
    """Return the AUC of the frames and of the videos of a view."""
    table = view.frames.assign(score=detector.score(view))
    videos = metrics.to_videos(table)
    return metrics.auc(table.label, table.score), metrics.auc(videos.label, videos.score)


def _gain(rows: pd.DataFrame) -> pd.Series:
    """Return the frame AUC of LoRA minus that of the probe, for each setting and draw."""
    wide = rows.pivot_table(index=DRAW, columns="model", values="frame", sort=False)
    return wide["LoRA"] - wide["linear probe"]


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean AUCs, the mean paired difference, and the draws with LoRA ahead, by setting."""
    units = itertools.product(("validation", "frame"), MODELS)
    wide = rows.pivot_table(index=DRAW, columns="model", values=["validation", "frame"], sort=False)
    table = pd.DataFrame({f"{model}, {unit}": wide[unit, model] for unit, model in units})
    gain, settings = _gain(rows), ["swap", "reenactment"]
    drawn = gain.groupby(settings, sort=False)
    return table.groupby(settings, sort=False).mean().assign(
        difference=drawn.mean(), lowest=drawn.min(), highest=drawn.max(),
        ahead=(gain > 0).groupby(settings, sort=False).sum(), of=drawn.size())


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how one changed setting moves LoRA minus probe, against the default in the same draw.

    There is one row per changed setting, averaged over the other manipulation: the mean change, its
    lowest and highest value among the draws, and the number of draws in which it is positive.
    """
    gain, tables = _gain(rows), []
    for kind in ("swap", "reenactment"):
        drawn = gain.groupby([kind, "world", "split_seed"], sort=False).mean()
        drawn = drawn.unstack(["world", "split_seed"])
        change = drawn.sub(drawn.loc[DEFAULT]).drop(DEFAULT)
        tables.append(pd.DataFrame({
            "manipulation": kind, "change": change.mean(axis=1), "lowest": change.min(axis=1),
            "highest": change.max(axis=1), "up": (change > 0).sum(axis=1), "of": change.shape[1]}))
    return pd.concat(tables).rename_axis("changed to").reset_index()


def summary(rows: pd.DataFrame) -> str:
    """Return sentences: where LoRA leads on most draws, and which setting moves the difference."""
    table, moved = differences(rows), changes(rows)
    ahead = int((2 * table["ahead"] > table["of"]).sum())
    steady = moved[(moved["up"] == 0) | (moved["up"] == moved["of"])]
    named = [f"{row['changed to']} ({row.change:+.3f} on average, {row.lowest:+.3f} to "
             f"{row.highest:+.3f})" for _, row in steady.iterrows()]
    return (f"LoRA is ahead of the probe on most draws at {ahead} of {len(table)} settings. "
            "Changed alone, these settings move the difference in the same direction in every "
            f"draw: {'; '.join(named) or 'none'}.")


def agreement(rows: pd.DataFrame) -> float:
    """Return the share of the differences' variance that lies between draws, whatever the setting.

    It is one minus the variance within (world, split seed) over the whole variance: 1 where the
    drawn people alone decide.
    """
    gain = _gain(rows)
    within = gain - gain.groupby(["world", "split_seed"]).transform("mean")
    return float(1 - within.var(ddof=0) / gain.var(ddof=0))


def write(rows: pd.DataFrame, folder: Path, lora: Mapping[str, object]) -> Path:
    """Write demo_sensitivity.json and the page demo_sensitivity.md; return the page."""
    content = {"lora": dict(lora), "rows": rows.to_dict("records")}
    files.write_json(folder / "demo_sensitivity.json", content)
    table, moved = (each.round(3).to_markdown(index=False)
                    for each in (differences(rows).reset_index(), changes(rows)))
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in lora.items())
    files.atomic_write(folder / "demo_sensitivity.md", PAGE.format(
        table=table, moved=moved, summary=summary(rows), options=options,
        worlds=", ".join(map(str, rows.world.unique())), draws=rows.split_seed.nunique(),
        share=f"{agreement(rows):.0%}"))
    return folder / "demo_sensitivity.md"


PAGE = """# Which settings of the demo world change its numbers

`make demo-sensitivity` wrote this page from worlds {worlds} with {draws} draws of the study's split
each. The first row holds the default setting. Every other row changes one setting of FaceSwap
(*swap*), one of NeuralTextures (*reenactment*), or one of each. *Validation* is the frame AUC on
FaceSwap and *frame* that on unseen NeuralTextures; LoRA has {options}. *Difference* is LoRA minus
probe on NeuralTextures, paired by world and draw; *ahead* counts the draws where it is positive.

{table}

{summary} The next table shows how one changed setting moves the difference, averaged over the
settings of the other manipulation.

{moved}

Of the variance of the differences, {share} lies between worlds and draws, whatever the setting: it
depends on who is drawn for the test split, with ten real people in it. The rest depends on the
settings. These are development figures; no setting was chosen by them.
"""


def main() -> None:
    """Measure with the demo profile's LoRA and write the page."""
    options = config.load("demo").notebooks["03_lora_training"]
    lora = {name: value for name, value in options.items() if name != "repeats"}
    print(write(measure(lora), files.ROOT / "book", lora))


if __name__ == "__main__":
    main()
