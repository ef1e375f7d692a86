"""Protocols keep what they promise on random corpora; the audit catches leaks that are made on
purpose.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dfnb import KEY, UserError, files
from dfnb.data import identity, splits

QUICK = settings(max_examples=40, deadline=None)
COLUMNS = ["corpus", "manipulation", "video", "label", "target", "source", "path"]
DETECTORS = ("FaceSwap", "NeuralTextures")
BY_VIDEO = sorted(set(splits.PROTOCOLS) - {"frame", "official", "official-strict"})
OFFICIAL = files.ROOT.parent / "shared" / "ffpp"


def corpus_of(reals, pairs, manipulations=DETECTORS) -> pd.DataFrame:
    """A videos table without files: a real per id, a fake target_source per pair and
    manipulation.
    """
    rows = [("c", "real", name, 0, name, None, "") for name in reals]
    rows += [("c", manipulation, f"{a}_{b}", 1, a, b, "")
             for manipulation in manipulations
             for a, b in pairs]
    return pd.DataFrame(rows, columns=COLUMNS)


def closed(count: int) -> pd.DataFrame:
    """Ids 000.. in closed pairs: (a, b) and (b, a)."""
    names = [f"{place:03d}" for place in range(count)]
    return corpus_of(names, [(names[at], names[at ^ 1]) for at in range(count)])


@st.composite
def corpora(draw):
    """Reals with closed pairs, open chains or both, and a few YouTube siblings."""
    count = draw(st.integers(8, 40))
    names = [f"{place:03d}" for place in range(count)]
    pairs = [(names[at], names[at ^ 1])
             for at in range(0, count - count % 2)
             if draw(st.booleans())]
    chains = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=8))
    pairs = sorted({*pairs, *((a, b) for a, b in chains if a != b)})
    youtube = {
        name: draw(st.sampled_from("abcdefghij"))
        for name in draw(st.sets(st.sampled_from(names), max_size=4))}
    return corpus_of(names, pairs), youtube


def frames_of(videos: pd.DataFrame, count: int = 4) -> pd.DataFrame:
    table = videos[KEY].merge(pd.DataFrame({"frame": range(count)}), how="cross")
    return table.assign(status="kept")


def split_or_skip(videos, protocol, **options):
    try:
        return splits.split(videos, protocol, **options)
    except UserError:
        assume(False)


@QUICK
@given(corpora(), st.sampled_from([*BY_VIDEO, "frame"]), st.integers(0, 5))
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows(made, protocol, seed):
    videos, youtube = made
    options = {"seed": seed, "youtube": youtube}
    shuffled = videos.sample(frac=1, random_state=1)
    here = split_or_skip(videos, protocol, **options, frames=frames_of(videos))
    there = splits.split(shuffled, protocol, **options, frames=frames_of(shuffled))
    pd.testing.assert_frame_equal(here, there)


@QUICK
@given(corpora(), st.sampled_from(BY_VIDEO))
def test_a_split_is_complete_and_every_part_has_both_classes(made, protocol):
    videos, youtube = made
    split_table = split_or_skip(videos, protocol, youtube=youtube)
    assert not split_table.duplicated(KEY).any()
    assert set(map(tuple, split_table[KEY].to_numpy())) == set(map(tuple, videos[KEY].to_numpy()))
    classes = split_table.assign(
        fake=split_table["manipulation"] != "real").groupby("split")["fake"].nunique()
    assert classes.to_dict() == {"train": 2, "validation": 2, "test": 2}


@settings(max_examples=15, deadline=None)
@given(corpora(), st.integers(0, 3))
def test_group_protocols_keep_apart_what_they_promise(made, seed):
    videos, youtube = made
    groups = {
        "pair": identity.identity_groups(videos),
        "identity": identity.identity_groups(videos, youtube=youtube)}
    for protocol, group in groups.items():
        split_table = split_or_skip(videos, protocol, seed=seed, youtube=youtube)
        identity.check_disjoint(split_table, videos, groups=group)
        assert identity.audit(split_table, videos, groups=group)["seen"].max() == 0
    split_table = split_or_skip(videos, "target", seed=seed)
    assert split_table.merge(videos, on=KEY).groupby("target")["split"].nunique().max() == 1


@QUICK
@given(corpora())
def test_groups_are_the_components_found_by_walking(made):
    videos, youtube = made
    links = [(a, b)
             for a, b in zip(videos["target"], videos["source"], strict=True)
             if isinstance(b, str)]
    links += [(a, b) for a in youtube for b in youtube if youtube[a] == youtube[b]]
    expected = {name: {name} for name in videos["target"]}
    for a, b in links:
        together = expected[a] | expected[b]
        for name in together:
            expected[name] = together
    found = identity.identity_groups(videos, youtube=youtube).groupby(videos["target"]).first()
    for name, members in expected.items():
        assert set(found.index[found == found[name]]) == members


def test_persons_and_corpora_shape_the_groups():
    videos = corpus_of(["000", "001", "002"], [])
    other = videos.assign(corpus="other")
    both = pd.concat([videos, other], ignore_index=True)
    groups = identity.identity_groups(both, persons={"000": "ann", "002": "ann"})
    assert groups[0] == groups[2] != groups[1]
    assert set(groups[:3]).isdisjoint(groups[3:])  # an id of another corpus is another person


def test_the_study_split_has_the_sizes_of_the_table():
    split_table = splits.split(closed(100), "study", seed=3)
    assert split_table.groupby(["manipulation", "split"]).size().to_dict() == {
        ("FaceSwap", "train"): 90,
        ("FaceSwap", "validation"): 10,
        ("NeuralTextures", "test"): 100,
        ("real", "test"): 10,
        ("real", "train"): 70,
        ("real", "validation"): 20}


def test_the_reals_of_the_study_do_not_depend_on_the_test_method():
    videos = pd.concat([
        closed(20),
        closed(20).query("manipulation == 'FaceSwap'").replace("FaceSwap", "Face2Face")])
    one, two = (splits.split(videos, "study", test_manipulations=names)
                for names in (["NeuralTextures"], ["Face2Face"]))
    pd.testing.assert_frame_equal(one.query("manipulation == 'real'"),
                                  two.query("manipulation == 'real'"))


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (100, (0.7, 0.2, 0.1), [70, 20, 10]),
        (4, (0.7, 0.2, 0.1), [2, 1, 1]),
        (10, (0.9, 0.1, 0.0), [9, 1, 0]),
        (2, (0.7, 0.2, 0.1), [1, 1, 0])])
def test_apportion_serves_every_part_before_any_gets_two(count, shares, expected):
    assert splits.apportion(count, shares).tolist() == expected


def test_a_frame_split_spreads_the_kept_frames_of_a_video():
    videos = closed(10)
    frames = frames_of(videos, 10)
    frames.loc[frames["frame"] == 3, "status"] = "no face"
    split_table = splits.split(videos, "frame", frames=frames)
    assert 3 not in set(split_table["frame"])
    assert len(split_table) == 9 * len(videos)
    found = identity.audit(split_table, videos).query("leak == 'frame'")
    assert (found["seen"] == 1).all()


@pytest.mark.parametrize(
    ("videos", "protocol", "options", "sentence"),
    [(closed(10), "studie", {}, "protocol must be one of study, frame, .* got 'studie'"),
     (closed(2), "study", {}, "real needs at least 3 videos"),
     (closed(10), "study", {"test_manipulations": ["Face2Face"]
                            }, "videos of Face2Face, the corpus has FaceSwap"),
     (closed(10), "frame", {}, "give the frames table"),
     (closed(4), "identity", {}, "form 2 groups"),
     (corpus_of(["000", "001", "002"], []), "video", {}, "without fake videos"),
     (closed(10), "official", {}, "train.json, val.json and test.json"),])
def test_a_split_that_cannot_be_is_a_sentence(videos, protocol, options, sentence):
    with pytest.raises(UserError, match=sentence):
        splits.split(videos, protocol, **options)


def test_leaky_protocols_are_marked():
    assert splits.mark("video") == "video (leaky: scene and face)"
    assert splits.mark("identity") == "identity"
    assert splits.mark("official") == "official (leaky: YouTube video of a few ids)"
    assert {"study", "frame", "video", "target", "official"} == set(splits.LEAKY)


def parts_of(videos, place):
    """Parts by hand: a manipulation of place, from (manipulation, video) to split."""
    table = videos[KEY].copy()
    table["split"] = [
        place[key] for key in zip(videos["manipulation"], videos["video"], strict=True)]
    return table


def share(table, manipulation, leak):
    found = table[(table["manipulation"] == manipulation) & (table["leak"] == leak)].iloc[0]
    return found["seen"], found["seen_as_real"], found["seen_as_fake"]


def test_an_id_in_two_parts_is_caught():
    videos = corpus_of(["000", "001"], [("000", "001")], manipulations=["NeuralTextures"])
    place = {("real", "000"): "train", ("real", "001"): "test",
             ("NeuralTextures", "000_001"): "test"}
    split_table = parts_of(videos, place)
    found = identity.audit(split_table, videos)
    assert share(found, "NeuralTextures", "scene") == (1, 1, 0)  # its scene was seen, as real
    assert share(found, "NeuralTextures", "face") == (1, 1, 0)  # a reenactment shows the target
    with pytest.raises(UserError, match="train: 000; test: 000, 001"):
        identity.check_disjoint(split_table, videos)


def test_a_leaked_source_is_a_face_in_a_swap_and_only_motion_in_a_reenactment():
    for manipulation, face in (("FaceSwap", (1, 1, 0)), ("NeuralTextures", (0, 0, 0))):
        videos = corpus_of(["000", "001"], [("000", "001")], manipulations=[manipulation])
        place = {("real", "000"): "test", ("real", "001"): "train",
                 (manipulation, "000_001"): "test"}
        split_table = parts_of(videos, place)
        found = identity.audit(split_table, videos)
        assert share(found, manipulation, "scene") == (0, 0, 0)
        assert share(found, manipulation, "face") == face
        assert share(found, manipulation, "pair") == (1, 1, 0)
        with pytest.raises(UserError, match="001"):
            identity.check_disjoint(split_table, videos)


def test_a_swap_in_training_leaks_the_face_of_its_source_as_fake():
    videos = corpus_of(["001"], [("000", "001")], manipulations=["FaceSwap"])
    split_table = parts_of(videos, {("real", "001"): "test", ("FaceSwap", "000_001"): "train"})
    found = identity.audit(split_table, videos)
    assert share(found, "real", "scene") == (0, 0, 0)
    assert share(found, "real", "face") == (1, 0, 1)


def test_a_youtube_sibling_is_caught_when_the_siblings_are_known():
    videos = corpus_of(["000", "001"], [])
    split_table = parts_of(videos, {("real", "000"): "train", ("real", "001"): "test"})
    identity.check_disjoint(split_table, videos)
    siblings = identity.identity_groups(videos, youtube={"000": "a", "001": "a"})
    assert share(identity.audit(split_table, videos, groups=siblings), "real", "group") == (1, 1, 0)
    with pytest.raises(UserError, match="train: 000; test: 001"):
        identity.check_disjoint(split_table, videos, groups=siblings)


def test_a_part_of_a_video_that_is_not_in_the_table_is_refused():
    videos = closed(4)
    with pytest.raises(UserError, match="video 003_002 has a split but"):
        identity.audit(splits.split(closed(10), "video"), videos[videos["target"] != "003"])


def test_what_a_folder_knows_is_read_and_bad_files_are_named(tmp_path):
    assert identity.read_known(tmp_path) == {}
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.json").write_text('[["000", "001"]]')
    (tmp_path / "conversion_dict.json").write_text('{"000": "-a b_C 0", "001": "xyz 1"}')
    (tmp_path / "identities.csv").write_text("id,person\n000,ann\n")
    known = identity.read_known(tmp_path)
    assert known["lists"]["validation"] == [("000", "001")]
    assert known["youtube"] == {"000": "-a b_C", "001": "xyz"}
    assert known["persons"] == {"000": "ann"}
    (tmp_path / "others.csv").write_text("id,person\n007,bob\n")
    assert identity.read_known(None, tmp_path / "others.csv") == {"persons": {"007": "bob"}}
    assert identity.read_known(tmp_path, tmp_path / "others.csv")["persons"] == {"007": "bob"}
    with pytest.raises(UserError, match="there is no folder .*nowhere of lists"):
        identity.read_known(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there is no file .*nowhere of persons"):
        identity.read_known(None, tmp_path / "nowhere")
    (tmp_path / "val.json").write_text('["000"]')
    with pytest.raises(UserError, match="val.json must be a list of pairs"):
        identity.read_known(tmp_path)


def test_official_lists_are_followed_and_strict_drops_linked_ids():
    lists = {
        "train": [("000", "001")],
        "validation": [("002", "003"), ("008", "009")],
        "test": [("004", "005"), ("006", "007")]}
    videos = closed(10)
    counts = splits.split(videos, "official", lists=lists)["split"].value_counts().to_dict()
    assert counts == {"train": 6, "validation": 12, "test": 12}
    youtube = {"001": "a", "004": "a", "000": "b", "002": "b"}
    strict = splits.split(videos, "official-strict", lists=lists, youtube=youtube)
    reals = strict[strict["manipulation"] == "real"].groupby("split")["video"].agg(set).to_dict()
    assert reals == {"train": {"000", "001"}, "validation": {"008", "009"}, "test": {"006", "007"}}


@pytest.mark.parametrize("protocol", splits.DISJOINT)
def test_a_protocol_that_promises_disjoint_people_is_checked(protocol, monkeypatch):
    videos = closed(12)
    leaky = {name: splits.video for name in splits.DISJOINT}
    monkeypatch.setattr(splits, "PROTOCOLS", splits.PROTOCOLS | leaky)
    with pytest.raises(UserError, match="identity groups stand in more than one split"):
        splits.split(videos, protocol)


@pytest.mark.skipif(not OFFICIAL.is_dir(),
                    reason="the official lists of FaceForensics++ are not here")
def test_the_official_lists_leave_four_test_ids_linked_to_training():
    known = identity.read_known(OFFICIAL)
    pairs = [pair for split in known["lists"].values() for pair in split]
    names = sorted({name for pair in pairs for name in pair})
    videos = corpus_of(names, [*pairs, *((b, a) for a, b in pairs)])
    assert identity.identity_groups(videos).nunique() == 500
    groups = identity.identity_groups(videos, youtube=known["youtube"])
    assert groups.nunique() == 478
    official, strict = (splits.split(videos, protocol, **known).query("manipulation == 'real'")
                        for protocol in ("official", "official-strict"))
    dropped = {
        split: set(rows.video) - set(strict.video) for split, rows in official.groupby("split")}
    assert dropped["test"] == {"078", "755", "759", "955"} and dropped["train"] == set()
    assert dropped["validation"] == set(
        ["004", "566", "567", "606", "617", "638", "640", "837", "875", "890", "979", "982"])
    identity.check_disjoint(strict, videos, groups=groups)
    with pytest.raises(UserError, match="078, 755, 759, 955"):
        identity.check_disjoint(official, videos, groups=groups)


def test_a_split_keeps_one_manipulation_to_train_and_others_to_test():
    videos = corpus_of([f"{at:03d}" for at in range(20)],
                       [(f"{at:03d}", f"{at ^ 1:03d}") for at in range(20)],
                       manipulations=["FaceSwap", "NeuralTextures", "Deepfakes"])
    split_table = splits.split(videos, "identity")
    kept = splits.keep_manipulations(split_table, "FaceSwap", ["NeuralTextures"])
    assert kept.groupby(["split",
                         "manipulation"]).size().to_dict() == {("train", "real"): 14,
                                                               ("train", "FaceSwap"): 14,
                                                               ("validation", "real"): 4,
                                                               ("validation", "FaceSwap"): 4,
                                                               ("test", "real"): 2,
                                                               ("test", "NeuralTextures"): 2}
    # a corpus of one manipulation: nothing is unseen
    within = splits.keep_manipulations(split_table, "Deepfakes", ["Deepfakes"])
    assert within.query("manipulation == 'Deepfakes'").split.value_counts().to_dict() == {
        "train": 14, "validation": 4, "test": 2}
    study = splits.split(videos, "study")
    pd.testing.assert_frame_equal(splits.keep_manipulations(study, "FaceSwap", ["NeuralTextures"]),
                                  study)
    with pytest.raises(
            UserError, match=
            "no video of Face2Face is in the split that needs it; the split table has the "
            "manipulations Deepfakes"):
        splits.keep_manipulations(split_table, "FaceSwap", ["Face2Face"])
    with pytest.raises(UserError, match="the split 'validation' has no videos of FaceSwap"):
        splits.keep_manipulations(
            split_table[(split_table.split != "validation") |
                        (split_table.manipulation != "FaceSwap")], "FaceSwap", ["Deepfakes"])


def test_persons_of_a_column_are_joined_within_their_corpus():
    videos = corpus_of(["000", "001", "002"], []).assign(person=["ann", None, "ann"])
    both = pd.concat([videos, videos.assign(corpus="other")], ignore_index=True)
    groups = identity.identity_groups(both).tolist()
    assert groups[0] == groups[2]
    assert groups[3] == groups[5]
    assert len(set(groups)) == 4


def test_shares_of_a_group_split_are_near_the_study():
    split_table = splits.split(closed(100), "identity", seed=0)
    sizes = split_table["split"].value_counts() / len(split_table)
    np.testing.assert_allclose(sizes[["train", "validation", "test"]], [0.7, 0.2, 0.1], atol=1e-9)


@QUICK
@given(corpora(), st.sampled_from(BY_VIDEO), st.integers(0, 5))
def test_fractions_are_nested_whole_groups_and_touch_training_alone(made, protocol, seed):
    videos, _ = made
    split_table = split_or_skip(videos, protocol, seed=seed).merge(videos[[*KEY, "label"]], on=KEY)
    split_table["group"] = split_table[KEY].merge(
        videos.assign(group=identity.identity_groups(videos)), on=KEY).group
    before, names = split_table[split_table.split == "train"], set()
    for share in (0.2, 0.5, 1.0):
        some = splits.fraction(split_table, videos, share, seed)
        assert (some.split != "train").sum() == (split_table.split != "train").sum()
        train = some[some.split == "train"]
        assert names <= set(train.video)
        names = set(train.video)
        assert len(train) >= share * len(before)
        assert set(train.label) == {0, 1}
        assert len(train) == before.group.isin(train.group).sum()
    assert some.equals(split_table)


def test_a_fifth_of_twenty_pairs_is_four_and_another_seed_draws_others():
    videos = closed(40)[lambda table: table.manipulation != "NeuralTextures"]
    split_table = videos[KEY].assign(split="train")
    some = splits.fraction(split_table, videos, 0.2, seed=0)
    assert len(some) == 16  # four pairs of two reals and two fakes
    again = splits.fraction(split_table.sample(frac=1, random_state=1),
                            videos.sample(frac=1, random_state=2), 0.2, seed=0)
    assert set(again.video) == set(some.video)
    assert set(splits.fraction(split_table, videos, 0.2, seed=1).video) != set(some.video)


def test_fractions_of_frames_take_all_frames_of_a_video():
    videos = closed(40)[lambda table: table.manipulation != "NeuralTextures"]
    split_table = frames_of(videos).drop(columns="status").assign(split="train")
    assert splits.fraction(split_table, videos, 0.5, seed=0).groupby("video").size().eq(4).all()


@pytest.mark.parametrize("share", [0, -0.2, 1.2, float("nan")])
def test_a_fraction_is_a_share(share):
    with pytest.raises(UserError, match=r"fraction .* must lie in \(0, 1\]"):
        splits.fraction(closed(8).assign(split="train"), closed(8), share, seed=0)


@settings(max_examples=12, deadline=None)
@given(st.integers(12, 60).map(lambda half: closed(2 * half)), st.integers(0, 5))
def test_few_pairs_are_whole_nested_and_touch_training_alone(videos, seed):
    split_table, names = splits.split(videos, "study", seed=seed), set()
    for count in (1, 3, 7):
        some = splits.few_pairs(split_table, videos, count, seed)
        pd.testing.assert_frame_equal(*(table[table.split != "train"].reset_index(drop=True)
                                        for table in (some, split_table)))
        train = some[some.split == "train"].merge(videos, on=KEY)
        reals, fakes = train[train.label == 0], train[train.label == 1]
        assert len(reals) == len(fakes) == count
        assert set(reals.video) == set(fakes.target)  # a real and its own fake
        assert set(fakes.manipulation) == {"FaceSwap"}
        assert names < set(train.video)
        names = set(train.video)


def test_few_pairs_follow_the_seed_and_not_the_order_of_rows():
    videos = closed(60)
    split_table = splits.split(videos, "study", seed=0)
    drawn = {
        seed: frozenset(
            splits.few_pairs(split_table, videos, 5, seed).query("split == 'train'").video)
        for seed in range(4)}
    assert len(set(drawn.values())) == 4
    mixed = splits.few_pairs(split_table.sample(frac=1, random_state=1),
                             videos.sample(frac=1, random_state=2), 5, 0)
    assert set(mixed.query("split == 'train'").video) == drawn[0]


def test_few_pairs_of_frames_take_all_frames_of_a_video():
    videos = closed(20)[lambda table: table.manipulation != "NeuralTextures"]
    split_table = frames_of(videos).drop(columns="status").assign(split="train")
    assert splits.few_pairs(split_table, videos, 3,
                            seed=0).groupby(["manipulation", "video"]).size().tolist() == [4] * 6


def test_few_pairs_say_how_many_there_are():
    videos = closed(20)
    split_table = videos[KEY].assign(split="train")[videos.manipulation.isin(["real", "FaceSwap"])]
    lonely = split_table[split_table.video != "000"]  # the fake of 000 has lost its real
    with pytest.raises(UserError, match="between 1 and 19, .*; got 20"):
        splits.few_pairs(lonely, videos, 20, seed=0)
    with pytest.raises(UserError, match="got 0"):
        splits.few_pairs(split_table, videos, 0, seed=0)
    with pytest.raises(
            UserError,
            match="one training manipulation, the training split has FaceSwap, NeuralTextures"):
        splits.few_pairs(videos[KEY].assign(split="train"), videos, 2, seed=0)


def test_complete_scenes_train_with_both_labels_and_the_rest_stays():
    table = closed(20)
    split_table = splits.split(table, "study", seed=1)
    some = splits.complete_scenes(split_table, table)
    kept = some[some.split == "train"].merge(table, on=KEY)
    assert kept.groupby("target").label.nunique().eq(2).all()
    before = split_table[split_table.split == "train"].merge(table, on=KEY)
    whole = before.groupby("target").label.nunique().eq(2)
    assert set(kept.target) == set(whole.index[whole]) and len(kept) < len(before)
    others = [one[one.split != "train"].reset_index(drop=True) for one in (split_table, some)]
    pd.testing.assert_frame_equal(*others)
    reals = split_table[(split_table.split != "train") | (split_table.manipulation == "real")]
    with pytest.raises(UserError, match="no scene of the training split has both"):
        splits.complete_scenes(reals, table)


def test_an_audit_in_words_has_both_labels_of_every_class():
    audit = pd.DataFrame({"manipulation": ["real", "A"], "leak": "scene", "videos": [10, 20],
                          "seen": [0.7, 1.0], "seen_as_real": [0.0, 0.7],
                          "seen_as_fake": [0.7, 0.9]})
    assert identity.describe(audit, "scene").splitlines() == [
        "- Of 10 test videos of real, 0% share their scene with a training video labelled real, "
        "and 70% with one labelled fake.",
        "- Of 20 test videos of A, 70% share their scene with a training video labelled real, "
        "and 90% with one labelled fake."]


def test_fixed_lists_leave_only_the_training_seed_to_change():
    assert splits.repeated("official-strict") == "training seed"
    assert splits.repeated("study") == "draw of the split"
