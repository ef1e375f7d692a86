import dataclasses
import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest

from dfnb.data import identity
from dfnb.demo import corpus as demo
from dfnb.demo.kinds import KINDS, Strengths, fakes, plant, record
from dfnb.demo.learned import DeepfakesStrength
from dfnb.demo.reenact import Face2FaceStrength, ReenactStrength
from dfnb.demo.render import LANDMARKS, Pose
from dfnb.demo.swap import SwapStrength

SMALL = {"seed": 3, "identities": 4, "frames": 3, "progress": False}


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def frames(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sharpness(image: np.ndarray, where: np.ndarray) -> float:
    grey = image.mean(2)
    return float(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1))[where].mean())


def first(kind, target, source, **strengths):
    """The first picture of a fake and its mask."""
    return next(fakes(kind, target, source, Strengths(**strengths)))


def posed(take, **pose):
    """The take of a person, of whom one movement is held still."""
    return dataclasses.replace(take, poses=[dataclasses.replace(at, **pose) for at in take.poses])


def difference(one, other) -> np.ndarray:
    return np.abs(one.astype(int) - other)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return demo.make(tmp_path_factory.mktemp("small") / "demo", workers=1, **SMALL)


@pytest.fixture(scope="module")
def takes():
    return record(8, 0, 4), record(8, 1, 4)


def test_the_layout_is_the_official_one_with_closed_pairs_of_h264(corpus):
    videos = {path.relative_to(corpus).as_posix(): path for path in corpus.rglob("*.mp4")}
    reals = {f"original_sequences/youtube/c23/videos/{id:03d}.mp4" for id in range(6)}
    pairs = ["000_001", "001_000", "002_003", "003_002", "004_005", "005_004"]
    assert set(videos) == reals | {f"manipulated_sequences/{kind}/c23/videos/{pair}.mp4"
                                   for kind in KINDS for pair in pairs}
    for path in videos.values():
        with av.open(path) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert (stream.average_rate, stream.width, stream.height) == (25, 256, 256)
            assert stream.frames == sum(1 for _ in container.decode(video=0)) == 12


def test_the_bytes_depend_on_the_seed_and_not_on_the_number_of_workers(small, tmp_path):
    assert files(demo.make(tmp_path / "again", workers=2, **SMALL)) == files(small)
    other = demo.make(tmp_path / "other", workers=1, **SMALL | {"seed": 4, "identities": 2})
    real = demo.video_path(other, "real", "000").read_bytes()
    assert real != demo.video_path(small, "real", "000").read_bytes()


def test_a_deleted_video_comes_back_with_the_same_bytes(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "demo")
    gone = [demo.video_path(folder, *video) for video in (("FaceSwap", "003_002"), ("real", "000"))]
    kept = demo.video_path(folder, "NeuralTextures", "003_002")
    for path in gone:
        path.unlink()
    before = kept.stat().st_mtime_ns
    demo.make(folder, workers=1, **SMALL)
    assert files(folder) == files(small)
    assert kept.stat().st_mtime_ns == before


def test_an_interrupted_corpus_has_no_corpus_json_and_is_finished_later(
        small, tmp_path, monkeypatch):
    encode, left = demo._encode, [5]

    def power_cut(pictures):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return encode(pictures)

    monkeypatch.setattr(demo, "_encode", power_cut)
    with pytest.raises(KeyboardInterrupt):
        demo.make(tmp_path / "demo", workers=1, **SMALL)
    assert not (tmp_path / "demo/corpus.json").exists()
    with pytest.raises(ValueError, match="with seed 3, not 4"):
        demo.make(tmp_path / "demo", workers=1, **SMALL | {"seed": 4})
    monkeypatch.undo()
    assert files(demo.make(tmp_path / "demo", workers=1, **SMALL)) == files(small)
    assert not (tmp_path / "demo" / demo.UNFINISHED).exists()


@pytest.mark.parametrize("change, words", [
    ({"frames": 4}, "with frames 3, not 4"),
    ({"planted": 2.0}, "with planted 0.0, not 2.0"),
    ({"swap": SwapStrength(feather=2)}, "with strengths.swap.feather 1.5, not 2"),
    ({"kinds": ("FaceSwap", )}, "with kinds .*; delete the folder or choose another one"),
    ({"videos": {"Face2Face": 1}}, "with videos.Face2Face None, not 1"),
    ({"deepfakes": DeepfakesStrength(bottleneck=1)},
     "with strengths.deepfakes.bottleneck .*, not 1")])
def test_a_folder_with_other_settings_is_refused(small, change, words):
    before = files(small)
    with pytest.raises(ValueError, match=words):
        demo.make(small, workers=1, **SMALL | change)
    assert files(small) == before


def test_someone_elses_videos_are_not_touched(tmp_path):
    (tmp_path / "original_sequences").mkdir()
    with pytest.raises(ValueError, match="no corpus.json"):
        demo.make(tmp_path, workers=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["original_sequences"]


@pytest.mark.parametrize("change, words", [
    ({"identities": 5}, "even number"),
    ({"frames": 0}, "frames must be at least 1"),
    ({"kinds": ("FaceShifter",)},
     "no FaceShifter; it makes FaceSwap, NeuralTextures, Face2Face, Deepfakes"),
    ({"kinds": ("FaceSwap",), "videos": {"Deepfakes": 2}},
     "a kind among FaceSwap has, .*; got Deepfakes: 2"),
    ({"videos": {"Deepfakes": 5}}, "at most 4 fakes .*; got Deepfakes: 5"),
    ({"planted": -1}, "planted")])
def test_settings_out_of_range_are_refused_before_anything_is_written(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        demo.make(tmp_path / "demo", **SMALL | change)
    assert not (tmp_path / "demo").exists()


def test_strengths_out_of_range_are_refused():
    with pytest.raises(ValueError, match="source_resolution must be in"):
        SwapStrength(source_resolution=0)
    with pytest.raises(ValueError, match="feather must be at least 0, got -1"):
        ReenactStrength(feather=-1)


def test_of_some_kinds_only_the_first_fakes_are_made(small, tmp_path):
    """The other videos keep their bytes, and masks know which fakes there are."""
    fewer = SMALL | {"videos": {"Face2Face": 3, "Deepfakes": 1}}
    some = demo.make(tmp_path / "some", workers=2, **fewer)
    made, whole = files(some), files(small)
    gone = {Path(name).parts[1] + "/" + Path(name).stem for name in set(whole) - set(made)}
    assert gone == {
        "Face2Face/003_002", "Deepfakes/001_000", "Deepfakes/002_003", "Deepfakes/003_002"}
    assert all(made[name] == whole[name] for name in made if name != "corpus.json")
    assert files(demo.make(some, workers=1, **fewer)) == made
    assert demo.masks(some, "Face2Face", "002_003").any()
    sentence = "no fake Face2Face/003_002; .* Face2Face: 000_001 to 002_003"
    with pytest.raises(ValueError, match=sentence):
        demo.masks(some, "Face2Face", "003_002")


def test_a_corpus_made_before_there_were_further_kinds_is_taken(tmp_path):
    """Its corpus.json says nothing of kinds that it does not hold."""
    older = SMALL | {"identities": 2, "kinds": ("FaceSwap",)}
    folder = demo.make(tmp_path / "demo", workers=1, **older)
    stored = json.loads((folder / "corpus.json").read_text())
    del stored["videos"], stored["strengths"]["face2face"], stored["strengths"]["deepfakes"]
    (folder / "corpus.json").write_text(json.dumps(stored))
    before = files(folder)
    assert demo.masks(folder, "FaceSwap", "000_001").any()
    after = files(demo.make(folder, workers=1, **older))
    assert {name for name in after if before.get(name) != after[name]} == {"corpus.json"}


def test_a_corpus_of_an_older_world_is_refused(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "demo")
    older = json.loads((folder / "corpus.json").read_text()) | {"world": 0}
    (folder / "corpus.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match="version 0 of the demo world"):
        demo.masks(folder, "FaceSwap", "000_001")
    with pytest.raises(ValueError, match="with world 0, not 1"):
        demo.make(folder, workers=1, **SMALL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_manipulation_changes_pixels_of_its_mask_only(takes, kind):
    for before, (image, mask) in zip(takes[0].frames, fakes(kind, *takes, Strengths()),
                                     strict=True):
        changed = (image != before.image).any(2)
        assert not changed[mask == 0].any()
        assert changed[mask > 0.9].mean() > 0.8
        assert 0.02 < (mask > 0.5).mean() < 0.3


def test_neural_textures_leaves_the_upper_face_alone(takes):
    for before, (image, _) in zip(takes[0].frames, fakes("NeuralTextures", *takes, Strengths()),
                                  strict=True):
        for split in ("brows", "eyes"):
            bottom = int(before.landmarks[LANDMARKS[split], 1].max()) + 1
            np.testing.assert_array_equal(image[:bottom], before.image[:bottom])


def test_neural_textures_takes_the_mouth_of_the_source(takes):
    """With nothing lost on the way, a closed and an open mouth differ on the same target."""
    target, source = takes
    clear = {"reenact": ReenactStrength(bottleneck=1, colour=0)}
    shut, wide = (first("NeuralTextures", target, posed(source, mouth=opening), **clear)[0]
                  for opening in (0.0, 1.0))
    x, y = target.frames[0].landmarks[LANDMARKS["mouth"]].mean(0).astype(int)
    assert difference(shut, wide)[y - 5:y + 6, x - 5:x + 6].mean() > 10


def test_swapping_a_face_with_itself_at_full_resolution_changes_next_to_nothing(takes):
    strength = SwapStrength(jitter=0, source_resolution=1)
    image, mask = first("FaceSwap", takes[0], takes[0], swap=strength)
    assert difference(image, takes[0].frames[0].image)[mask > 0].max() <= 1


def test_face2face_keeps_identity_and_takes_mouth_and_blink_of_the_source(takes):
    """The same performance gives the same picture, whoever the source is; another one does not."""
    target, source = takes
    clear = {"face2face": Face2FaceStrength(texture=1, light=0, misfit=0)}
    stranger = dataclasses.replace(record(8, 5, 4), poses=source.poses)
    image = first("Face2Face", target, source, **clear)[0]
    np.testing.assert_array_equal(first("Face2Face", target, stranger, **clear)[0], image)
    for part, track in (("mouth", "mouth"), ("eyes", "blink")):
        shut, wide = (first("Face2Face", target, posed(source, **{track: end}), **clear)[0]
                      for end in (0.0, 1.0))
        x, y = target.frames[0].landmarks[LANDMARKS[part]].round().astype(int).T
        change = difference(shut, wide)[y.min():y.max() + 1, x.min():x.max() + 1]
        assert change.mean() > 5


def test_face2face_renders_the_whole_face_and_nothing_above_the_brows(takes):
    target = takes[0].frames[0]
    mask = first("Face2Face", *takes)[1]
    x, y = target.landmarks[LANDMARKS["eyes"]].round().astype(int).T
    assert (mask[y, x] > 0.9).all()
    assert not mask[:int(target.landmarks[:, 1].min()) - 10].any()


def test_a_deepfake_of_oneself_without_losses_is_the_same_picture_without_grain(takes):
    clear = DeepfakesStrength(bottleneck=1, expression=1, colour_match=0, jitter=0)
    image, mask = first("Deepfakes", takes[0], takes[0], deepfakes=clear)
    clean = takes[0].scene.frame(takes[0].poses[0], noise=False).image
    assert difference(image, clean)[mask == 1].max() <= 3  # the alignment shifts by a hair


def test_a_deepfake_shows_the_source_with_pose_expression_and_light_of_the_target(takes):
    """What the source does in its own video has no effect; who it is and the target have."""
    target, source = takes
    clear = {"deepfakes": DeepfakesStrength(bottleneck=1, expression=1, colour_match=0, jitter=0)}
    image, mask = first("Deepfakes", target, source, **clear)
    still = posed(source, mouth=1.0, yaw=15)
    np.testing.assert_array_equal(first("Deepfakes", target, still, **clear)[0], image)
    drawn = source.scene.under(target.scene.light).frame(target.poses[0], noise=False)
    own = source.scene.frame(target.poses[0], noise=False)
    colour = image[mask > 0.9].mean(0)
    lit, unlit = (np.abs(colour - frame.image[frame.face_mask > 0.9].mean(0)).max()
                  for frame in (drawn, own))
    assert lit < unlit
    stranger = first("Deepfakes", target, record(8, 5, 4), **clear)[0]
    assert difference(stranger, image)[mask == 1].mean() > 5


@pytest.mark.parametrize(("kind", "strength", "most"), [
    ("FaceSwap", lambda keep: {"swap": SwapStrength(jitter=0, source_resolution=keep)}, 0.5),
    ("NeuralTextures", lambda keep: {"reenact": ReenactStrength(bottleneck=keep)}, 1),
    ("Face2Face", lambda keep: {"face2face": Face2FaceStrength(texture=keep)}, 0.6),
    ("Deepfakes", lambda keep: {"deepfakes": DeepfakesStrength(bottleneck=keep)}, 0.6)])
def test_the_main_setting_of_a_kind_removes_fine_detail(takes, kind, strength, most):
    details = []
    for keep in (1.0, 0.6, 0.4, 0.2):
        image, mask = first(kind, *takes, **strength(keep))
        details.append(sharpness(image, mask == 1))
    assert details == sorted(details, reverse=True)
    assert details[-1] < most * details[0]


def test_relighting_leaves_the_scene_itself_as_it_was():
    scene, other = (record(8, id, 1).scene for id in (0, 1))
    before = scene.frame(Pose()).image
    relit = scene.under(other.light).frame(Pose()).image
    np.testing.assert_array_equal(scene.frame(Pose()).image, before)
    assert difference(relit, before).mean() > 0.5


def test_a_swap_shows_its_source_and_a_reenactment_its_target():
    videos = pd.DataFrame({"manipulation": ["real", *KINDS], "target": "000",
                           "source": [None, *["001"] * len(KINDS)]})
    assert dict(zip(videos.manipulation, identity.shown(videos), strict=True)) == {
        "real": "000", "FaceSwap": "001", "NeuralTextures": "000", "Face2Face": "000",
        "Deepfakes": "001"}


def test_masks_are_those_of_the_video_on_disk(corpus):
    masks = demo.masks(corpus, "FaceSwap", "001_000")
    assert masks.shape == (12, 256, 256) and masks.dtype == np.uint8
    real, fake = (frames(demo.video_path(corpus, *video))
                  for video in (("real", "001"), ("FaceSwap", "001_000")))
    change = difference(real, fake).mean(3)
    assert change[masks > 200].mean() > 5 * change[masks == 0].mean()


@pytest.mark.parametrize("manipulation, video",
                         [("real", "000"), ("FaceSwap", "000_002"), ("FaceShifter", "000_001")])
def test_masks_of_a_video_that_is_no_fake_are_refused(corpus, manipulation, video):
    with pytest.raises(ValueError, match="has no fake"):
        demo.masks(corpus, manipulation, video)


def test_the_planted_cue_is_a_pattern_of_the_person_with_the_label_as_its_sign(small, tmp_path):
    planted = demo.make(tmp_path / "planted", workers=1, planted=6.0, **SMALL | {"identities": 2})

    def cue(manipulation, video):
        """What planting has changed in a video, without the codec's fine noise; (256, 256)."""
        with_cue, without = (frames(demo.video_path(folder, manipulation, video)).mean((0, 3))
                             for folder in (planted, small))
        return cv2.GaussianBlur(with_cue - without, (0, 0), 6)

    real, other = cue("real", "000"), cue("real", "001")
    for kind in KINDS:
        assert np.corrcoef(real.ravel(), cue(kind, "000_001").ravel())[0, 1] < -0.9
        assert abs(np.corrcoef(real.ravel(), cue(kind, "001_000").ravel())[0, 1]) < 0.7
    assert abs(np.corrcoef(real.ravel(), other.ravel())[0, 1]) < 0.7
    assert 3 < np.abs(real).max() < 7


def test_nothing_is_planted_by_default(takes):
    pictures = [frame.image for frame in takes[0].frames]
    assert plant(pictures, takes[0].scene.person, 0.0) is pictures
    planted = plant(pictures, takes[0].scene.person, 2.0)[0]
    assert difference(planted, pictures[0]).max() == 2
