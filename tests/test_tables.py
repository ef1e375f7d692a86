"""Test the tables of several models on several splits, on scores counted by hand."""

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError
from dfnb.evaluation import tables
from dfnb.evaluation.intervals import Bootstrap


def score_table(model, split_seed, reals, fakes):
    """Return two frames a video of equal scores, with the same videos in validation and in test."""
    rows = [("real", f"{at:03d}", at, 0, score) for at, score in enumerate(reals)]
    rows += [("FaceSwap", f"{at:03d}_{at + 1:03d}", at, 1, score) for at, score in enumerate(fakes)]
    table = pd.DataFrame(rows, columns=["manipulation", "video", "group", "label", "score"]).assign(
        corpus="demo", model=model, split_seed=split_seed)
    return pd.concat([table.assign(split=split, frame=frame)
                      for split in ("validation", "test") for frame in (0, 5)], ignore_index=True)


@pytest.fixture
def scores():
    return pd.concat([
        score_table("good", 0, [0.1, 0.2], [0.8, 0.9, 0.7]),
        score_table("good", 1, [0.1, 0.75], [0.8, 0.9, 0.7]),
        score_table("poor", 0, [0.5, 0.6], [0.4, 0.55, 0.7]),
        score_table("poor", 1, [0.6, 0.5], [0.4, 0.55, 0.7]),
    ], ignore_index=True)


def test_each_model_split_and_unit_has_its_row(scores):
    per_split = tables.by_split(scores)
    video = tables.chosen(per_split, "video").set_index(["model", "split_seed"])
    assert video.AUC["good", 0] == 1.0
    assert video.AUC["good", 1] == pytest.approx(5 / 6)  # one of six pairs is the wrong way round
    assert video.AUC["poor", 0] == pytest.approx(3 / 6)  # of .4, .55, .7 against .5 and .6
    assert len(tables.chosen(per_split, "frame")) == len(video) == 4


def test_means_stand_beside_the_extremes_and_the_constant_answer(scores):
    table = tables.over_splits(tables.by_split(scores))
    good = table.loc["video", "good"]
    assert (good.lowest, good.highest, good.fits) == (0.833, 1.0, 2)
    assert pytest.approx((1 + 5 / 6) / 2, abs=1e-3) == good.AUC
    constant = table.loc["video", tables.CONSTANT]
    assert (constant.ACC, constant.AUC, constant.balanced) == (0.6, 0.5, 0.5)


def test_the_answer_words_the_mean_over_the_fits(scores):
    words = tables.answer(tables.by_split(scores), "good")
    assert words.startswith("The good has a video AUC of 0.917, the mean of 2 fits, from 0.833 to")


def test_other_manipulations_are_tested_against_the_same_reals(scores):
    extra = scores[(scores.manipulation == "FaceSwap") & (scores.split == "test")].assign(
        manipulation="Deepfakes", score=0.0)
    table = tables.by_manipulation(pd.concat([scores, extra]), ["FaceSwap", "Deepfakes"])
    alone = tables.over_splits(tables.by_split(scores))
    pd.testing.assert_frame_equal(table.loc["FaceSwap"], alone)
    assert table.loc[("Deepfakes", "video", "good"), "AUC"] == 0.0  # all below every real
    assert tables.by_manipulation(scores, []).empty


def test_another_corpus_is_tested_at_the_threshold_from_home(scores):
    foreign = score_table("good", 0, [0.1, 0.95], [0.8, 0.9, 0.2]).query("split == 'test'").assign(
        tested="else", corpus="c")
    row = tables.across(foreign, scores).iloc[0]
    assert row[["tested", "model", "reals", "fakes"]].tolist() == ["else", "good", 2, 3]
    assert pytest.approx(3 / 6) == row.AUC
    assert row.balanced == pytest.approx((1 / 2 + 2 / 3) / 2)  # threshold between .2 and .7


def test_paired_differences_are_those_of_the_same_videos(scores):
    paired = tables.paired(scores, "good", "poor", Bootstrap(draws=200))
    assert paired.split_seed.tolist() == [0, 1]
    np.testing.assert_allclose(paired.difference, [0.5, 5 / 6 - 0.5])
    assert set(paired.fakes) == {3}


def test_an_unknown_model_is_named(scores):
    with pytest.raises(UserError, match=r"no scores of LoRA, only of good, poor"):
        tables.paired(scores, "LoRA", "poor")
