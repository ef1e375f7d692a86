"""Statistics of cross-fitted detectors: by hand, by properties, and by coverage in simulation."""

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError
from dfnb.evaluation import cross_fitting, intervals, metrics
from dfnb.evaluation.intervals import Bootstrap
from tools.coverage import cross_fitted

FEW = Bootstrap(draws=200)


def videos(groups=20, folds=4, seed=0, shift=1.0) -> pd.DataFrame:
    """Return two reals and two fakes of each identity group, with binormal scores."""
    rng, group = np.random.default_rng(seed), np.tile(np.repeat(np.arange(groups), 2), 2)
    label = np.repeat([0, 1], 2 * groups)
    return pd.DataFrame({"corpus": "c", "manipulation": np.where(label, "FaceSwap", "real"),
                         "video": np.arange(4 * groups).astype(str), "label": label,
                         "group": group, "fold": group % folds,
                         "score": rng.standard_normal(4 * groups) + shift * label})


def test_folds_count_by_their_pairs_of_a_real_and_a_fake():
    table = pd.DataFrame({  # AUC 1 of 2 pairs, AUC 0.5 of 4 pairs
        "fold": [0] * 3 + [1] * 4, "label": [0, 1, 1, 0, 0, 1, 1], "group": range(7),
        "score": [0.1, 0.2, 0.3, 0.4, 0.6, 0.5, 0.5]})
    found = cross_fitting.auc(table, FEW)
    assert found.value == pytest.approx((2 * 1 + 4 * 0.5) / 6)
    assert np.isnan(found.low) and "are too few" in found.reason


def test_in_one_fold_it_is_the_plain_auc():
    table = videos(folds=1)
    found = cross_fitting.auc(table, FEW)
    assert found.value == pytest.approx(metrics.auc(table.label, table.score))
    assert 0 < found.low < found.value < found.high < 1


def test_offsets_between_folds_change_nothing_here_and_lower_the_pooled_auc():
    table = videos()
    moved = table.assign(score=table.score + 3 * table.fold)
    assert cross_fitting.auc(moved, FEW)[:3] == pytest.approx(cross_fitting.auc(table, FEW)[:3])
    assert metrics.auc(moved.label, moved.score) < metrics.auc(table.label, table.score) - 0.1


def test_a_difference_is_paired_and_turns_its_sign():
    first, second = videos(shift=2.0), videos(shift=0.5)  # the same noise
    there, back = (cross_fitting.difference(*pair, FEW) for pair in
                   ((first, second), (second, first)))
    of_each = [cross_fitting.auc(table, FEW).value for table in (first, second)]
    assert there.value == pytest.approx(of_each[0] - of_each[1])
    assert back[:3] == pytest.approx((-there.value, -there.high, -there.low))
    unpaired = cross_fitting.difference(first, videos(seed=1, shift=0.5), FEW)
    assert there.high - there.low < unpaired.high - unpaired.low
    same = cross_fitting.difference(first, first, FEW)
    assert same.value == 0 and np.isnan(same.low) and "no spread" in same.reason


def test_the_table_has_every_measure_of_every_model():
    table = cross_fitting.table({name: videos(shift=shift).assign(threshold=0.5)
                                 for name, shift in (("weak", 0.2), ("strong", 2.0))}, FEW)
    assert table.measure.tolist() == 2 * ["AUC", "EER", "balanced", "ACC", "F1", "pooled AUC"]
    wide = table.pivot(index="measure", columns="model", values="value")
    assert (wide.strong > wide.weak).drop("EER").all() and wide.strong.EER < wide.weak.EER
    assert table[table.measure != "pooled AUC"][["low", "high"]].notna().all(axis=None)


@pytest.mark.parametrize("digits", [1, 8])
def test_in_one_fold_the_eer_is_the_plain_one_with_and_without_ties(digits):
    table = videos(folds=1, seed=3).round({"score": digits})
    whole = metrics.eer(table.label, table.score)
    assert cross_fitting.eer(table, FEW).value == pytest.approx(whole)
    weight = np.random.default_rng(0).integers(0, 3, len(table))
    of = cross_fitting.weighted_eer(table.label.to_numpy(), table.score.to_numpy())
    drawn = of(weight[None])
    repeated = table.loc[table.index.repeat(weight)]
    assert drawn[0] == pytest.approx(metrics.eer(repeated.label, repeated.score))


def fits(draws=2, seeds=2) -> pd.DataFrame:
    """Return cross-fitted frames of a strong and a weak model; the weak one has one seed."""
    models = (("LoRA", 2.0, seeds), ("probe", 0.2, 1))
    found = [videos(seed=10 * draw + seed, shift=shift).assign(
        model=model, draw=draw, seed=seed, frame=0, threshold=0.5, split="test")
        for draw in range(draws) for model, shift, count in models for seed in range(count)]
    return pd.concat(found, ignore_index=True)


def test_models_are_compared_within_each_draw_and_seed():
    table = cross_fitting.compare(fits(), "LoRA", "probe", FEW)
    assert table[["draw", "seed"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert table.probe.nunique() == 2  # its only seed serves both of LoRA
    np.testing.assert_allclose(table.difference, table.LoRA - table.probe)
    same = cross_fitting.verdict(table, "LoRA", "probe")
    assert "2 draws of the folds and 2 training seeds" in same
    assert same.endswith("So LoRA ranks these videos better than the probe.")


@pytest.mark.parametrize(("change", "words"), [
    ({"low": [-0.1] * 2}, "does not decide"), ({"difference": [0.2, -0.1]}, "does not decide"),
    ({}, "better than the probe")])
def test_an_order_needs_the_interval_and_every_draw(change, words):
    table = pd.DataFrame({"draw": [0, 1], "seed": 0, "difference": [0.2, 0.1], "low": 0.1,
                          "high": 0.3, "reason": ""}).assign(**change)
    assert words in cross_fitting.verdict(table, "LoRA", "probe")
    assert "does not decide" in cross_fitting.verdict(table[:1], "LoRA", "probe")


def test_the_spread_tells_draws_of_the_folds_from_training_seeds():
    table = cross_fitting.spread(fits(), "FaceSwap")
    assert table.loc["LoRA", ["draws", "seeds"]].tolist() == [2, 2]
    aucs = cross_fitting.compare(fits(), "LoRA", "probe", FEW).LoRA.to_numpy().reshape(2, 2)
    assert table.loc["LoRA", "sd_draws"] == pytest.approx(aucs.mean(axis=1).std(ddof=1))
    assert table.loc["LoRA", "sd_seeds"] == pytest.approx(aucs.var(axis=1, ddof=1).mean() ** 0.5)
    assert np.isnan(table.loc["probe", "sd_seeds"])


def test_videos_are_compared_with_their_frames_on_the_same_draws():
    one = cross_fitting.levels(fits(), "FaceSwap", FEW)
    assert one["video - frame"].tolist() == [0, 0]  # each video has one frame
    rng = np.random.default_rng(0)
    frames = pd.concat([fits().assign(frame=at, score=lambda rows: rows.score + rng.normal(
        0, 1.5, len(rows))) for at in range(6)], ignore_index=True)
    table = cross_fitting.levels(frames, "FaceSwap", FEW)
    assert (table.low < table["video - frame"]).all() and (table["video - frame"] > 0.02).all()


def test_other_videos_or_folds_are_refused():
    table = videos()
    for other in (table.iloc[1:], table.assign(fold=(table.fold + 1) % 4)):
        with pytest.raises(UserError, match="the same videos in the same folds"):
            cross_fitting.difference(table, other, FEW)


@pytest.mark.parametrize("name", metrics.RATES)
def test_a_rate_counts_each_video_at_the_threshold_of_its_fold(name):
    table = videos().assign(threshold=lambda rows: 0.2 * rows.fold)
    found = cross_fitting.rates(table, FEW)[name]
    answers = (table.score >= table.threshold).astype(float)
    assert found.value == pytest.approx(metrics.at_threshold(table.label, answers, 0.5)[name])
    assert found.low < found.value < found.high


def test_no_interval_of_a_rate_reaches_above_one():
    table = videos(groups=10, folds=2, shift=2.5).assign(threshold=1.0)
    found = cross_fitting.rates(table, FEW)["ACC"]
    assert 0.9 < found.value < found.high == 1


def test_many_videos_are_drawn_in_pieces(monkeypatch):
    table, whole = videos(), cross_fitting.auc(videos(), FEW)
    monkeypatch.setattr(intervals, "CHUNK", 3 * len(table))
    pieces = cross_fitting.auc(table, FEW)
    assert pieces.value == whole.value and pieces.low == pytest.approx(whole.low, abs=0.02)


@pytest.mark.parametrize("groups", [10, 50])
def test_the_intervals_cover_the_true_values_of_fitted_detectors(groups):
    found = cross_fitted(groups, within=0.3, repeats=300, seed=4)
    assert found.between(0.93, 0.99).all()
