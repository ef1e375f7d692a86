import pytest

from dfnb import UserError
from dfnb.data import corpora


@pytest.fixture
def layout(tmp_path):
    """Empty files in FF++'s official layout: three reals, two fakes of two manipulations."""
    folders = {
        "original_sequences/youtube": ["003", "000", "010"],
        "manipulated_sequences/FaceSwap": ["003_000", "000_003"],
        "manipulated_sequences/NeuralTextures": ["000_003", "003_000"],
    }
    for folder, names in folders.items():
        place = tmp_path / folder / "c23" / "videos"
        place.mkdir(parents=True)
        for name in names:
            (place / f"{name}.mp4").touch()
    return tmp_path


def message(*arguments, **options):
    with pytest.raises(UserError) as error:
        corpora.index(*arguments, **options)
    return str(error.value)


def test_the_table_has_the_agreed_columns_and_sorted_rows(layout):
    videos = corpora.index(layout, manipulations=["NeuralTextures", "FaceSwap"])
    assert videos.columns.tolist() == ["corpus", "manipulation", "video", "label", "target", "source", "path"]
    assert videos.manipulation.tolist() == ["real"] * 3 + ["NeuralTextures"] * 2 + ["FaceSwap"] * 2
    assert videos.video.tolist() == ["000", "003", "010", "000_003", "003_000", "000_003", "003_000"]
    assert videos.label.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert not videos.duplicated(["corpus", "manipulation", "video"]).any()


def test_a_fake_knows_target_and_source_and_a_real_has_no_source(layout):
    videos = corpora.index(layout, manipulations=["FaceSwap"]).set_index(["manipulation", "video"])
    assert videos.loc[("FaceSwap", "003_000"), ["target", "source"]].tolist() == ["003", "000"]
    assert videos.loc[("real", "003"), "target"] == "003"
    assert videos.loc["real", "source"].isna().all()


def test_the_first_videos_of_each_class_are_taken(layout):
    videos = corpora.index(layout, manipulations=["FaceSwap"], videos_per_class=1)
    assert videos.video.tolist() == ["000", "000_003"]


def test_of_some_methods_fewer_videos_can_be_taken(layout):
    both = ["FaceSwap", "NeuralTextures"]
    videos = corpora.index(layout, manipulations=both, videos_per_class=2, videos={"NeuralTextures": 1})
    assert videos.manipulation.value_counts().to_dict() == {"real": 2, "FaceSwap": 2, "NeuralTextures": 1}
    assert videos.video.iloc[-1] == "000_003"
    assert "counts Deepfakes, which is not asked for" in message(layout, manipulations=both, videos={"Deepfakes": 1})


def test_hidden_files_are_no_videos_and_paths_with_spaces_are_fine(layout):
    place = layout / "original_sequences/youtube/c23/videos"
    (place / "._000.mp4").touch()
    assert len(corpora.index(layout, manipulations=[])) == 3
    moved = layout.rename(layout.with_name("a corpus \N{WINKING FACE}"))
    assert corpora.index(moved, manipulations=[]).path.str.startswith(str(moved)).all()


def test_the_demo_corpus_is_called_demo(layout):
    assert set(corpora.index(layout, manipulations=[]).corpus) == {"FF++"}
    (layout / "corpus.json").write_text("{}")
    assert set(corpora.index(layout, manipulations=[]).corpus) == {"demo"}


def test_a_missing_or_empty_root_names_the_path_and_the_way_out(layout, tmp_path):
    missing = message(tmp_path / "nowhere", manipulations=[])
    assert str(tmp_path / "nowhere") in missing and "dfnb demo" in missing and "corpus.root" in missing
    (tmp_path / "empty").mkdir()
    assert "found nothing" in message(tmp_path / "empty", manipulations=[])
    (tmp_path / "other" / "holidays").mkdir(parents=True)
    assert "found holidays" in message(tmp_path / "other", manipulations=[])


def test_a_missing_method_or_compression_says_what_was_found(layout):
    assert "found the manipulations FaceSwap, NeuralTextures" in message(layout, manipulations=["Deepfakes"])
    missing = message(layout, manipulations=[], compression="c40")
    assert "in compression c40" in missing and "found c23" in missing
    assert "one of raw, c23, c40, got 'c24'" in message(layout, manipulations=[], compression="c24")


def test_a_method_cannot_lead_out_of_the_corpus(layout):
    assert "no videos of ../original_sequences" in message(layout, manipulations=["../original_sequences"])


def test_a_class_without_videos_and_a_fake_without_a_pair_are_named(layout):
    place = layout / "manipulated_sequences/FaceSwap/c23/videos"
    (place / "000_.mp4").touch()
    assert "000_.mp4 is not named <target>_<source>.mp4" in message(layout, manipulations=["FaceSwap"])
    for file in place.iterdir():
        file.unlink()
    assert "no videos of FaceSwap" in message(layout, manipulations=["FaceSwap"])


def test_fewer_than_one_video_per_class_is_refused(layout):
    assert "at least 1" in message(layout, manipulations=[], videos_per_class=0)


def test_without_methods_all_of_them_are_listed_by_name(layout):
    assert corpora.index(layout).manipulation.unique().tolist() == ["real", "FaceSwap", "NeuralTextures"]


def test_a_copy_of_a_video_is_refused_and_upper_case_is_the_same_ending(layout):
    place = layout / "original_sequences/youtube/c23/videos"
    (place / "010.mp4").rename(place / "010.MP4")
    assert corpora.index(layout, manipulations=[]).video.tolist() == ["000", "003", "010"]
    (place / "010.mp4").touch()
    assert "one video lies in two places" in message(layout, manipulations=[])
    (place / "010.mp4").rename(place / "010 (1).mp4")
    assert "010 (1).mp4 is not named <id>.mp4; rename or remove it" in message(layout, manipulations=[])


def test_links_to_files_and_folders_are_followed(layout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shelf = layout / "manipulated_sequences/FaceSwap"
    shelf.rename(elsewhere / "FaceSwap")
    shelf.symlink_to(elsewhere / "FaceSwap")
    (shelf / "c23/videos/003_010.mp4").symlink_to(elsewhere / "FaceSwap/c23/videos/003_000.mp4")
    assert corpora.index(layout, manipulations=["FaceSwap"]).video.tolist()[3:] == ["000_003", "003_000", "003_010"]
    linked = layout.with_name(f"{layout.name}-link")
    linked.symlink_to(layout)
    assert len(corpora.index(linked, manipulations=["FaceSwap"])) == 6


def test_hidden_folders_hold_no_method(layout):
    (layout / "manipulated_sequences/FaceSwap").rename(layout / "manipulated_sequences/.FaceSwap")
    assert "found the manipulations NeuralTextures" in message(layout, manipulations=[".FaceSwap"])


def test_deepfakedetection_comes_with_the_actors_as_its_reals(layout):
    for folder, name in (("original_sequences/actors", "01__talking"),
                         ("manipulated_sequences/DeepFakeDetection", "01_02__talking__ABCDEFGH")):
        (layout / folder / "c23/videos").mkdir(parents=True)
        (layout / folder / f"c23/videos/{name}.mp4").touch()
    videos = corpora.index(layout, manipulations=["DeepFakeDetection"])
    assert videos[["corpus", "manipulation", "target"]].to_numpy().tolist() == [
        ["DFD", "real", "01"], ["DFD", "DeepFakeDetection", "01"]]
    assert videos.source.tolist()[1] == "02"
    both = corpora.index(layout, manipulations=["FaceSwap", "DeepFakeDetection"], videos_per_class=1)
    assert both.groupby(["corpus", "manipulation"]).size().to_dict() == {
        ("DFD", "DeepFakeDetection"): 1, ("DFD", "real"): 1, ("FF++", "FaceSwap"): 1, ("FF++", "real"): 1}
    for file in (layout / "original_sequences/actors/c23/videos").iterdir():
        file.unlink()
    assert "no real videos of DFD" in message(layout, manipulations=["FaceSwap", "DeepFakeDetection"])


def test_masks_are_no_compression(layout):
    masks = layout / "manipulated_sequences/FaceSwap/masks/videos"
    masks.mkdir(parents=True)
    (masks / "003_000.mp4").touch()
    assert len(corpora.index(layout, manipulations=["FaceSwap"])) == 5
