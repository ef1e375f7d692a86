"""The leak experiment's design: designs that are equal in everything but what leaks."""

import numpy as np
import pandas as pd
import pytest

from dfnb import KEY, UserError
from dfnb.data import identity, leak_splits

SIZES = {"pairs": 4, "validation": 2, "per_video": 2}
LEAKS = ["frame", "scene", "face", "pair", "group"]


@pytest.fixture
def videos():
    """Twelve closed pairs, and a real without a partner."""
    names = [f"{place:03d}" for place in range(24)]
    rows = [("c", "real", name, 0, name, None) for name in [*names, "900"]]
    rows += [("c", manipulation, f"{a}_{b}", 1, a, b)
             for manipulation in ("FaceSwap", "NeuralTextures")
             for a, b in [(names[at], names[at ^ 1]) for at in range(24)]]
    videos = pd.DataFrame(rows, columns=[*KEY, "label", "target", "source"])
    return videos.assign(group=identity.identity_groups(videos))


@pytest.fixture
def frames(videos):
    """Five kept frames of every video: 0, 3, 6, 9, 12."""
    return videos.merge(pd.DataFrame({"frame": np.arange(5) * 3}), how="cross")


@pytest.fixture
def designs(frames):
    return leak_splits.design(frames, **SIZES)


def keys(split_table, split) -> set:
    return set(split_table.loc[split_table.split == split, [*KEY, "frame"]].itertuples(
        index=False, name=None))


def test_all_arms_have_the_same_test_and_validation_frames(designs):
    first = designs["identity"]
    for split_table in designs.values():
        assert keys(split_table, "test") == keys(first, "test") and keys(
            split_table, "validation") == keys(first, "validation")


def test_all_arms_train_on_as_many_videos_and_frames_of_each_class(designs):
    for split_table in designs.values():
        train = split_table[split_table.split == "train"]
        assert train.groupby("manipulation").size().to_dict() == {"FaceSwap": 8 * 2, "real": 8 * 2}
        assert (train.groupby(KEY).size() == 2).all()
        assert not train.duplicated().any()


def test_a_test_pair_gives_one_real_or_its_fakes(designs, videos):
    test = designs["frame"].query("split == 'test'").drop_duplicates(KEY).merge(videos, on=KEY)
    assert test.manipulation.value_counts().to_dict() == {
        "real": 2, "FaceSwap": 2, "NeuralTextures": 2}
    assert not set(test[test.label == 0].group) & set(test[test.label == 1].group)
    assert test[test.manipulation == "FaceSwap"].video.tolist() == test[
        test.manipulation == "NeuralTextures"].video.tolist()


def test_no_tested_frame_trains_in_any_arm(designs):
    for split_table in designs.values():
        assert not keys(split_table,
                        "test") & (keys(split_table, "train") | keys(split_table, "validation"))


def test_only_the_identity_arm_is_disjoint(designs, videos):
    identity.check_disjoint(designs["identity"], videos)
    for design in ("frame", "video", "target"):
        identity.check_disjoint(designs[design], videos, between=("train", "validation"))
        with pytest.raises(UserError, match="identity groups stand in more than one split"):
            identity.check_disjoint(designs[design], videos)


@pytest.mark.parametrize(
    ("design", "manipulation", "as_real", "as_fake"),
    [  # the part of a test video that training saw, and the label
        ("frame", "real", LEAKS, []),
        ("frame", "FaceSwap", [], LEAKS),
        # its FaceSwap sibling shows the other face
        ("frame", "NeuralTextures", [], ["scene", "pair", "group"]),
        ("video", "real", ["group"], ["scene", "face", "pair", "group"]),
        ("video", "FaceSwap", ["scene", "face", "pair", "group"], ["pair", "group"]),
        ("video", "NeuralTextures", ["scene", "face", "pair", "group"], ["face", "pair", "group"]),
        ("target", "real", ["group"], ["face", "pair", "group"]),
        ("target", "FaceSwap", ["face", "pair", "group"], ["pair", "group"]),
        ("target", "NeuralTextures", ["pair", "group"], ["face", "pair", "group"]),
        ("identity", "real", [], []),
        ("identity", "FaceSwap", [], []),
        ("identity", "NeuralTextures", [], [])])
def test_the_audit_shows_the_intended_leak_and_no_other(designs, videos, design, manipulation,
                                                        as_real, as_fake):
    found = identity.audit(
        designs[design], videos,
        groups=videos.group).query("manipulation == @manipulation").set_index("leak")
    assert found.seen_as_real.to_dict() == {leak: float(leak in as_real) for leak in LEAKS}
    assert found.seen_as_fake.to_dict() == {leak: float(leak in as_fake) for leak in LEAKS}


def test_the_design_depends_on_the_seed_and_not_on_the_order_of_rows(frames, designs):
    again = leak_splits.design(frames.sample(frac=1, random_state=3), **SIZES)
    other = leak_splits.design(frames, **SIZES, seed=1)
    for design in leak_splits.DESIGNS:
        pd.testing.assert_frame_equal(again[design], designs[design])
    assert keys(other["identity"], "test") != keys(designs["identity"], "test")


def test_folds_test_every_pair_once_before_any_twice(frames, videos):
    tested = [
        leak_splits.design(frames, **SIZES, fold=fold)["identity"].query("split == 'test'")
        for fold in range(3)]
    groups = [set(test.merge(videos, on=KEY).group) for test in tested]
    assert [len(each) for each in groups] == [4, 4, 4] and len(set.union(*groups)) == 12


def test_a_pair_that_lacks_a_video_or_frames_takes_no_part(frames):
    lost = frames[~((frames.video == "001_000") & (frames.manipulation == "NeuralTextures"))]
    short = lost[~((lost.video == "002") & (lost.frame > 6))]  # three kept frames, four are needed
    pairs = leak_splits.closed_pairs(short, ["FaceSwap", "NeuralTextures"], 4)
    assert [(pair.a, pair.b) for pair in pairs] == [(f"{at:03d}", f"{at + 1:03d}")
                                                    for at in range(4, 24, 2)]


def test_a_corpus_that_is_too_small_is_refused(frames):
    with pytest.raises(UserError, match="need 14 closed pairs .* the corpus has 12"):
        leak_splits.design(frames, **SIZES | {"pairs": 6})
    with pytest.raises(UserError, match="pairs must be an even number of at least 2.* got 3"):
        leak_splits.design(frames, **SIZES | {"pairs": 3})
