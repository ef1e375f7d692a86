"""Test metrics against brute force, cases computed by hand, and data on which they are NaN."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfnb import UserError
from dfnb.evaluation import metrics

QUICK = settings(max_examples=60, deadline=None)
TWELFTHS = st.integers(0, 12).map(lambda step: step / 12)  # few values, so that ties are common


@st.composite
def labelled(draw):
    """Draw labels and scores with both classes and many ties."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=20))]
    return np.array(labels), np.array([draw(TWELFTHS) for _ in labels])


def brute_auc(labels, scores):
    pairs = [(f > r) + 0.5 * (f == r) for f in scores[labels == 1] for r in scores[labels == 0]]
    return sum(pairs) / len(pairs)


def brute_eer(labels, scores):
    """Walk over every threshold and intersect FPR = FNR on the first segment that reaches it."""
    points = []
    for threshold in [np.inf, *sorted(set(scores), reverse=True)]:
        said = scores >= threshold
        points.append((np.mean(said[labels == 0]), np.mean(~said[labels == 1])))
    for (fpr, fnr), (next_fpr, next_fnr) in zip(points, points[1:], strict=False):
        if next_fpr >= next_fnr:
            share = (fnr - fpr) / ((fnr - fpr) + (next_fpr - next_fnr))
            return fpr + share * (next_fpr - fpr)


@QUICK
@given(labelled())
def test_auc_and_eer_equal_brute_force_and_do_not_change_under_a_monotone_map(data):
    labels, scores = data
    auc, eer = metrics.auc(*data), metrics.eer(*data)
    assert auc == pytest.approx(brute_auc(*data), abs=1e-12)  # ties are halves
    assert eer == pytest.approx(brute_eer(*data), abs=1e-12)
    assert metrics.auc(1 - labels, -scores) == pytest.approx(auc, abs=1e-12)
    for mapped in (np.exp(3 * scores), scores**3 - 5, np.log(scores + 0.01)):
        assert metrics.auc(labels, mapped) == auc
        assert metrics.eer(labels, mapped) == pytest.approx(eer, abs=1e-12)


@QUICK
@given(labelled())
def test_best_threshold_reaches_the_largest_balanced_accuracy_there_is(data):
    tried = [metrics.at_threshold(*data, at)["balanced"] for at in [*data[1], 2.0]]
    found = metrics.at_threshold(*data, metrics.best_threshold(*data))["balanced"]
    assert found == pytest.approx(max(tried), abs=1e-12)


def test_a_roc_worked_out_by_hand():
    data = [1, 1, 1, 0, 0], [0.9, 0.6, 0.6, 0.6, 0.2]  # at .6 two fakes and one real are tied
    fpr, tpr, thresholds = metrics.roc(*data)
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert tpr.tolist() == pytest.approx([0, 1 / 3, 1, 1])
    assert thresholds.tolist() == [np.inf, 0.9, 0.6, 0.2]
    assert metrics.auc(*data) == 5 / 6
    # FNR falls from 2/3 to 0 while FPR rises from 0 to 1/2: they meet at 2/7
    assert metrics.eer(*data) == pytest.approx(2 / 7)


def test_metrics_at_a_threshold_by_hand():
    found = metrics.at_threshold([1, 1, 1, 0, 0], [0.9, 0.5, 0.4, 0.5, 0.1], 0.5)
    assert [found[name] for name in ("TP", "FP", "FN", "TN")] == [2, 1, 1, 1]  # 0.5 is fake
    assert found["ACC"] == 3 / 5
    assert found["balanced"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["HTER"] == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)
    assert found["F1"] == pytest.approx(4 / 6)
    assert found["MCC"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    assert np.isnan(list(metrics.at_threshold([0, 1], [math.nan, 0.5], 0.5).values())).all()


def test_the_constant_answer_on_ten_reals_and_a_hundred_fakes_ranks_nothing():
    labels = [0] * 10 + [1] * 100
    found = metrics.constant_answer(labels)
    assert round(found["ACC"], 4) == 0.9091
    assert round(found["F1"], 4) == 0.9524
    assert (found["balanced"], found["AUC"], found["EER"]) == (0.5, 0.5, 0.5)
    assert math.isnan(found["MCC"])
    assert metrics.auc(labels, [0.3] * 110) == metrics.eer(labels, [0.3] * 110) == 0.5
    with pytest.raises(ValueError, match="labels are 0"):
        metrics.auc([0, 2], [0.1, 0.2])


@pytest.mark.parametrize(("labels", "scores", "reason"), [
    ([1, 1], [0.1, 0.9], "only fake rows, no real ones"),
    ([0, 0], [0.1, 0.9], "only real rows, no fake ones"),
    ([0, 1], [0.1, math.nan], "1 of 2 scores are NaN"),
    ([], [], "no rows")])
def test_what_is_undefined_is_nan_with_a_reason_and_never_zero(labels, scores, reason):
    assert metrics.undefined(labels, scores) == reason
    for metric in (metrics.auc, metrics.eer, metrics.best_threshold):
        assert math.isnan(metric(labels, scores))


def frames(*rows):
    """Return a table of frames of corpus c and group 0."""
    names = ["manipulation", "video", "split", "frame", "label", "score"]
    return pd.DataFrame(rows, columns=names).assign(corpus="c", group=0)


def test_a_video_is_one_name_in_one_manipulation_and_one_split():
    videos = metrics.to_videos(frames(["FaceSwap", "000_003", "test", 0, 1, 0.2],
                                      ["FaceSwap", "000_003", "test", 5, 1, 0.4],
                                      ["NeuralTextures", "000_003", "test", 0, 1, 0.9]))
    assert videos["score"].tolist() == pytest.approx([0.3, 0.9])
    assert videos["frames"].tolist() == [2, 1]
    assert videos.columns.tolist() == [
        "corpus", "manipulation", "video", "group", "split", "label", "score", "frames"]
    videos = metrics.to_videos(frames(["real", "000", "train", 0, 0, 0.2],
                                      ["real", "000", "test", 1, 0, 0.4]))
    assert dict(zip(videos.split, videos.score, strict=True)) == {"test": 0.4, "train": 0.2}


@pytest.mark.parametrize(("how", "expected"),
                         [("mean", 0.5), ("median", 0.4), ("max", 0.9), ("logit", 0.5337)])
def test_the_ways_from_frames_to_a_video(how, expected):
    # the odds 1/4, 2/3 and 9 multiply to 3/2, whose cube root 1.1447 is the odds of the mean logit
    rows = [["real", "0", "test", at, 0, score] for at, score in enumerate((0.2, 0.4, 0.9))]
    video = metrics.to_videos(frames(*rows), how).iloc[0]
    assert video.score == pytest.approx(expected, abs=5e-5)


def test_a_video_with_two_labels_and_an_unknown_average_are_refused():
    table = frames(["real", "000", "test", 0, 0, 0.2], ["real", "000", "test", 1, 1, 0.4])
    with pytest.raises(UserError, match="000.*two labels"):
        metrics.to_videos(table)
    with pytest.raises(UserError, match="mean, logit, median, max, got 'sum'"):
        metrics.to_videos(table, "sum")
