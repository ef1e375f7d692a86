"""Layouts: what the name and the lists of a file say, and mistakes that are named."""

import json
from typing import get_args

import pytest
from typer.testing import CliRunner

from dfnb import DataError, UserError, cli, config
from dfnb.data import corpora, identity, layouts


def touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def message(*arguments, kind=DataError, **options):
    with pytest.raises(UserError) as error:
        corpora.index(*arguments, **options)
    assert error.type is kind
    return str(error.value)


@pytest.fixture
def celeb(tmp_path):
    names = ["Celeb-real/id0_0000", "Celeb-real/id0_0001", "Celeb-real/id1_0000",
             "Celeb-real/id2_0000", "Celeb-synthesis/id0_id1_0000", "Celeb-synthesis/id2_id1_0000",
             "YouTube-real/00000", "YouTube-real/00001"]
    touch(tmp_path, [f"{name}.mp4" for name in names])
    (tmp_path / "List_of_testing_videos.txt").write_text(
        "1 YouTube-real/00001.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n")
    return tmp_path


def test_a_layout_is_known_to_profiles_and_to_the_help_of_the_command():
    assert set(get_args(config.Layout)) == set(layouts.LAYOUTS)
    shown = CliRunner().invoke(cli.app, ["corpus", "--help"], env={"COLUMNS": "200"}).output
    assert all(name in shown for name in layouts.LAYOUTS)


def test_a_flattened_copy_gives_the_same_table_as_the_official_folders(tmp_path):
    official = touch(tmp_path / "official", [
        "original_sequences/youtube/c23/videos/000.mp4",
        "original_sequences/youtube/c23/videos/003.mp4",
        "manipulated_sequences/FaceSwap/c23/videos/000_003.mp4",
        "manipulated_sequences/Deepfakes/c23/videos/003_000.mp4"])
    flat = touch(tmp_path / "flat", ["original/000.mp4", "original/003.mp4", "FaceSwap/000_003.mp4",
                                     "Deepfakes/003_000.mp4", "csv/list.csv"])
    both = ["FaceSwap", "Deepfakes"]
    one, other = (corpora.index(root, manipulations=both).drop(columns="path").to_csv()
                  for root in (official, flat))
    assert one == other
    assert layouts.read(flat).layout == "ffpp-flat"
    said = message(flat, manipulations=["NeuralTextures"])
    assert "found the manipulations Deepfakes, FaceSwap" in said
    touch(flat, ["DeepFakeDetection/01_02__a__X.mp4"])
    assert "no real videos of DFD" in message(flat, manipulations=["DeepFakeDetection"])


def test_celeb_df_ids_are_persons_and_join_the_groups(celeb):
    videos = corpora.index(celeb)
    assert videos.groupby("manipulation").size().to_dict() == {"Celeb-synthesis": 2, "real": 6}
    fake = videos[videos.video == "id0_id1_0000"].iloc[0]
    assert (fake.corpus, fake.label, fake.target, fake.source) == ("Celeb-DF", 1, "id0", "id1")
    targets = videos.set_index("video").target
    assert (targets["id0_0001"], targets["00001"]) == ("id0", "00001")
    groups = identity.identity_groups(videos).groupby(videos.target).first()
    assert groups["id0"] == groups["id1"] == groups["id2"]  # id1's face is swapped into both
    assert len({groups["id0"], groups["00000"], groups["00001"]}) == 3


def test_the_test_list_of_celeb_df_becomes_a_split_and_its_leading_one_means_real(celeb):
    file = celeb / "List_of_testing_videos.txt"
    assert corpora.index(celeb).groupby("split").video.agg(set).to_dict() == {
        "test": {"00001", "id0_id1_0000"},
        "train": {"00000", "id0_0000", "id0_0001", "id1_0000", "id2_0000", "id2_id1_0000"}}
    file.write_text("0 YouTube-real/00001.mp4\n1 YouTube-real/00009.mp4\n")
    assert "says label 1 of" in message(celeb)
    assert layouts.read(celeb).notes == [
        "1 videos of List_of_testing_videos.txt are not there, such as YouTube-real/00009"]
    file.write_text("YouTube-real/00001.mp4\n")
    assert 'a line is "1 Celeb-real/id0_0000.mp4"' in message(celeb)
    file.unlink()
    assert "split" not in corpora.index(celeb)


def test_dfdc_joins_a_fake_with_its_original(tmp_path):
    touch(tmp_path, ["part_0/a.mp4", "part_0/b.mp4", "part_1/c.mp4", "part_1/d.mp4"])
    entries = [{"a.mp4": {"label": "REAL", "split": "train"},
                "b.mp4": {"label": "FAKE", "split": "train", "original": "a.mp4"}},
               {"c.mp4": {"label": "REAL", "split": "test", "original": None},
                "d.mp4": {"label": "FAKE", "split": "train", "original": "c.mp4"}}]
    for number, content in enumerate(entries):
        (tmp_path / f"part_{number}/metadata.json").write_text(json.dumps(content))
    videos = corpora.index(tmp_path, manipulations=["DFDC"])
    assert videos[["manipulation", "video", "target", "split"]].to_numpy().tolist() == [
        ["real", "a", "a", "train"], ["real", "c", "c", "test"],
        ["DFDC", "b", "a", "train"], ["DFDC", "d", "c", "train"]]
    assert videos.source.isna().all()
    a, c, b, d = identity.identity_groups(videos)
    assert a == b != c == d
    assert identity.shown(videos).tolist() == ["a", "c", "a", "c"]


@pytest.mark.parametrize(("content", "sentence"), [
    ('{"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE"}}', "b.mp4, which is not there"),
    ('{"a.mp4": {"label": "real"}}', "names a.mp4 with a label other than REAL and FAKE"),
    ('{"a.mp4": 1}', "names a.mp4 with a label other than REAL and FAKE"),
    ("[1", "metadata.json cannot be read as JSON: "), ("[1", "; fetch it again")])
def test_a_mistake_in_the_metadata_of_dfdc_is_named(tmp_path, content, sentence):
    touch(tmp_path, ["a.mp4"])
    (tmp_path / "metadata.json").write_text(content)
    assert sentence in message(tmp_path)


MANIFEST = """path,label,manipulation,target,source,split,person
a/007.mp4,0,,007,,test,ann
a/008.mp4,real,,008,,train,ann
b/007.mp4,fake,swap,007,009,test,
b/009 x.MOV,1,swap,009,007,,bob
"""


@pytest.fixture
def manifest(tmp_path):
    touch(tmp_path / "mine", ["a/007.mp4", "a/008.mp4", "b/007.mp4", "b/009 x.MOV"])
    (tmp_path / "mine/manifest.csv").write_text(MANIFEST)
    return tmp_path / "mine"


def test_a_manifest_keeps_ids_as_texts_and_joins_persons(manifest):
    videos = corpora.index(manifest)
    columns = ["corpus", "manipulation", "video", "label", "target"]
    assert videos[columns].to_numpy().tolist() == [
        ["mine", "real", "007", 0, "007"], ["mine", "real", "008", 0, "008"],
        ["mine", "swap", "007", 1, "007"], ["mine", "swap", "009 x", 1, "009"]]
    assert videos.path.tolist()[0] == str(manifest / "a/007.mp4")
    assert videos.split.fillna("").tolist() == ["test", "train", "test", ""]
    assert identity.identity_groups(videos).nunique() == 1
    alone = videos.drop(columns="person")
    assert identity.identity_groups(alone).nunique() == 2  # only ann joins 007 and 008


def test_a_manifest_may_be_named_by_its_file_and_needs_only_two_columns(manifest):
    file = manifest / "others.csv"
    file.write_text("\ufeffpath,label\na/007.mp4,0\n\nb/007.mp4,1\n")
    videos = corpora.index(file)
    assert videos[["corpus", "manipulation", "video", "target"]].to_numpy().tolist() == [
        ["others", "real", "007", "007"], ["others", "fake", "007", "007"]]
    assert list(videos) == corpora.COLUMNS
    assert "name no target, such as b/007" in layouts.read(file).notes[0]


def test_two_files_of_one_name_and_manipulation_keep_their_folders(manifest):
    touch(manifest, ["c/007.mp4"])
    with (manifest / "manifest.csv").open("a") as file:
        file.write("c/007.mp4,0,,,,,\n")
    reals = corpora.index(manifest).query("label == 0")
    assert reals.video.tolist() == ["008", "a/007", "c/007"]


@pytest.mark.parametrize(("old", "new", "sentence"), [
    ("b/007.mp4,fake", "b/007.mp4,2", "row 4 of .*: the label is '2', but must be 0 or real, 1 or"),
    ("a/008.mp4,real", "a/088.mp4,real", "row 3 of .*manifest.csv: there is no file .*a/088.mp4"),
    ("008,,train", "008,,dev", "row 3 of .*: the split is 'dev', but must be one of train, valida"),
    ("fake,swap", "fake,real", "row 4 of .*: a fake cannot have the manipulation real"),
    ("fake,swap", "fake,face swap", "row 4 of .*: the manipulation is 'face swap', but may hold "),
    ("path,label", "file,label", "lacks the column path; its first line names .*: path,label"),
    (",manipulation", ",method", "column method, which is now called manipulation; rename it"),
    (",split", ",part", "has the column part, which is now called split; rename it in the first")])
def test_a_mistake_in_a_manifest_is_named_with_its_row(manifest, old, new, sentence):
    (manifest / "manifest.csv").write_text(MANIFEST.replace(old, new, 1))
    with pytest.raises(DataError, match=sentence):
        corpora.index(manifest)


def test_a_manifest_with_a_new_column_may_have_others_of_any_name(manifest):
    (manifest / "manifest.csv").write_text(MANIFEST.replace("person", "part", 1))
    assert corpora.index(manifest).split.fillna("").tolist() == ["test", "train", "test", ""]


def test_a_manifest_that_is_no_text_is_a_sentence(manifest):
    (manifest / "manifest.csv").write_bytes(MANIFEST.replace("ann", "Ren\xe9").encode("latin-1"))
    assert "(layout manifest) cannot be read: 'utf-8' codec can't decode" in message(manifest)


def test_a_layout_can_be_forced_and_a_wrong_one_says_what_it_lacks(celeb):
    touch(celeb, ["original/000.mp4"])
    assert corpora.index(celeb, "celeb-df").corpus.unique().tolist() == ["Celeb-DF"]
    assert "no corpus in the layout dfdc at" in message(celeb, "dfdc")
    assert "expected metadata.json and found" in message(celeb, "dfdc")
    assert f"layout must be one of {', '.join(layouts.LAYOUTS)}, got 'kaggle'" in (
        message(celeb, "kaggle", kind=UserError))


def test_a_folder_too_high_or_too_low_is_answered_with_the_right_one(tmp_path):
    root = touch(tmp_path / "FF c23", ["original/000.mp4", "FaceSwap/000_003.mp4"])
    for wrong in (root / "FaceSwap", tmp_path):
        assert f"{root} is one: give that" in message(wrong)
