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


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A demo profile of four people, with two fakes of one kind and one of another."""
    profile = {"corpus": {"root": "demo", "methods": ["FaceSwap", "Face2Face"], "videos": {"FaceSwap": 2, "Face2Face": 1}},
               "demo": {"seed": 5, "identities": 4, "frames": 3}, "crops": {"frames": 2, "size": 32}}
    (tmp_path / "world.yaml").write_text(yaml.safe_dump(profile))
    for name, folder in (("DFNB_PARAMS", "."), ("DFNB_DATA", "data"), ("DFNB_CACHE", "cache")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return workbench.open("world", progress=False)


def test_a_profile_can_ask_for_few_fakes_of_a_kind(world):
    assert world.videos.method.value_counts().to_dict() == {"real": 4, "FaceSwap": 2, "Face2Face": 1}
    assert len(list(world.profile.folder.rglob("*.mp4"))) == 7


def test_masks_belong_to_the_fake_crops_of_a_view(world):
    view = world.crops.select(np.arange(len(world.crops))[::-1])
    found = workbench.masks(world, view)
    assert found.shape == (14, 32, 32) and found.dtype == np.uint8
    assert not found[view.labels == 0].any()
    shares = (found > 127).mean(axis=(1, 2))[view.labels == 1]
    assert shares.min() > 0.1 and shares.max() < 0.9
    some = world.crops.select([9, 12])
    np.testing.assert_array_equal(workbench.masks(world, some), found[::-1][[9, 12]])


def test_nobody_knows_the_masks_of_other_corpora(bench):
    with pytest.raises(UserError, match="masks are known in the demo world only"):
        workbench.masks(bench, bench.crops)
