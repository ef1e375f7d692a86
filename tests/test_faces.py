"""One face per clip is found, followed, smoothed and cut out."""

import math

import cv2
import numpy as np
import pytest

from dfnb.data import faces, video


def clip(count, height=256, width=256):
    """Return frames that differ in their first corner only, where `double` reads their number."""
    frames = np.full((count, height, width, 3), 128, np.uint8)
    frames[:, :8, :8] = np.arange(count)[:, None, None, None]
    return frames


def scaled(box, grey, height=256):
    """Return a box of a frame with `height` rows in pixels of the level that is searched."""
    level = round(math.log(2 * height / len(grey), faces.STEP))
    return tuple(edge * 2 / faces.STEP**level for edge in box)


def double(answers):
    """Return a detector that gives `answers[number]` for the frame with that number."""
    return lambda grey: [(scaled(box, grey), 1.0) for box in answers[grey[0, 0]]]


def followed(answers, seconds=None):
    """Track a clip of one frame per answer, with `seconds` between two frames."""
    pts = None if seconds is None else np.arange(len(answers)) * seconds
    return faces.track(clip(len(answers)), double(answers), pts=pts)


def noise(height=64, width=64):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(x, y, side=100):
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def corners(table):
    return table[["x0", "y0", "x1", "y1"]].to_numpy()


def test_a_still_face_keeps_its_box_which_is_a_square_around_the_same_centre():
    table = followed([[box(128, 120)]] * 5, 1 / 25)
    assert table.status.tolist() == ["kept"] * 5 and table.faces.tolist() == [1] * 5
    np.testing.assert_allclose(corners(table), [box(128, 120)] * 5)
    np.testing.assert_allclose(corners(followed([[(50, 60, 150, 140)]])), [[50, 50, 150, 150]])


def test_the_face_with_the_largest_sum_of_sides_is_followed():
    main, small = box(90, 90, 90), box(200, 200, 50)
    table = followed([[small, main], [main, small], [main, small], [main], [small]])
    assert table.status.tolist() == ["kept"] * 4 + ["only another face"]
    assert table.faces.tolist() == [2, 2, 2, 1, 1]
    np.testing.assert_allclose(corners(table)[:4], [main] * 4)
    steady = box(60, 60, 90)
    table = followed([[steady]] * 4 + [[box(200, 190, 100), steady]])
    np.testing.assert_allclose(corners(table), [steady] * 5)


def test_a_moving_face_is_followed_by_overlap_past_a_still_one():
    moving = [box(60 + 25 * at, 80) for at in range(6)]
    table = followed([[box(60, 200, 80), place] for place in moving])
    np.testing.assert_allclose(corners(table), moving)


def test_a_frame_without_a_face_has_its_status_and_no_box():
    table = followed([[box(128, 128)], [], [box(128, 128)]], 1 / 25)
    assert table.status.tolist() == ["kept", "no face", "kept"]
    assert table.faces.tolist() == [1, 0, 1]
    assert table.iloc[1][["x0", "y0", "x1", "y1", "score"]].isna().all()
    assert table.iloc[[0, 2]].notna().all(axis=None)
    assert followed([[]] * 3, 1 / 25).status.tolist() == ["no face"] * 3


def test_a_face_is_lost_where_more_than_half_of_it_is_outside():
    table = followed([[box(2, 128)], [box(-2, 128)]])
    assert table.status.tolist() == ["kept", "face leaves the picture"]


def test_smoothing_takes_jitter_between_close_frames_and_keeps_a_steady_movement():
    jitter = [box(128 + 3 * (-1) ** at, 128) for at in range(12)]
    close, far = (corners(followed([[place] for place in jitter], seconds))
                  for seconds in (1 / 25, 1.5))
    assert np.ptp(close[3:-3, 0]) < 1  # 6 pixels before
    np.testing.assert_allclose(far, jitter, atol=1e-6)
    steady = [box(60 + 4 * at, 128) for at in range(25)]
    smooth = corners(followed([[place] for place in steady], 1 / 25))
    np.testing.assert_allclose(smooth[8:-8], steady[8:-8], atol=0.02)


@pytest.mark.parametrize("height, rows", [
    (256, 247), (480, 463), (720, 482), (1080, 502), (2160, 485)])
def test_a_level_of_the_pyramid_that_begins_at_twice_the_size_is_searched(height, rows):
    sizes = []

    def detect(grey):
        sizes.append(grey.shape)
        return [(scaled((80, 100, 280, 300), grey, height), 0.7)]

    [(found, score)] = faces.find(np.zeros((height, 2 * height, 3), np.uint8), detect)
    assert found == pytest.approx((80, 100, 280, 300)) and score == 0.7
    assert [height for height, _ in sizes] == [rows]
    level = math.log(2 * height / rows, 1.2)
    assert level == pytest.approx(round(level), abs=0.01)


def test_a_finer_level_is_searched_where_the_first_shows_no_face():
    def detect(grey):
        return [((40, 50, 130, 140), 0.7)] if len(grey) == round(960 * 2 / 1.2**3) else []

    [(found, _)] = faces.find(np.zeros((960, 1280, 3), np.uint8), detect)
    assert found == pytest.approx(np.array((40, 50, 130, 140)) * 1.2**3 / 2)


@pytest.mark.parametrize("height", [256, 480, 720])
def test_boxes_agree_with_the_recipe_of_faceforensics(corpus, height):
    """The recipe is dlib with one upsampling on the whole frame, and the largest face."""
    import dlib

    exact, detect, shared = dlib.get_frontal_face_detector(), faces.detector(), []
    for path in sorted(corpus.rglob("c23/videos/*.mp4"))[:2]:
        frames = np.stack([cv2.resize(frame, (height, height), interpolation=cv2.INTER_CUBIC)
                           for frame in video.read(path, 3).frames])
        for frame, ours in zip(frames, corners(faces.track(frames, detect)), strict=True):
            found = exact(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 1)
            theirs = max(found, key=lambda face: face.area())
            box = theirs.left(), theirs.top(), theirs.right() + 1, theirs.bottom() + 1
            shared.append(faces._overlap(tuple(ours), box))
    assert np.median(shared) > 0.95


def test_a_crop_of_the_size_of_its_box_is_a_copy_and_widening_keeps_the_centre():
    frame = noise(80, 90)
    np.testing.assert_array_equal(faces.crop(frame, (10, 20, 42, 52), 32), frame[20:52, 10:42])
    assert faces.widen((100, 100, 200, 200), 1.3) == pytest.approx((85, 85, 215, 215))


def test_shrinking_averages_areas():
    means = noise().reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(faces.crop(noise(), (0, 0, 64, 64), 16), means, atol=0.51)


def test_a_crop_reflects_the_frame_outside_of_it():
    frame = noise()
    crop = faces.crop(frame, (-8, -8, 24, 24), 32)
    np.testing.assert_array_equal(crop[8:, 8:], frame[:24, :24])
    np.testing.assert_array_equal(crop[:8, 8:], frame[8:0:-1, :24])
    assert faces.crop(frame, (-90, -90, 110, 110), 16).shape == (16, 16, 3)


def test_dlib_finds_no_face_in_blank_frames_of_any_shape():
    for shape in ((1, 1), (2, 300), (300, 2), (7, 9), (256, 256)):
        assert faces.find(np.full((*shape, 3), 128, np.uint8), faces.detector()) == []


def test_dlib_finds_the_faces_of_the_demo_world(corpus):
    detect = faces.detector()
    for path in sorted(corpus.rglob("c23/videos/*.mp4"))[::4]:
        clip = video.read(path, 4)
        table = faces.track(clip.frames, detect, pts=clip.pts)
        assert table.status.tolist() == ["kept"] * len(clip.frames)
        assert table.x1.sub(table.x0).between(80, 240).all()
