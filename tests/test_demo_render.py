"""People of the demo world and their frames."""

import pickle

import numpy as np
import pytest

from dfnb.demo import people, render
from dfnb.demo.render import LANDMARKS, Pose, Scene

WORLD = 4711


@pytest.fixture(scope="module")
def scene():
    return Scene(people.person(WORLD, 3))


def middle(rendered, group):
    return rendered.landmarks[LANDMARKS[group]].mean(0)


def test_a_person_follows_from_world_and_id_alone():
    alone = people.person(WORLD, 7)
    among_others = [people.person(WORLD, id) for id in range(9)][7]
    assert alone == among_others == pickle.loads(pickle.dumps(alone))


def test_different_ids_and_worlds_give_different_people():
    drawn = {people.person(world, id) for world in (1, 2) for id in range(20)}
    assert len(drawn) == 40


def test_every_attribute_takes_only_and_all_its_values():
    drawn = [people.person(WORLD, id) for id in range(150)]
    for name, values in people.ATTRIBUTES.items():
        assert {getattr(person, name) for person in drawn} == set(values), name


def test_a_caption_names_every_attribute():
    for id in range(60):
        person = people.person(WORLD, id)
        words = people.caption(person, expression="smiling", gaze="left")
        for name in ("age", "gender", "hair_colour", "hair_length", "place"):
            assert f" {getattr(person, name)}" in words
        assert ("glasses" in words) == person.glasses and ("beard" in words) == person.beard
        assert ", smiling, looking left, " in words


def test_expression_and_gaze_have_words():
    assert render.expression(Pose()) == "neutral" and render.gaze(Pose()) == "ahead"
    assert render.expression(Pose(smile=0.8)) == "smiling" and render.gaze(
        Pose(gaze_x=-0.8)) == "left"
    assert (
        render.expression(Pose(smile=0.8, mouth=0.6)) == "talking"
        and render.gaze(Pose(gaze_x=0.8)) == "right")


def test_a_frame_is_the_same_in_a_fresh_scene(scene):
    pose = Pose(yaw=6, mouth=0.4)
    first, again = scene.frame(pose), Scene(scene.person).frame(pose)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.landmarks, again.landmarks)


def test_a_frame_has_the_promised_shapes(scene):
    frame = scene.frame(Pose())
    assert frame.image.shape == (256, 256, 3) and frame.image.dtype == np.uint8
    assert frame.landmarks.shape == (68, 2) and frame.landmarks.dtype == np.float32
    assert frame.face_mask.shape == (256, 256) and frame.face_mask.dtype == np.float32
    assert frame.face_mask.min() >= 0 and frame.face_mask.max() <= 1
    assert sorted(i for split in LANDMARKS.values() for i in range(68)[split]) == list(range(68))


def test_camera_noise_can_be_switched_off_and_follows_its_generator(scene):
    clean = scene.frame(Pose(), noise=False).image.astype(int)
    noisy = [
        scene.frame(Pose(), np.random.default_rng(seed)).image.astype(int) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (noisy[0] != noisy[2]).mean() > 0.3
    assert 0.3 < np.abs(noisy[0] - clean).mean() < 6


def test_landmarks_stay_in_the_picture_and_the_nose_lies_on_the_face():
    for id in range(6):
        person = people.person(WORLD, id)
        scene = Scene(person)
        for pose in render.performance(person, 100, seed=1)[::33]:
            frame = scene.frame(pose)
            assert frame.landmarks.min() > 5 and frame.landmarks.max() < 250
            x, y = frame.landmarks[30].astype(int)
            assert frame.face_mask[y, x] > 0.9


def test_the_nose_follows_yaw_and_pitch_and_the_eyes_follow_roll(scene):
    rest = scene.frame(Pose())
    assert middle(scene.frame(Pose(yaw=12)), "nose")[0] > middle(rest, "nose")[0] + 3
    assert middle(scene.frame(Pose(pitch=8)), "nose")[1] > middle(rest, "nose")[1] + 2
    tilted = scene.frame(Pose(roll=10)).landmarks
    across = tilted[45] - tilted[36]
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(10, abs=1)


def test_a_shift_moves_picture_and_landmarks_alike(scene):
    rest, moved = scene.frame(Pose(), noise=False), scene.frame(Pose(x=6, y=-4), noise=False)
    np.testing.assert_allclose(moved.landmarks - rest.landmarks, np.tile([6, -4], (68, 1)),
                               atol=1e-3)
    np.testing.assert_allclose(moved.face_mask[96:176, 106:166], rest.face_mask[100:180, 100:160],
                               atol=0.02)


def test_the_mouth_opens_and_the_chin_drops(scene):
    shut, open_ = (scene.frame(Pose(mouth=mouth)).landmarks for mouth in (0, 1))
    assert (open_[66] - open_[62])[1] > (shut[66] - shut[62])[1] + 6  # inner lips
    assert open_[8, 1] > shut[8, 1] + 4 and np.allclose(open_[36:48], shut[36:48])


def test_a_smile_lifts_and_widens_the_mouth(scene):
    rest, smile = (scene.frame(Pose(smile=smile)).landmarks for smile in (0, 1))
    assert smile[54, 0] - smile[48, 0] > rest[54, 0] - rest[48, 0] + 2
    assert smile[[48, 54], 1].mean() < rest[[48, 54], 1].mean() - 1


def test_a_blink_closes_the_eyes_and_changes_only_their_surroundings(scene):
    awake, closed = (scene.frame(Pose(blink=blink), noise=False) for blink in (0, 1))
    assert np.ptp(closed.landmarks[36:42, 1]) < np.ptp(awake.landmarks[36:42, 1])
    changed = np.abs(awake.image.astype(int) - closed.image).max(2) > 2
    rows = np.flatnonzero(changed.any(1))
    top, bottom = awake.landmarks[LANDMARKS["eyes"], 1].min(), awake.landmarks[LANDMARKS["eyes"],
                                                                               1].max()
    assert changed.any() and rows.min() > top - 15 and rows.max() < bottom + 15


def test_a_performance_is_smooth_and_a_shorter_one_is_its_beginning():
    person = people.person(WORLD, 2)
    track = render.performance(person, 120, seed=5)
    assert track[:40] == render.performance(person, 40, seed=5)
    assert track != render.performance(person, 120, seed=6)
    assert np.abs(np.diff([pose.yaw for pose in track])).max() < 2
    assert np.ptp([pose.mouth for pose in track]) > 0.2


def test_dlib_finds_the_face_in_nearly_every_frame():
    dlib = pytest.importorskip("dlib")
    detect, found = dlib.get_frontal_face_detector(), []
    for id in range(8):
        person = people.person(WORLD, id)
        scene = Scene(person)
        for pose in render.performance(person, 90)[::30]:
            frame = scene.frame(pose)
            x, y = frame.landmarks.mean(0)
            boxes = detect(frame.image, 0)
            found.append(any(box.contains(int(x), int(y)) for box in boxes))
    assert np.mean(found) >= 23 / 24
