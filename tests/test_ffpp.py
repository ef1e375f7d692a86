"""A dry run of the profiles of FaceForensics++: all its names, and the chapters on a few."""

import json
import random
import shutil

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from test_video import bars, write

from dfnb import cli, config, files
from dfnb.data import corpora, identity, splits
from dfnb.demo import corpus as demo
from dfnb.runs import configuration, fingerprint, notebooks, parameters, results, state

pytestmark = pytest.mark.slow

OFFICIAL = files.ROOT.parent / "shared" / "ffpp"
SIZES = {"train": 360, "validation": 70, "test": 70}  # pairs in the official lists
CHAPTERS = ["01_data_split", "02_baseline_probe", "03_lora_training", "08_summary"]


def own(content: bytes, name: str) -> bytes:
    """Add a free box with its name to an mp4, so that no two files of a tree are equal."""
    text = name.encode()
    return content + (len(text) + 8).to_bytes(4, "big") + b"free" + text


def paired(seed: int = 0) -> dict[str, list[list[str]]]:
    """Lists of the official shape: 1,000 ids in pairs, no id in two splits."""
    ids = [f"{at:03d}" for at in range(1000)]
    random.Random(seed).shuffle(ids)
    pairs = [sorted(ids[at : at + 2], reverse=at % 4 == 0) for at in range(0, 1000, 2)]
    ends = np.cumsum([0, *SIZES.values()])
    return {split: pairs[ends[at] : ends[at + 1]] for at, split in enumerate(SIZES)}


def write_lists(folder, lists) -> None:
    folder.mkdir(exist_ok=True)
    for split, file in identity.LISTS.items():
        (folder / file).write_text(json.dumps(lists[split]))


@pytest.fixture(scope="module", params=["random", "official"])
def whole(request, tmp_path_factory):
    """All ids and 3 classes under their official names (3,000 files), and the lists' folder."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "official":
        if not OFFICIAL.is_dir():
            pytest.skip("the official lists of FaceForensics++ are not here")
        for file in OFFICIAL.iterdir():
            shutil.copy(file, root)
    else:
        write_lists(root, paired())
    pairs = [pair for split in identity.read_known(root)["lists"].values() for pair in split]
    fakes = [f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])]
    names = {"original_sequences/youtube": sorted({name for pair in pairs for name in pair}),
             "manipulated_sequences/FaceSwap": fakes, "manipulated_sequences/NeuralTextures": fakes}
    content = write(root / "clip.mp4", [bars(60), bars(120)]).read_bytes()
    for folder, videos in names.items():
        place = root / "data" / folder / "c23" / "videos"
        place.mkdir(parents=True)
        for video in videos:
            (place / f"{video}.mp4").write_bytes(own(content, f"{folder}/{video}"))
    return root / "data", root


def test_all_ids_are_indexed_and_the_lists_place_every_one(whole):
    root, lists = whole
    manipulations = ["FaceSwap", "NeuralTextures"]
    videos = corpora.index(root, manipulations=manipulations)
    assert videos.groupby("manipulation").size().to_dict() == dict.fromkeys(
        ["real", *manipulations], 1000)
    assert identity.identity_groups(videos).nunique() == 500
    split_table = splits.split(videos, "official", **identity.read_known(lists))
    counts = split_table.groupby(["split", "manipulation"]).size().unstack().loc[list(SIZES)]
    assert counts.to_numpy().tolist() == [[720] * 3, [140] * 3, [140] * 3]
    kept = splits.keep_manipulations(split_table, "FaceSwap", ["NeuralTextures"])
    assert kept.groupby(["split", "manipulation"]).size().to_dict() == {
        ("train", "real"): 720, ("train", "FaceSwap"): 720, ("validation", "real"): 140,
        ("validation", "FaceSwap"): 140, ("test", "real"): 140, ("test", "NeuralTextures"): 140}
    assert identity.audit(kept, videos).seen.max() == 0
    few = corpora.index(root, manipulations=manipulations, videos_per_class=100)
    assert len(few) == 300


def test_a_changed_list_is_another_source_of_a_result(whole):
    root, lists = whole
    profile = config.Profile(name="x", corpus={"root": str(root), "lists": str(lists)},
                             crops={"frames": 1, "size": 64})
    before = fingerprint.sources_fingerprint(profile)
    assert before and fingerprint.sources_fingerprint(profile) == before
    (lists / "identities.csv").write_text("id,person\n000,ann\n")
    assert fingerprint.sources_fingerprint(profile) != before


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Eight pairs of demo people under official ids; two more manipulations are copies."""
    home, lists = tmp_path_factory.mktemp("small"), paired(1)
    chosen = {split: lists[split][:count] for split, count in (
        ("train", 4), ("validation", 2), ("test", 2))}
    write_lists(home / "lists", chosen)
    ids = [name for pairs in chosen.values() for pair in pairs for name in pair]
    made = demo.make(home / "made", seed=903, identities=16, frames=3, workers=1, progress=False)
    for file in sorted(made.rglob("*.mp4")):
        name = "_".join(ids[int(person)] for person in file.stem.split("_"))
        place = str(file.parent.relative_to(made))
        swaps = "FaceSwap" in place
        for manipulation in ("FaceSwap", "Deepfakes", "Face2Face") if swaps else ("",):
            target = home / "FF" / place.replace("FaceSwap", manipulation)
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{name}.mp4").write_bytes(own(file.read_bytes(), f"{manipulation}/{name}"))
    return home, chosen


def execute(stem: str, profile: str) -> results.Result:
    """Run a chapter's cells in this process, with the profile's parameters as papermill does."""
    path = notebooks.folder() / f"{stem}.ipynb"
    names: dict = {}
    for source, tags in notebooks.code_cells(path):
        exec(source, names)
        if "parameters" in tags:
            names.update(parameters.chapter_parameters(path, config.load(profile)))
    names["plt"].close("all")
    return results.result(profile, stem)


@pytest.fixture
def dry(small, corpus, tmp_path, monkeypatch):
    """The profiles ffpp and ffpp-study with another root, few tiny crops and the tiny CLIP."""
    matplotlib.use("Agg")
    home, chosen = small
    for name in ("RUNS", "PARAMS"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("DFNB_CACHE", str(home / "cache"))
    monkeypatch.delenv("DFNB_RUN", raising=False)
    (tmp_path / "params").mkdir()
    training = {"rank": 2, "alpha": 4, "epochs": 1, "batch": 16, "blocks": 2}
    others = {"root": str(corpus), "name": "other-people", "manipulations": ["NeuralTextures"]}
    for name, repeats in (("ffpp", {"repeats": 2}), ("ffpp-study", {"repeats": 1})):
        content = yaml.safe_load((files.ROOT / "params" / f"{name}.yaml").read_text())
        content["corpus"]["root"] = str(home / "FF")
        content |= {"crops": {"frames": 3, "size": 64}, "clip": "tiny"}
        content["notebooks"].setdefault("02_baseline_probe", {}).update(repeats)
        content["notebooks"]["03_lora_training"] |= training | repeats
        content["notebooks"]["08_summary"] = {"draws": 50}
        if name == "ffpp":
            content["corpus"]["lists"] = str(home / "lists")
            content["test_corpora"] = [others]
        (tmp_path / "params" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return chosen


def videos_of(scores: pd.DataFrame, manipulation: str) -> set[str]:
    return set(scores.video[(scores.split == "test") & (scores.manipulation == manipulation)])


def test_the_official_profile_turns_videos_into_results(dry):
    split_seed, probe, lora, summary = (execute(stem, "ffpp") for stem in CHAPTERS)
    reals = {name for pair in dry["test"] for name in pair}
    fakes = {f"{a}_{b}" for pair in dry["test"] for a, b in (pair, pair[::-1])}
    assert split_seed.metrics["splits"]["test"] == {"real": 4, "FaceSwap": 0, "NeuralTextures": 4}
    assert all(row["seen"] == 0 for row in split_seed.metrics["audit"])
    for result in (probe, lora):
        assert videos_of(result.scores, "real") == reals
        assert videos_of(result.scores, "NeuralTextures") == fakes
        assert set(result.scores.manipulation) == {"real", "FaceSwap", "NeuralTextures"}
        others = result.table("others")
        assert set(others.manipulation) == {"Face2Face", "Deepfakes"}
        assert videos_of(others, "Deepfakes") == fakes
        assert set(result.scores.split_seed) == {0, 1}
    assert {row["model"] for row in summary.metrics["rows"]} == {
        "probe, untrained encoder", "linear probe", "LoRA"}
    elsewhere = summary.table("elsewhere")
    assert elsewhere.groupby("model").video.nunique().to_dict() == {"LoRA": 12, "linear probe": 12}
    assert set(elsewhere.tested) == {"other-people"}
    assert elsewhere.score.between(0, 1).all()


def test_the_study_profile_turns_videos_into_results_and_a_test_corpus_repeats_chapter_8_alone(
        dry, corpus):
    split_seed, probe, lora, summary = (execute(stem, "ffpp-study") for stem in CHAPTERS)
    assert split_seed.metrics["splits"] == {
        "train": {"real": 11, "FaceSwap": 14, "NeuralTextures": 0},
        "validation": {"real": 3, "FaceSwap": 2, "NeuralTextures": 0},
        "test": {"real": 2, "FaceSwap": 0, "NeuralTextures": 16}}
    assert max(row["seen"] for row in split_seed.metrics["audit"]) > 0.5
    empty = probe.table("others"), lora.table("others"), summary.table("elsewhere")
    assert [len(table) for table in empty] == [0, 0, 0]
    assert [row["split_seed"] for row in summary.metrics["paired"]] == [0]
    file = config.folder() / "ffpp-study.yaml"
    file.write_text(file.read_text() + f"test_corpora: [{{root: {json.dumps(str(corpus))}}}]\n")
    states = {stem: state.state(result.folder, configuration.of_run(
        notebooks.folder() / f"{stem}.ipynb", config.load("ffpp-study"), {}))[0]
        for stem, result in zip(CHAPTERS, (split_seed, probe, lora, summary), strict=True)}
    assert states == dict.fromkeys(CHAPTERS[:3], "done") | {"08_summary": "stale"}


TRAINED = {"epochs": 1, "rank": 2, "alpha": 4, "blocks": 1}
SMALL = {  # parameters that take minutes with 3 frames a video, of the chapters that train
    "02_baseline_probe": {"repeats": 2}, "03_lora_training": TRAINED | {"repeats": 2},
    "05_identity_leakage": TRAINED | {"folds": 2, "frames": 1, "planted_people": 12,
                                      "planted_seeds": 1},
    "06_related_methods": TRAINED | {"frames": 2, "pairs": "2 4", "few_draws": 1, "few_steps": 4}}


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """1,000 demo people under the official names, 3 frames each; two kinds are of tests alone."""
    home = tmp_path_factory.mktemp("thousand")
    lists = identity.read_known(OFFICIAL)["lists"] if OFFICIAL.is_dir() else paired(2)
    order = ("test", "validation", "train")
    ids = [name for split in order for pair in lists[split] for name in pair]
    tested = {"Face2Face": 140, "Deepfakes": 140}
    demo.make(home / "made", seed=904, identities=1000, frames=3, videos=tested, progress=False)
    for file in sorted((home / "made").rglob("*.mp4")):
        place = home / "FaceForensics++" / file.parent.relative_to(home / "made")
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / ("_".join(ids[int(split)] for split in file.stem.split("_")) + ".mp4"))
    write_lists(home / "FaceForensics++" / "splits", lists)
    return home


@pytest.mark.torture
def test_all_thousand_ids_run_from_the_inventory_to_the_book(thousand, tmp_path, monkeypatch,
                                                             capsys):
    for name in ("RUNS", "PARAMS", "CACHE"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    root = thousand / "FaceForensics++"
    content = yaml.safe_load((files.ROOT / "params" / "ffpp.yaml").read_text())
    content["corpus"] |= {"root": str(root), "lists": str(root / "splits")}
    content |= {"crops": {"frames": 3, "size": 64}, "clip": "tiny"}
    content["notebooks"] = {name: content["notebooks"].get(name, {}) | SMALL.get(name, {})
                            for name in content["notebooks"] | SMALL}
    content["sweeps"] = {"grid": {
        "notebook": "03_lora_training", "chapter": "04_ablations", "grid": {"rank": [2, 4]},
        "base": {"blocks": 1}, "seeds": [1]}}
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "ffpp.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["corpus", str(root), "--lists", str(root / "splits")]) == 0
    words = capsys.readouterr().out.split("the official split:")[1].splitlines()
    table = [line.split()[:2] for line in words[1:5]]
    assert table == [["split", "real"], *([split, str(2 * SIZES[split])] for split in SIZES)]
    assert cli.main(["study", "--profile", "ffpp"]) == 0
    assert "the book is built" in capsys.readouterr().out
    split_table = results.result("ffpp", "01_data_split").metrics["splits"]
    for split, pairs in SIZES.items():  # a video without a face is lost, and chapter 1 says so
        assert 2 * pairs - 4 <= split_table[split]["real"] <= 2 * pairs
    scores = results.result("ffpp", "03_lora_training").scores
    assert len(videos_of(scores, "real")) == split_table["test"]["real"]
    assert len(videos_of(scores, "NeuralTextures")) == split_table["test"]["NeuralTextures"]
