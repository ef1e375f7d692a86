"""What a notebook opens, on the tiny demo corpus and a two-block CLIP."""

import numpy as np
import pytest
import yaml

from dfnb import UserError, workbench


@pytest.fixture
def bench(corpus, clip_folder, tmp_path, monkeypatch):
    """A profile of its own that names the corpus and the CLIP of the fixtures."""
    profile = {"corpus": {"root": str(corpus)}, "crops": {"frames": 3, "size": 64}, "clip": str(clip_folder)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("DFNB_PARAMS", str(tmp_path))
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    return workbench.open("mine", progress=False)


def test_a_part_holds_the_crops_of_its_videos_and_no_others(bench):
    parts = bench.parts("identity", seed=0)
    views = {part: bench.view(parts, part) for part in ("train", "validation", "test")}
    assert sum(len(view) for view in views.values()) == len(bench.crops)
    for part, view in views.items():
        assert set(view.frames.video) == set(parts.video[parts.part == part])
    groups = [set(view.frames.group) for view in views.values()]
    assert not groups[0] & groups[2]


def test_methods_can_be_left_out_of_a_view(bench):
    parts = bench.parts("identity", seed=0)
    assert set(bench.view(parts, "train", ["real"]).frames.method) == {"real"}


def test_a_split_by_frames_takes_single_frames(bench):
    parts = bench.parts("frame", seed=0, frames=bench.crops.frames)
    view = bench.view(parts, "test")
    assert 0 < len(view) == (parts.part == "test").sum()


def test_scores_carry_the_keys_of_their_crops(bench):
    view = bench.crops.select(np.array([4, 1]))
    table = workbench.scores_table(view, "test", np.array([0.25, 0.75]), model="constant")
    assert table.video.tolist() == view.frames.video.tolist()
    assert table.score.tolist() == [0.25, 0.75]
    assert set(table.columns) >= {"corpus", "method", "video", "group", "frame", "label", "part", "model"}


def test_a_trial_fits_on_training_and_scores_the_rest(bench):
    parts = bench.parts("identity", seed=0)
    trial = bench.trial("probe", parts, seed=3)
    assert trial.scores.part.value_counts().to_dict() == {
        part: len(bench.view(parts, part)) for part in ("validation", "test")}
    assert trial.scores.score.between(0, 1).all()
    assert (trial.scores.split == 3).all()
    assert trial.seconds > 0


def test_a_corpus_that_is_not_there_is_a_sentence(bench, tmp_path, monkeypatch):
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump(
        {"corpus": {"root": str(tmp_path / "nowhere")}, "crops": {"frames": 3, "size": 64}}))
    with pytest.raises(UserError, match="nowhere"):
        workbench.open("lost")


def test_closed_pairs_are_fetched_from_the_whole_corpus_where_the_first_videos_hold_none(corpus, tmp_path, monkeypatch):
    names = dict(zip(("000", "001", "002", "003", "004", "005"), ("000", "003", "001", "004", "002", "005"), strict=True))
    for file in corpus.rglob("*.mp4"):  # the pairs become 000_003, 001_004 and 002_005: ids mix as in FaceForensics++
        name = "_".join(names[id] for id in file.stem.split("_"))
        link = tmp_path / "tree" / file.parent.relative_to(corpus) / f"{name}.mp4"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(file)
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({
        "corpus": {"root": str(tmp_path / "tree"), "videos_per_class": 3}, "crops": {"frames": 2, "size": 64}}))
    for name in ("PARAMS", "CACHE"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path))
    methods, bench = ["FaceSwap", "NeuralTextures"], workbench.open("mixed")
    paired = bench.paired(2, methods)
    assert len(bench.videos) == 9 and len(paired.videos) == 3 * 6
    assert set(paired.videos.target) == set(names.values())
    assert paired.paired(2, methods) is paired
