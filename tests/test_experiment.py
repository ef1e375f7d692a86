"""What a notebook opens, on the tiny demo corpus and a two-block CLIP."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from dfnb import UserError, config, experiment
from dfnb.demo import corpus as demo
from dfnb.evaluation import cross_fitting, tables


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bench(corpus, clip_folder, cache, tmp_path, monkeypatch):
    """A separate profile that names the corpus and the CLIP of the fixtures."""
    profile = {
        "corpus": {"root": str(corpus)}, "crops": {"frames": 3, "size": 64},
        "clip": str(clip_folder)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("DFNB_PARAMS", str(tmp_path))
    monkeypatch.setenv("DFNB_CACHE", str(cache))
    return experiment.Experiment.open("mine", progress=False)


def test_a_part_holds_the_crops_of_its_videos_and_no_others(bench):
    split_table = bench.split("identity", seed=0)
    views = {split: bench.view(split_table, split) for split in ("train", "validation", "test")}
    assert sum(len(view) for view in views.values()) == len(bench.crops)
    for split, view in views.items():
        assert set(view.frames.video) == set(split_table.video[split_table.split == split])
    groups = [set(view.frames.group) for view in views.values()]
    assert not groups[0] & groups[2]


def test_methods_can_be_left_out_of_a_view(bench):
    split_table = bench.split("identity", seed=0)
    assert set(bench.view(split_table, "train", ["real"]).frames.manipulation) == {"real"}


def test_a_split_by_frames_takes_single_frames(bench):
    split_table = bench.split("frame", seed=0, frames=bench.crops.frames)
    view = bench.view(split_table, "test")
    assert 0 < len(view) == (split_table.split == "test").sum()


def test_scores_carry_the_keys_of_their_crops(bench):
    view = bench.crops.select(np.array([4, 1]))
    table = experiment.scores_table(view, "test", np.array([0.25, 0.75]), model="constant")
    assert table.video.tolist() == view.frames.video.tolist()
    assert table.score.tolist() == [0.25, 0.75]
    assert set(table.columns) >= {
        "corpus", "manipulation", "video", "group", "frame", "label", "split", "model"}


def test_a_trial_fits_on_training_and_scores_the_rest(bench):
    split_table = bench.split("identity", seed=0)
    trial = bench.trial("probe", split_table, seed=3)
    assert trial.scores.split.value_counts().to_dict() == {
        split: len(bench.view(split_table, split)) for split in ("validation", "test")}
    assert trial.scores.score.between(0, 1).all()
    assert (trial.scores.split_seed == 3).all()
    assert trial.seconds > 0


def test_a_corpus_that_is_not_there_is_a_sentence(bench, tmp_path, monkeypatch):
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump(
        {"corpus": {"root": str(tmp_path / "nowhere")}, "crops": {"frames": 3, "size": 64}}))
    with pytest.raises(UserError, match="nowhere"):
        experiment.Experiment.open("lost")


def rewrite(tmp_path, **sections):
    """The profile `mine` with some sections replaced."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | sections))
    return config.load("mine")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Four people of another world, who have the same ids as those of `corpus`."""
    folder = tmp_path_factory.mktemp("foreign") / "world"
    kinds = ("FaceSwap", "NeuralTextures")
    return demo.make(folder, seed=77, identities=4, frames=3, kinds=kinds, workers=1,
                     progress=False)


def test_any_protocol_asks_the_studys_question_when_the_manipulations_are_given(bench):
    split_table = bench.split("identity", seed=0, train_manipulation="FaceSwap",
                              test_manipulations=["NeuralTextures"])
    found = split_table.groupby("split").manipulation.unique().map(set).to_dict()
    assert found == {
        "train": {"real", "FaceSwap"}, "validation": {"real", "FaceSwap"},
        "test": {"real", "NeuralTextures"}}


def test_lists_and_persons_of_the_profile_reach_the_split_and_the_groups(bench, corpus, tmp_path):
    lists = {"train": [["000", "001"]], "val": [["002", "003"]], "test": [["004", "005"]]}
    (tmp_path / "lists").mkdir()
    for name, pairs in lists.items():
        (tmp_path / "lists" / f"{name}.json").write_text(json.dumps(pairs))
    (tmp_path / "persons.csv").write_text("id,person\n000,ann\n002,ann\n")
    rewrite(tmp_path, corpus={"root": str(corpus), "lists": str(tmp_path / "lists"),
                              "identities": str(tmp_path / "persons.csv")})
    listed = experiment.Experiment.open("mine", progress=False)
    split_table = listed.split("official", seed=0)
    assert set(
        split_table.query("split == 'test' and manipulation == 'real'").video) == {"004", "005"}
    assert (bench.videos.group.nunique(), listed.videos.group.nunique()) == (3, 2)
    with pytest.raises(UserError, match="set corpus.lists in the profile"):
        bench.split("official", seed=0)


def test_other_corpora_are_scored_by_saved_detectors_and_keep_their_own_labels(
        bench, foreign, tmp_path):
    trial = bench.trial("probe", bench.split("identity", seed=0), seed=0)
    trial.detector.save(tmp_path / "probe")
    results = {"linear probe": SimpleNamespace(folder=tmp_path / "probe")}
    few = {
        "root": str(foreign), "name": "few", "manipulations": ["FaceSwap"], "videos_per_class": 2}
    profile = rewrite(tmp_path, test_corpora=[{"root": str(foreign)}, few])
    scores = experiment.across(profile, results, 0)
    assert scores.groupby(["tested", "manipulation"]).video.nunique().to_dict() == {
        ("world", "real"): 4, ("world", "FaceSwap"): 4, ("world", "NeuralTextures"): 4,
        ("few", "real"): 2, ("few", "FaceSwap"): 2}
    index = experiment.corpora.index(foreign, manipulations=["FaceSwap"],
                                     videos_per_class=2).assign(group=0)
    view = experiment.crops.build(index, **profile.crops.model_dump(), progress=False)
    of_few = scores[scores.tested == "few"]
    np.testing.assert_array_equal(of_few.score, trial.detector.score(view).astype(float))
    table = tables.across(scores, trial.scores.assign(model="linear probe"))
    assert table[["tested", "model", "reals", "fakes"]].to_numpy().tolist() == [
        ["world", "linear probe", 4, 8], ["few", "linear probe", 2, 2]]
    assert table.AUC.between(0, 1).all()


def test_without_other_corpora_nothing_is_scored(bench):
    assert len(experiment.across(bench.profile, {}, 0)) == 0


def test_the_corpus_that_is_trained_on_is_no_other_corpus(bench, corpus, foreign, tmp_path):
    (tmp_path / "link").symlink_to(corpus)
    with pytest.raises(UserError, match="the corpus that is trained on"):
        list(experiment.others(rewrite(tmp_path, test_corpora=[{"root": str(tmp_path / "link")}])))
    twice = rewrite(tmp_path, test_corpora=[{"root": str(foreign)}] * 2)
    with pytest.raises(UserError, match="two corpora called world"):
        list(experiment.others(twice))


def test_of_a_corpus_with_parts_of_its_own_only_the_test_part_is_taken(bench, foreign, tmp_path):
    reals = foreign / "original_sequences/youtube/c23/videos"
    fakes = foreign / "manipulated_sequences/FaceSwap/c23/videos"
    rows = [(reals / "000.mp4", 0, "test"), (reals / "001.mp4", 0, "train"),
            (fakes / "000_001.mp4", 1, "test")]
    lines = ["path,label,split", *(f"{path},{label},{split}" for path, label, split in rows)]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    profile = rewrite(tmp_path, test_corpora=[{"root": str(tmp_path / "manifest.csv")}])
    (name, view), = experiment.others(profile)
    assert name == tmp_path.name
    assert set(view.frames.video) == {"000", "000_001"}
    assert "split" not in view.frames


def test_closed_pairs_are_fetched_from_the_whole_corpus_where_the_first_videos_hold_none(
        corpus, tmp_path, monkeypatch):
    names = dict(
        zip(("000", "001", "002", "003", "004", "005"), ("000", "003", "001", "004", "002", "005"),
            strict=True))
    # the pairs become 000_003, 001_004 and 002_005: ids mix as in FaceForensics++
    for file in corpus.rglob("*.mp4"):
        name = "_".join(names[id] for id in file.stem.split("_"))
        link = tmp_path / "tree" / file.parent.relative_to(corpus) / f"{name}.mp4"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(file)
    (tmp_path / "mixed.yaml").write_text(
        yaml.safe_dump({
            "corpus": {"root": str(tmp_path / "tree"), "videos_per_class": 3},
            "crops": {"frames": 2, "size": 64}}))
    for name in ("PARAMS", "CACHE"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path))
    manipulations, bench = ["FaceSwap", "NeuralTextures"], experiment.Experiment.open("mixed")
    paired = bench.paired(2, manipulations)
    assert len(bench.videos) == 9 and len(paired.videos) == 3 * 6
    assert set(paired.videos.target) == set(names.values())
    assert paired.paired(2, manipulations) is paired


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A demo profile of four people, with two fakes of one kind and one of another."""
    profile = {
        "corpus": {
            "root": "demo", "manipulations": ["FaceSwap", "Face2Face"],
            "videos": {"FaceSwap": 2, "Face2Face": 1}
        }, "demo": {"seed": 5, "identities": 4, "frames": 3}, "crops": {"frames": 2, "size": 32}}
    (tmp_path / "world.yaml").write_text(yaml.safe_dump(profile))
    for name, folder in (("DFNB_PARAMS", "."), ("DFNB_DATA", "data"), ("DFNB_CACHE", "cache")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return experiment.Experiment.open("world", progress=False)


def test_a_profile_can_ask_for_few_fakes_of_a_kind(world):
    assert world.videos.manipulation.value_counts().to_dict() == {
        "real": 4, "FaceSwap": 2, "Face2Face": 1}
    assert len(list(world.profile.folder.rglob("*.mp4"))) == 7


def test_masks_belong_to_the_fake_crops_of_a_view(world):
    view = world.crops.select(np.arange(len(world.crops))[::-1])
    found = experiment.masks(world, view)
    assert found.shape == (14, 32, 32) and found.dtype == np.uint8
    assert not found[view.labels == 0].any()
    shares = (found > 127).mean(axis=(1, 2))[view.labels == 1]
    assert shares.min() > 0.1 and shares.max() < 0.9
    some = world.crops.select([9, 12])
    np.testing.assert_array_equal(experiment.masks(world, some), found[::-1][[9, 12]])


def test_nobody_knows_the_masks_of_other_corpora(bench):
    with pytest.raises(UserError, match="masks are known in the demo world only"):
        experiment.masks(bench, bench.crops)


def test_cross_fitting_tests_every_real_once_by_a_detector_that_has_not_met_its_people(bench):
    scores = bench.cross_fit("probe", folds=3, draws=[0, 1], train_on="FaceSwap",
                             test_on=["NeuralTextures"], cs=(1.0,))
    known = bench.videos[bench.videos.manipulation.isin(["real", "NeuralTextures"])]
    assert scores.draw.unique().tolist() == [0, 1] and scores.seed.unique().tolist() == [0]
    folds = []
    for _, rows in scores.groupby("draw"):
        videos = cross_fitting.to_videos(rows)
        assert sorted(zip(videos.manipulation, videos.video, strict=True)) == sorted(
            zip(known.manipulation, known.video, strict=True))
        assert videos.groupby("group").fold.nunique().eq(1).all()
        assert videos.groupby("fold").threshold.nunique().eq(1).all()
        assert videos.fold.nunique() == 3
        folds.append(videos.set_index(["manipulation", "video"]).fold)
    assert not folds[0].equals(folds[1])
