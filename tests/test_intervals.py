"""Test intervals and comparisons: properties, brute force, coverage, data that supports none."""

import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfnb import UserError
from dfnb.evaluation import comparison, intervals, metrics, power, published
from dfnb.evaluation.intervals import Bootstrap
from tools.coverage import KINDS, coverage, paired

QUICK = settings(max_examples=40, deadline=None)


@st.composite
def grouped(draw):
    """Draw labels, scores of two models with ties, and groups; two rows or more of each class."""
    labels = np.array([0, 0, 1, 1, *draw(st.lists(st.integers(0, 1), max_size=16))])
    first, second = (np.array([draw(st.integers(0, 8)) / 8 for _ in labels]) for _ in range(2))
    groups = np.array([draw(st.integers(0, 6)) for _ in labels])
    return labels, first, second, groups


def drawn(seed=0, reals=10, fakes=100, shift=1.5):
    """Return labels, binormal scores and groups of FF++ pairs."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [reals, fakes])
    groups = np.concatenate([np.arange(reals), np.arange(fakes)]) // 2
    return labels, rng.normal(size=len(labels)) + shift * labels, groups


@QUICK
@given(st.floats(0, 1), st.integers(1, 200), st.integers(1, 200))
def test_newcombe_lies_in_the_unit_interval_holds_the_auc_and_has_a_width(
        auc, positives, negatives):
    low, high = intervals.newcombe(auc, positives, negatives)
    assert 0 <= low <= auc + 1e-12 and auc - 1e-12 <= high <= 1
    # a hundredth, but for more than 300 videos
    assert high - low > min(0.01, 3 / (positives + negatives))
    mirrored = intervals.newcombe(1 - auc, negatives, positives)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@QUICK
@given(st.floats(0.01, 0.99), st.integers(2, 200), st.integers(2, 200))
def test_newcombe_bounds_are_roots_of_its_equation(auc, positives, negatives):
    for theta in intervals.newcombe(auc, positives, negatives):
        half = (positives + negatives) / 2 - 1
        inner = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        variance = theta * (1 - theta) * inner / (positives * negatives)
        assert (auc - theta) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)


def test_newcombe_does_not_collapse_at_one_and_narrows_with_videos():
    low, high = intervals.newcombe(1.0, 100, 10)
    assert low == pytest.approx(0.8913, abs=1e-4) and high == 1
    widths = [np.ptp(intervals.newcombe(0.886, 100, reals)) for reals in (10, 20, 100, 1000)]
    assert widths == sorted(widths, reverse=True)
    low, high = intervals.newcombe([0.5, 1.0, 0.5], [10, 10, 0], 10)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, False, True]


@QUICK
@given(grouped())
def test_delong_equals_the_u_statistics_over_all_pairs(data):
    labels, first, second, _ = data
    kernels = []
    for scores in (first, second):
        fakes, reals = scores[labels == 1][:, None], scores[labels == 0][None]
        kernels.append((fakes > reals) + 0.5 * (fakes == reals))
    expected = np.empty((2, 2))
    for i, j in itertools.product(range(2), repeat=2):
        by_fake = np.cov(kernels[i].mean(axis=1), kernels[j].mean(axis=1))[0, 1]
        by_real = np.cov(kernels[i].mean(axis=0), kernels[j].mean(axis=0))[0, 1]
        expected[i, j] = by_fake / kernels[i].shape[0] + by_real / kernels[i].shape[1]
    found = intervals.delong_covariance(labels, [first, second])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@QUICK
@given(grouped())
def test_every_interval_is_inside_the_unit_interval_or_nan_with_a_reason(data):
    labels, scores, _, groups = data
    found = [intervals.cluster_bootstrap(labels, scores, groups, Bootstrap(draws=50)),
             intervals.delong(labels, scores), intervals.delong(labels, scores, logit=True),
             intervals.interval(labels, scores, groups, Bootstrap(draws=50))]
    for one in found:
        assert one.value == metrics.auc(labels, scores)
        if one.reason:
            assert math.isnan(one.low) and math.isnan(one.high)
        else:
            assert 0 <= one.low < one.high <= 1


@QUICK
@given(grouped(), st.integers(0, 9))
def test_a_weighted_auc_is_the_auc_of_the_repeated_rows(data, seed):
    labels, scores, _, _ = data
    weights = np.random.default_rng(seed).integers(0, 4, (5, len(labels)))
    found = intervals.weighted_auc(labels, scores)(weights.astype(float))
    for row, auc in zip(weights, found, strict=True):
        expected = metrics.auc(np.repeat(labels, row), np.repeat(scores, row))
        assert auc == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_row_of_a_score_table_holds_the_interval_the_eer_and_the_counts():
    labels, scores, groups = drawn(reals=10, fakes=40)
    row = intervals.auc_row(pd.DataFrame({"label": labels, "score": scores, "group": groups}))
    assert (row["AUC"], row["low"], row["high"]) == intervals.newcombe_of(labels, scores)[:3]
    assert (row["interval"], row["reason"]) == ("Newcombe", "")
    assert (row["EER"], row["reals"], row["fakes"]) == (metrics.eer(labels, scores), 10, 40)


def test_rows_that_belong_together_make_the_interval_wider():
    labels, scores, _ = drawn(reals=40, fakes=40)
    copies = np.repeat(np.arange(80), 10)  # ten equal frames of each video
    alone = intervals.cluster_bootstrap(labels, scores, np.arange(80))
    as_groups = intervals.cluster_bootstrap(labels[copies], scores[copies], copies)
    as_rows = intervals.cluster_bootstrap(labels[copies], scores[copies], np.arange(800))
    assert as_groups.high - as_groups.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert as_rows.high - as_rows.low < 0.5 * (as_groups.high - as_groups.low)


def test_the_primary_interval_is_newcombe_until_each_class_has_thirty_groups():
    assert intervals.interval(*drawn(reals=10, fakes=100)).kind == "Newcombe"
    assert intervals.interval(*drawn(reals=58, fakes=100)).kind == "Newcombe"
    assert intervals.interval(*drawn(reals=60, fakes=100)).kind == "cluster bootstrap"
    labels, _, groups = drawn(reals=60, fakes=100)
    perfect = intervals.interval(labels, labels.astype(float), groups)
    assert perfect.kind == "Newcombe" and perfect.low < 1 == perfect.high


@pytest.mark.parametrize(("labels", "scores", "groups", "reason"), [
    ([1, 1, 1], [0.1, 0.2, 0.3], [0, 1, 2], "only fake rows"),
    ([0, 1, 1], [0.1, math.nan, 0.3], [0, 1, 2], "1 of 3 scores are NaN"),
    ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.1], [0, 0, 1, 2], "real videos belong to fewer than two"),
    ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3], "no spread"),
    ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], [0, 1, 2, 3], "no spread")])
def test_a_bootstrap_without_support_is_nan_with_a_reason(labels, scores, groups, reason):
    found = intervals.cluster_bootstrap(labels, scores, groups, Bootstrap(draws=50))
    assert math.isnan(found.low) and reason in found.reason
    text = comparison.compare(labels, scores, scores, groups, Bootstrap(draws=50))
    assert math.isnan(text["low"]) and text["says"].startswith("The difference has no interval")


def test_draws_depend_on_the_seed_alone():
    labels, scores, groups = drawn()
    one, same, other = (intervals.bootstrap_aucs(labels, [scores], groups, Bootstrap(seed=seed))
                        for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any() and one.shape == (2000, 1)


def test_a_bootstrap_of_eleven_thousand_videos_takes_well_under_a_few_seconds():
    labels, scores, groups = drawn(reals=1010, fakes=10_100)
    start = time.perf_counter()
    intervals.cluster_bootstrap(labels, scores, groups)
    assert time.perf_counter() - start < 3  # about 0.4 s on a quiet machine


@pytest.mark.parametrize(("auc", "reals", "fakes"), [
    *[(auc, 10, 100) for auc in (0.8, 0.9, 0.95, 0.98)],
    *[(auc, 140, 140) for auc in (0.8, 0.9, 0.95)]])
def test_newcombe_covers_the_truth_in_94_to_98_of_100_samples(auc, reals, fakes):
    kinds = {name: KINDS[name] for name in ("Newcombe", "DeLong")}
    found = coverage(auc, reals, fakes, kinds, seed=7)["coverage"]
    # one standard error of 1,000 repeats above 98 %
    assert 0.94 <= found["Newcombe"] <= 0.98 + 0.005
    if reals == 10:
        assert found["DeLong"] < 0.92  # why it is not the primary interval


@pytest.mark.parametrize("within", [0.0, 0.3])
def test_the_cluster_bootstrap_keeps_its_confidence_with_seventy_pairs(within):
    kinds = {"cluster bootstrap": KINDS["cluster bootstrap"]}
    found = coverage(0.9, 140, 140, kinds, repeats=400, within=within, seed=3)["coverage"]
    assert 0.93 <= found["cluster bootstrap"] <= 0.98



@QUICK
@given(grouped(), st.integers(0, 3))
def test_a_comparison_turns_its_sign_when_the_models_change_places(data, seed):
    labels, first, second, groups = data
    there = comparison.compare(labels, first, second, groups, Bootstrap(draws=60, seed=seed))
    back = comparison.compare(labels, second, first, groups, Bootstrap(draws=60, seed=seed))
    assert there["difference"] == pytest.approx(-back["difference"], abs=1e-12)
    assert there["p_permutation"] == pytest.approx(back["p_permutation"])
    if not there["reason"]:
        assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]),
                                                              abs=1e-12)
        assert there["detectable"] > 0


def test_the_permutation_agrees_with_all_swaps_of_six_groups():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    first = np.array([1.0, 2, 3, 6, 4, 5, 7, 8])
    second = np.array([1.0, 5, 7, 6, 4, 2, 3, 8])
    groups = np.array([0, 1, 2, 2, 3, 4, 5, 5])
    observed = abs(metrics.auc(labels, first) - metrics.auc(labels, second))
    extreme = 0
    for swaps in itertools.product([False, True], repeat=6):
        swap = np.array(swaps)[groups]
        difference = metrics.auc(labels, np.where(swap, second, first))
        difference -= metrics.auc(labels, np.where(swap, first, second))
        extreme += abs(difference) >= observed - 1e-12
    found = comparison.paired_permutation(labels, first, second, groups, Bootstrap(draws=4000))
    assert found == pytest.approx(extreme / 64, abs=0.03)


def test_a_permutation_does_not_depend_on_the_scales_of_two_models():
    labels, scores, groups = drawn(fakes=40)
    mapped = 100 * scores - 7
    assert comparison.paired_permutation(labels, scores, mapped, groups, Bootstrap(draws=200)) == 1


def test_two_models_far_apart_are_ordered_and_two_near_ones_are_never_called_equal():
    labels, scores, groups = drawn(reals=60, fakes=100, shift=2)
    noise = np.random.default_rng(5).normal(size=len(labels))
    far = comparison.compare(labels, scores, noise, groups)
    assert far["low"] > 0 and far["p_permutation"] < 0.01 and far["p_delong"] < 0.01
    assert far["says"].startswith("The first model ranks these videos better")
    near = comparison.compare(labels, scores, scores + 0.3 * noise, groups)
    assert "do not tell the two models apart" in near["says"]
    assert "no difference" not in near["says"]


def test_the_detectable_difference_is_the_sum_of_two_quantiles():
    found = comparison.detectable_difference(0.01)
    assert found == pytest.approx((1.959964 + 0.841621) * 0.01, abs=1e-8)


def test_models_of_different_length_are_refused():
    with pytest.raises(UserError, match="same videos in the same order"):
        comparison.compare([0, 1], [0.1, 0.2], [0.1], [0, 1])


def test_a_paired_interval_is_students_and_needs_five_groups_of_the_rarer_class():
    labels, first, groups = drawn(reals=5, fakes=40)
    groups = np.concatenate([np.arange(5), np.arange(40)])
    second = first + np.random.default_rng(1).normal(0, 0.5, len(first))
    found = comparison.compare(labels, first, second, groups)
    assert found["low"] < found["difference"] < found["high"]
    low, high = (found["difference"] - found["low"], found["high"] - found["difference"])
    assert low == pytest.approx(high)  # as long as no bound is cut off
    few = comparison.compare(labels[1:], first[1:], second[1:], groups[1:])
    assert math.isnan(few["low"])
    assert few["reason"] == "the rarer class has 4 identity groups, 5 are needed"


@pytest.mark.parametrize("spread", [1.0, 2.5])
def test_a_paired_interval_covers_the_true_difference_with_few_groups(spread):
    assert paired(10, 10, within=0.3, spread=spread, repeats=200) >= 0.91


def equal_models(seed, count, correlation=0.8):
    rng, (labels, _, groups) = np.random.default_rng(seed), drawn()
    common, own = rng.normal(size=len(labels)), rng.normal(size=(count, len(labels)))
    shift = 1.4657 * labels  # AUC 0.85
    return labels, np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own + shift, groups


def test_picking_the_best_of_equal_models_is_optimistic_by_about_what_is_estimated():
    known = power.expected_optimism(27, 0.85, 10, 100, correlation=0.8)["optimism"]
    estimates = [power.optimism_of_best(*equal_models(seed, 27), Bootstrap(draws=200))["optimism"]
                 for seed in range(20)]
    assert known == pytest.approx(0.06, abs=0.01)
    assert np.mean(estimates) == pytest.approx(known, abs=0.02)


def test_the_correlation_is_that_which_reproduces_the_spread():
    spread = power.expected_optimism(27, 0.83, 10, 100, correlation=0.88, repeats=400)["spread"]
    assert power.correlation_of_spread(27, 0.83, 10, 100, spread) == pytest.approx(0.88, abs=0.011)
    assert power.correlation_of_spread(27, 0.83, 10, 100, 0.0) == 0.99
    assert math.isnan(power.correlation_of_spread(27, 0.83, 10, 100, 0.9))


def test_one_model_has_no_optimism_and_one_class_has_a_reason():
    known = power.expected_optimism(1, 0.85, 10, 100, correlation=0.8)["optimism"]
    labels, scores, groups = equal_models(0, 1)
    estimate = power.optimism_of_best(labels, scores, groups)["optimism"]
    assert abs(known) <= 0.01 and abs(estimate) <= 0.02
    fakes = power.optimism_of_best(labels[labels == 1], scores[:, labels == 1], groups)
    assert "only fake" in fakes["reason"]


MATRICES = {
    "best": (93, 5, 7, 5),
    "most_parameters": (84, 3, 16, 7),
    "fewest_parameters": (92, 4, 8, 6),
    "dropout_0": (93, 3, 7, 7),
    "dropout_0.1": (92, 6, 8, 4),
    "lowest_AUC": (72, 3, 28, 7),
    "median_AUC": (81, 2, 19, 8),
    "linear_probe": (88, 8, 12, 2),
    "constant_answer_fake": (100, 10, 0, 0)}


def test_every_reported_video_row_has_exactly_one_confusion_matrix():
    rows = published.decoded().set_index("row")
    found = {name: tuple(row) for name, row in rows[["TP", "FP", "FN", "TN"]].iterrows()}
    assert found == MATRICES
    assert (rows["matrices"] == 1).all()
    assert rows.loc["best", "balanced"] == pytest.approx(0.715)
    assert (rows[["ACC", "F1"]] <= rows.loc["constant_answer_fake", ["ACC", "F1"]]).all(axis=None)


def test_the_reported_frame_rows_leave_a_range_of_matrices():
    rows = published.decoded_frames().set_index("model")
    assert rows.loc[["probe", "lora"], "matrices"].tolist() == [12, 16]
    assert rows.loc["probe", ["TNR lowest", "TNR highest"]].round(2).tolist() == [0.24, 0.25]
    assert rows.loc["lora", ["balanced lowest", "balanced highest"]].round(3).tolist() == [
        0.737, 0.743]
    reported = rows.loc[["probe", "lora"], ["ACC", "F1"]]
    assert (reported < rows.loc[metrics.CONSTANT, ["ACC", "F1"]].astype(float)).all(axis=None)


def test_numbers_that_do_not_belong_together_have_no_confusion_matrix():
    assert published.confusion_from(ACC=0.9999, F1=0.5, positives=100, negatives=10).empty
    two = published.confusion_from(ACC=0.5, F1=0.5, positives=2, negatives=2, decimals=1)
    assert two.to_numpy().tolist() == [[1, 1, 1, 1]]
