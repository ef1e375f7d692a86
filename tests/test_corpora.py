"""The videos table of a small tree in the official layout of FaceForensics++."""

import pytest

from dfnb import KEY, DataError, UserError
from dfnb.data import corpora

REALS = "original_sequences/youtube/c23/videos"
SWAPS = "manipulated_sequences/FaceSwap/c23/videos"


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.fixture
def layout(tmp_path):
    """Empty files in the official layout: three reals, two fakes of two manipulations."""
    touch(tmp_path / REALS, "003.mp4", "000.mp4", "010.mp4")
    for name in ("FaceSwap", "NeuralTextures"):
        folder = tmp_path / f"manipulated_sequences/{name}/c23/videos"
        touch(folder, "003_000.mp4", "000_003.mp4")
    return tmp_path


def message(*arguments, kind=DataError, **options):
    with pytest.raises(UserError) as error:
        corpora.index(*arguments, **options)
    assert error.type is kind
    return str(error.value)


def test_the_table_has_the_agreed_columns_and_sorted_rows(layout):
    videos = corpora.index(layout, manipulations=["NeuralTextures", "FaceSwap"])
    assert videos.columns.tolist() == [
        "corpus", "manipulation", "video", "label", "target", "source", "path"]
    assert videos.manipulation.tolist() == ["real"] * 3 + ["NeuralTextures"] * 2 + ["FaceSwap"] * 2
    assert videos.video.tolist() == ["000", "003", "010"] + ["000_003", "003_000"] * 2
    assert videos.label.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert not videos.duplicated(KEY).any()
    every = corpora.index(layout)  # without a choice all manipulations, by name
    assert every.manipulation.unique().tolist() == ["real", "FaceSwap", "NeuralTextures"]


def test_a_fake_knows_target_and_source_and_a_real_has_no_source(layout):
    videos = corpora.index(layout, manipulations=["FaceSwap"]).set_index(["manipulation", "video"])
    assert videos.loc[("FaceSwap", "003_000"), ["target", "source"]].tolist() == ["003", "000"]
    assert videos.loc[("real", "003"), "target"] == "003"
    assert videos.loc["real", "source"].isna().all()


def test_the_first_videos_of_each_class_are_taken_and_fewer_of_single_manipulations(layout):
    both = ["FaceSwap", "NeuralTextures"]
    one = corpora.index(layout, manipulations=["FaceSwap"], videos_per_class=1)
    assert one.video.tolist() == ["000", "000_003"]
    videos = corpora.index(layout, manipulations=both, videos_per_class=2,
                           videos={"NeuralTextures": 1})
    assert videos.manipulation.value_counts().to_dict() == {
        "real": 2, "FaceSwap": 2, "NeuralTextures": 1}
    assert videos.video.iloc[-1] == "000_003"


def test_a_wrong_argument_is_no_fault_of_the_corpus(layout):
    wrong = {"kind": UserError, "manipulations": ["FaceSwap"]}
    said = message(layout, videos={"Deepfakes": 1}, **wrong)
    assert "limits Deepfakes, which is not asked for" in said
    assert "at least 1" in message(layout, videos_per_class=0, **wrong)
    assert "one of raw, c23, c40, got 'c24'" in message(layout, compression="c24", **wrong)


def test_hidden_files_and_masks_are_no_videos_and_paths_with_spaces_are_fine(layout):
    touch(layout / REALS, "._000.mp4")
    touch(layout / "manipulated_sequences/FaceSwap/masks/videos", "003_000.mp4")
    assert len(corpora.index(layout, manipulations=["FaceSwap"])) == 5
    moved = layout.rename(layout.with_name("a corpus \N{WINKING FACE}"))
    assert corpora.index(moved, manipulations=[]).path.str.startswith(str(moved)).all()


def test_the_demo_corpus_is_called_demo(layout):
    assert set(corpora.index(layout).corpus) == {"FF++"}
    (layout / "corpus.json").write_text("{}")
    assert set(corpora.index(layout).corpus) == {"demo"}


def test_a_missing_or_empty_root_names_the_path_and_the_way_out(tmp_path):
    missing = message(tmp_path / "nowhere")
    for word in (str(tmp_path / "nowhere"), "dfnb demo", "corpus.root"):
        assert word in missing
    (tmp_path / "empty").mkdir()
    assert "found nothing" in message(tmp_path / "empty")
    (tmp_path / "other" / "holidays").mkdir(parents=True)
    assert "found holidays" in message(tmp_path / "other")


def test_a_missing_manipulation_or_compression_says_what_is_there(layout):
    missing = message(layout, manipulations=["Deepfakes"])
    assert "found the manipulations FaceSwap, NeuralTextures" in missing
    missing = message(layout, manipulations=[], compression="c40")
    assert "in compression c40" in missing and "found c23" in missing


@pytest.mark.parametrize("name", ["../original_sequences", ".FaceSwap"])
def test_a_manipulation_is_no_path_and_no_hidden_folder(layout, name):
    (layout / SWAPS).parents[1].rename(layout / "manipulated_sequences/.FaceSwap")
    said = message(layout, manipulations=[name])
    assert f"no videos of {name}" in said and "found the manipulations NeuralTextures" in said


def test_a_class_without_videos_and_a_fake_without_a_pair_are_named(layout):
    place = touch(layout / SWAPS, "000_.mp4")
    said = message(layout, manipulations=["FaceSwap"])
    assert "000_.mp4 is not named <target>_<source>.mp4" in said
    for file in place.iterdir():
        file.unlink()
    assert "no videos of FaceSwap" in message(layout, manipulations=["FaceSwap"])


def test_a_copy_of_a_video_is_refused_and_upper_case_is_the_same_ending(layout):
    place = layout / REALS
    (place / "010.mp4").rename(place / "010.MP4")
    assert corpora.index(layout, manipulations=[]).video.tolist() == ["000", "003", "010"]
    touch(place, "010.mp4")
    assert "one video lies in two places" in message(layout, manipulations=[])
    (place / "010.mp4").rename(place / "010 (1).mp4")
    said = message(layout, manipulations=[])
    assert "010 (1).mp4 is not named <id>.mp4; rename or remove it" in said


def test_links_to_files_and_folders_are_followed(layout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    swaps = layout / "manipulated_sequences/FaceSwap"
    swaps.rename(elsewhere / "FaceSwap")
    swaps.symlink_to(elsewhere / "FaceSwap")
    (swaps / "c23/videos/003_010.mp4").symlink_to(elsewhere / "FaceSwap/c23/videos/003_000.mp4")
    videos = corpora.index(layout, manipulations=["FaceSwap"]).video
    assert videos.tolist()[3:] == ["000_003", "003_000", "003_010"]
    linked = layout.with_name(f"{layout.name}-link")
    linked.symlink_to(layout)
    assert len(corpora.index(linked, manipulations=["FaceSwap"])) == 6


def test_deepfakedetection_comes_with_the_actors_as_its_reals(layout):
    actors = touch(layout / "original_sequences/actors/c23/videos", "01__talking.mp4")
    touch(layout / "manipulated_sequences/DeepFakeDetection/c23/videos", "01_02__talking__ABCD.mp4")
    videos = corpora.index(layout, manipulations=["DeepFakeDetection"])
    assert videos[["corpus", "manipulation", "target"]].to_numpy().tolist() == [
        ["DFD", "real", "01"], ["DFD", "DeepFakeDetection", "01"]]
    assert videos.source.tolist()[1] == "02"
    names = ["FaceSwap", "DeepFakeDetection"]
    both = corpora.index(layout, manipulations=names, videos_per_class=1)
    assert both.groupby(["corpus", "manipulation"]).size().to_dict() == {
        ("DFD", "DeepFakeDetection"): 1, ("DFD", "real"): 1, ("FF++", "FaceSwap"): 1,
        ("FF++", "real"): 1}
    (actors / "01__talking.mp4").unlink()
    said = message(layout, manipulations=names)
    assert "no real videos of DFD" in said and "set against DeepFakeDetection; fetch" in said
