"""What `dfnb corpus` says of a corpus that is whole, and of one in which things are missing, copied or broken."""

import json
import shutil

import pytest

from dfnb import UserError, cli
from dfnb.data import inventory

FAKES = [f"{at:03d}_{at ^ 1:03d}" for at in range(20)]


def write(place, names):
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / f"{name}.mp4").write_text(f"{place} {name}")
    return place


@pytest.fixture
def tree(tmp_path):
    """Twenty reals in closed pairs, both manipulations of the study; every file has a content of its own."""
    root = tmp_path / "FF"
    write(root / "original_sequences/youtube/c23/videos", [f"{at:03d}" for at in range(20)])
    for manipulation in ("FaceSwap", "NeuralTextures"):
        write(root / f"manipulated_sequences/{manipulation}/c23/videos", FAKES)
    return root


def test_a_whole_corpus_lacks_nothing_and_takes_both_splits(tree):
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
    text = inventory.text(found)
    assert "layout ffpp; 60 videos" in text
    assert "20 fakes: all partners are there" in text


def test_partners_that_are_missing_are_named(tree):
    (tree / "original_sequences/youtube/c23/videos/004.mp4").unlink()
    (tree / "manipulated_sequences/FaceSwap/c23/videos/009_008.mp4").unlink()
    partners = inventory.take(tree).partners.set_index("manipulation")
    assert partners.loc["FaceSwap"].tolist() == [19, ["004_005"], ["005_004"], ["008_009"]]
    assert partners.loc["NeuralTextures"].tolist() == [20, ["004_005"], ["005_004"], []]
    assert "1 lack the real of their target (004_005); 1 lack the real of their source (005_004); 1 lack their reverse" in (
        inventory.text(inventory.take(tree)))


def test_copies_are_found_by_content_and_by_name(tree):
    reals = tree / "original_sequences/youtube/c23/videos"
    shutil.copy(reals / "000.mp4", reals / "001.mp4")
    shutil.copy(reals / "002.mp4", reals / "002.MP4")
    one, other, third = inventory.take(tree).copies
    assert one == f"{reals}/002.MP4 and {reals}/002.mp4 have one name"
    assert (other, third) == (f"2 files have one content: {reals}/000.mp4, {reals}/001.mp4",
                              f"2 files have one content: {reals}/002.MP4, {reals}/002.mp4")


def test_what_cannot_be_read_is_listed_and_headers_only_when_asked(tree, corpus):
    reals = tree / "original_sequences/youtube/c23/videos"
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
    deep = inventory.take(corpus, deep=True)
    assert (deep.unreadable, deep.counts.frames.tolist()) == ([], [72] * 5)


def test_the_official_lists_say_what_is_missing(tree, tmp_path):
    lists = {"train": [["000", "001"], ["002", "003"]], "val": [["004", "005"]], "test": [["006", "007"], ["020", "021"]]}
    for name, pairs in lists.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(pairs))
    (tree / "manipulated_sequences/FaceSwap/c23/videos/003_002.mp4").unlink()
    found = inventory.take(tree, lists=tmp_path)
    rows = found.official.set_index(["split", "manipulation"])
    assert rows.loc[("train", "real"), ["there", "listed"]].tolist() == [4, 4]
    assert rows.loc[("train", "FaceSwap")].tolist() == [3, 4, ["003_002"]]
    assert rows.loc[("test", "real")].tolist() == [2, 4, ["020", "021"]]
    assert found.splits["official"].loc["validation"].tolist() == [2, 2, 2]
    (tmp_path / "val.json").unlink()
    with pytest.raises(UserError, match="lacks val.json; the official split needs all three"):
        inventory.take(tree, lists=tmp_path)


def test_a_corpus_without_the_studys_methods_says_so(tmp_path):
    write(tmp_path / "Celeb-real", ["id0_0000", "id1_0000"])
    write(tmp_path / "Celeb-synthesis", ["id0_id1_0000"])
    found = inventory.take(tmp_path)
    assert "found the manipulations Celeb-synthesis" in found.splits["study"]
    assert "the study's split (first 100 videos a class) cannot be made: no videos of FaceSwap" in inventory.text(found)


def test_the_command_prints_it_and_a_wrong_folder_is_one_sentence(tree, capsys):
    assert cli.main(["corpus", str(tree)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tree}: layout ffpp; 60 videos")
    assert "frames not counted; --deep reads the header of every video" in out
    assert cli.main(["corpus", str(tree / "manipulated_sequences")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tree} is one: give that" in said
    assert cli.main(["corpus", str(tree), "--compression", "c40"]) == 2
    assert "found c23" in capsys.readouterr().err
