"""Folds of whole identity groups, and the protocol that tests each of them once."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfnb import KEY, SPLITS, UserError
from dfnb.data import folds, identity, splits

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=4, max_size=20)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(2, 3), st.integers(0, 4))
def test_folds_keep_groups_whole_and_none_is_empty(rows, count, seed):
    labels, groups = np.array(rows).T
    if len(set(groups)) < count:
        with pytest.raises(UserError, match="folds must be from 2"):
            folds.grouped_folds(labels, groups, count, seed=seed)
        return
    fold = folds.grouped_folds(labels, groups, count, seed=seed)
    assert set(fold) == set(range(count))
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))


def test_folds_spread_each_class_evenly():
    labels = np.repeat([0, 1], [20, 100])
    groups = np.concatenate([np.arange(20), np.arange(100)]) // 2
    fold = folds.grouped_folds(labels, groups, 5)
    assert np.bincount(fold[labels == 0]).tolist() == [4] * 5
    assert np.bincount(fold[labels == 1]).tolist() == [20] * 5


@pytest.fixture
def videos():
    """Thirty reals in closed pairs, each with a swap of two manipulations."""
    rows = [("c", "real", f"{at:03d}", 0, f"{at:03d}", None) for at in range(30)]
    rows += [("c", name, f"{at:03d}_{at ^ 1:03d}", 1, f"{at:03d}", f"{at ^ 1:03d}")
             for name in ("FaceSwap", "NeuralTextures") for at in range(30)]
    return pd.DataFrame(rows, columns=[*KEY, "label", "target", "source"])


def test_the_folds_of_one_seed_test_every_video_once_and_validate_on_the_next_fold(videos):
    tables = [splits.split(videos, "cross", seed=3, fold=fold) for fold in range(5)]
    sets = [{split: set(rows.video) for split, rows in table.groupby("split")} for table in tables]
    assert all(set(one) == set(SPLITS) for one in sets)
    tested = pd.concat(table[table.split == "test"] for table in tables)
    assert len(tested) == len(videos) and not tested.duplicated(KEY).any()
    assert all(sets[fold]["validation"] == sets[(fold + 1) % 5]["test"] for fold in range(5))
    for table in tables:
        identity.check_disjoint(table, videos)
    shuffled = splits.split(videos.sample(frac=1, random_state=0), "cross", seed=3, fold=0)
    pd.testing.assert_frame_equal(shuffled, tables[0])
    other = splits.split(videos, "cross", seed=4, fold=0)
    assert set(other[other.split == "test"].video) != sets[0]["test"]


@pytest.mark.parametrize(("options", "sentence"), [
    ({"folds": 2}, "folds must be at least 3 .* got 2"),
    ({"fold": 5}, "fold must lie between 0 and 4, got 5"),
    ({"folds": 99}, "folds must be from 2 to the number of identity groups .15., got 99")])
def test_folds_that_cannot_be_are_refused(videos, options, sentence):
    with pytest.raises(UserError, match=sentence):
        splits.split(videos, "cross", **options)
