"""The inventory of a whole corpus, and of one with missing, copied or broken files."""

import json
import shutil

import pytest

from dfnb import DataError, cli
from dfnb.data import inventory

FAKES = [f"{at:03d}_{at ^ 1:03d}" for at in range(20)]
REALS = "original_sequences/youtube/c23/videos"


def write(place, names):
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / f"{name}.mp4").write_text(f"{place} {name}")


@pytest.fixture
def tree(tmp_path):
    """Twenty reals in closed pairs and both manipulations of the study; all files differ."""
    write(tmp_path / "FF" / REALS, [f"{at:03d}" for at in range(20)])
    for manipulation in ("FaceSwap", "NeuralTextures"):
        write(tmp_path / f"FF/manipulated_sequences/{manipulation}/c23/videos", FAKES)
    return tmp_path / "FF"


def words(tree, **options) -> str:
    """Return the report with one blank between two words."""
    return " ".join(inventory.text(inventory.take(tree, **options)).split())


def test_a_whole_corpus_lacks_nothing_and_allows_both_splits(tree):
    found = inventory.take(tree)
    assert found.counts[["manipulation", "compression", "videos"]].to_numpy().tolist() == [
        ["real", "c23", 20], ["FaceSwap", "c23", 20], ["NeuralTextures", "c23", 20]]
    assert found.counts.bytes.sum() == sum(path.stat().st_size for path in tree.rglob("*.mp4"))
    assert found.unusable == found.unreadable == found.copies == []
    assert found.splits["study"].to_dict("index") == {
        "train": {"real": 14, "FaceSwap": 18, "NeuralTextures": 0},
        "validation": {"real": 4, "FaceSwap": 2, "NeuralTextures": 0},
        "test": {"real": 2, "FaceSwap": 0, "NeuralTextures": 20}}
    assert found.splits["identity"].loc["test"].tolist() == [2, 2, 2]
    for part in ("layout ffpp; 60 videos", "copies: none", "FF++ FaceSwap c23 20",
                 "FaceSwap 20 none none none",
                 "the study's split (first 100 videos a class): split "
                 "real FaceSwap NeuralTextures train 14 18 0 validation 4 2 0 test 2 0 20"):
        assert part in words(tree)


def test_partners_that_are_missing_are_named(tree):
    (tree / REALS / "004.mp4").unlink()
    (tree / "manipulated_sequences/FaceSwap/c23/videos/009_008.mp4").unlink()
    partners = inventory.take(tree).partners.set_index("manipulation")
    assert partners.loc["FaceSwap"].tolist() == [19, ["004_005"], ["005_004"], ["008_009"]]
    assert partners.loc["NeuralTextures"].tolist() == [20, ["004_005"], ["005_004"], []]
    assert "FaceSwap 19 004_005 005_004 008_009 NeuralTextures 20 004_005 005_004 none" in (
        words(tree))


def test_copies_are_found_by_content_and_by_name(tree):
    reals = tree / REALS
    shutil.copy(reals / "000.mp4", reals / "001.mp4")
    shutil.copy(reals / "002.mp4", reals / "002.MP4")
    assert inventory.take(tree).copies == [
        f"{reals}/002.MP4 and {reals}/002.mp4 have one name",
        f"2 files have one content: {reals}/000.mp4, {reals}/001.mp4",
        f"2 files have one content: {reals}/002.MP4, {reals}/002.mp4"]


def test_broken_files_are_listed_and_headers_only_when_asked(tree, corpus):
    reals = tree / REALS
    (reals / "000.mp4").write_bytes(b"")
    (reals / "001.mp4").unlink()
    (reals / "001.mp4").symlink_to(tree / "nowhere.mp4")
    (reals / "a b.mp4").touch()
    found = inventory.take(tree)
    assert found.unreadable == [f"{reals}/000.mp4: empty: the file has zero bytes",
                                f"{reals}/001.mp4: a link to a file that is not there"]
    assert found.unusable == [f"{reals}/a b.mp4 is not named <id>.mp4; rename or remove it"]
    assert "frames" not in found.counts
    assert len(inventory.take(tree, deep=True).unreadable) == 60
    assert "unreadable: 60" in words(tree, deep=True) and "and 55 more" in words(tree, deep=True)
    deep = inventory.take(corpus, deep=True)
    assert (deep.unreadable, deep.counts.frames.tolist()) == ([], [72] * 5)


def test_the_official_lists_say_what_is_missing(tree, tmp_path):
    lists = {"train": [["000", "001"], ["002", "003"]], "val": [["004", "005"]],
             "test": [["006", "007"], ["020", "021"]]}
    for name, pairs in lists.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(pairs))
    (tree / "manipulated_sequences/FaceSwap/c23/videos/003_002.mp4").unlink()
    found = inventory.take(tree, lists=tmp_path)
    rows = found.official.set_index(["split", "manipulation"])
    assert rows.loc[("train", "real"), ["there", "listed"]].tolist() == [4, 4]
    assert rows.loc[("train", "FaceSwap")].tolist() == [3, 4, ["003_002"]]
    assert rows.loc[("test", "real")].tolist() == [2, 4, ["020", "021"]]
    assert found.splits["official"].loc["validation"].tolist() == [2, 2, 2]
    assert "train FaceSwap 3 4 003_002" in words(tree, lists=tmp_path)
    (tmp_path / "val.json").unlink()
    with pytest.raises(DataError, match="lacks val.json; the official split needs all three"):
        inventory.take(tree, lists=tmp_path)


def test_a_corpus_without_the_manipulations_of_the_study_says_so(tmp_path):
    write(tmp_path / "Celeb-real", ["id0_0000", "id1_0000"])
    write(tmp_path / "Celeb-synthesis", ["id0_id1_0000"])
    (tmp_path / "List_of_testing_videos.txt").write_text("1 Celeb-real/id1_0000.mp4\n")
    report = words(tmp_path)
    assert "(first 100 videos a class) cannot be made: no videos of FaceSwap" in report
    assert "found the manipulations Celeb-synthesis" in report
    assert "the corpus's own splits: split fake real test 0 1 train 1 1" in report


def test_the_command_prints_it_and_a_wrong_folder_is_one_sentence(tree, capsys):
    assert cli.main(["corpus", str(tree)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tree}: layout ffpp; 60 videos")
    assert "frames not counted; --deep reads the header of every video" in out
    assert cli.main(["corpus", str(tree / "manipulated_sequences")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{tree} is one: give that" in error
    assert cli.main(["corpus", str(tree), "--compression", "c40"]) == 2
    assert "found c23" in capsys.readouterr().err
