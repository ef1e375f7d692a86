"""Gaps, shifts and naming on scores made by hand; the planted leak of the demo world is found."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from dfnb import config, experiment
from dfnb.data.crops import CropView
from dfnb.evaluation import comparison, leakage
from dfnb.evaluation.intervals import Bootstrap


def table(design: str, scores, *, split_seed: int = 0, fakes: str = "FaceSwap") -> pd.DataFrame:
    """Return test scores of a design: half real, half fake, with a group and a frame per video."""
    at = np.arange(len(scores))
    label = at * 2 // len(scores)
    return pd.DataFrame({
        "corpus": "c", "manipulation": np.where(label, fakes, "real"), "label": label,
        "video": [f"{split_seed}{video:02d}" for video in at], "group": 100 * split_seed + at,
        "split": "test", "frame": 0, "score": scores, "split_seed": split_seed, "model": "m",
        "design": design})


def both(scores, leaked, **options) -> pd.DataFrame:
    return pd.concat([table("frame", leaked, **options), table("identity", scores, **options)])


@pytest.fixture
def perfect():
    """Scores of both designs that rank four videos without an error."""
    return both([0.1, 0.2, 0.8, 0.9], [0.1, 0.2, 0.8, 0.9])


def test_the_gap_is_the_mean_over_folds_of_auc_differences():
    first = both([0.1, 0.6, 0.4, 0.9], [0.1, 0.3, 0.4, 0.9], split_seed=0)  # AUC 0.75, then 1
    second = both([0.6, 0.2, 0.4, 0.1], [0.6, 0.2, 0.7, 0.1], split_seed=1)  # AUC 0.25, then 0.5
    found = leakage.gaps(pd.concat([first, second]), "FaceSwap", Bootstrap(draws=50))
    found = found.set_index("design")
    assert found.AUC.to_dict() == {"frame": 0.75, "identity": 0.5}
    assert found.gap["frame"] == 0.25 and found.by_split["frame"] == [0.25, 0.25]
    assert found.gap["identity"] == 0 and np.isnan(found.gap_low["identity"])
    assert (found.low < found.AUC).all() and (found.high > found.AUC).all()


def test_on_one_fold_the_gap_has_the_interval_of_the_paired_bootstrap():
    scores, leaked = np.random.default_rng(0).random((2, 60))
    leaked[30:] = np.minimum(leaked[30:] + 0.3, 1)
    found = leakage.gaps(both(scores, leaked), "FaceSwap", Bootstrap(draws=4000)).iloc[0]
    label = np.arange(60) * 2 // 60
    expected = comparison.compare(label, leaked, scores, np.arange(60), Bootstrap(draws=4000))
    assert found.gap == pytest.approx(expected["difference"])
    bounds = expected["low"], expected["high"]
    assert (found.gap_low, found.gap_high) == pytest.approx(bounds, abs=0.02)


def test_other_manipulations_do_not_enter_a_gap(perfect):
    other = both([0.5, 0.5], [0.5, 0.0], fakes="NeuralTextures").query("label == 1")
    found = leakage.gaps(pd.concat([perfect, other]), "FaceSwap", Bootstrap(draws=20))
    assert found.AUC.tolist() == [1.0, 1.0]


def test_designs_that_test_different_videos_are_refused(perfect):
    lost = (perfect.design == "frame") & (perfect.video == "000")
    with pytest.raises(ValueError, match="same videos"):
        leakage.gaps(perfect[~lost], "FaceSwap")


def test_a_shift_is_measured_in_deviations_of_the_validation_logits():
    checked = both(expit([-1, 1]), expit([-1, 1])).assign(split="validation")  # 0, sqrt(2)
    moved = pd.concat([both(expit([0, 0, 0, 0]), expit([-2, -1, 1, 3])), checked])
    found = leakage.shifts(moved, Bootstrap(draws=50)).set_index("manipulation")["shift"]
    assert found.to_dict() == pytest.approx({"real": -1.5 / 2**0.5, "FaceSwap": 2.0 / 2**0.5})


def test_logits_that_are_only_scaled_and_moved_do_not_shift():
    logits = np.array([-1.0, 0.5, 0.2, 2.0])
    scores = both(expit(logits), expit(3 * logits + 2))
    checked = scores.assign(split="validation")
    found = leakage.shifts(pd.concat([scores, checked]), Bootstrap(draws=50))
    np.testing.assert_allclose(found["shift"], 0, atol=1e-9)


@pytest.fixture
def gaps():
    """Gaps of four designs: one above zero, one below zero, one unclear, and the reference."""
    rows = [("frame", 0.1, 0.05, 0.2), ("video", -0.1, -0.2, -0.05), ("target", -0.1, -0.2, 0.05),
            ("identity", 0, np.nan, np.nan)]
    table = pd.DataFrame(rows, columns=["design", "gap", "gap_low", "gap_high"])
    return table.assign(model="LoRA", fakes="FaceSwap", AUC=0.5, low=0.4, high=0.6, by_split=None)


def test_the_words_follow_the_intervals(gaps):
    up, down, unclear = leakage.describe(gaps).splitlines()
    assert "LoRA, frame (leaky: frames of the same video), FaceSwap: +0.100 (+0.050 to " in up
    assert "video (leaky" in down and "frame (leaky" not in down
    assert "1 of 3 gaps, 1 of them below zero" in unclear


def test_the_shift_of_each_class_stands_beside_an_auc_that_fell(gaps):
    gaps = gaps[gaps.design != "target"]
    shifts = pd.DataFrame({"model": "LoRA", "design": "video", "shift": [0.5, -1.5],
                           "manipulation": ["real", "FaceSwap"]})
    fell = leakage.lowered(gaps, shifts)
    assert fell.index.tolist() == [("FaceSwap", "LoRA", "video (leaky: scene and face)")]
    assert fell.iloc[0].to_dict() == {"gap": -0.1, "clear": True, "reals": 0.5, "its_fakes": -1.5}
    table = leakage.side_by_side(gaps)
    assert table.index.tolist()[0] == ("LoRA", "frame (leaky: frames of the same video)")
    assert table["FaceSwap", "gap"].tolist() == [0.1, -0.1, 0]


@pytest.fixture
def people():
    """Four frames of three real videos and of their swaps; group = target."""
    names = ["corpus", "manipulation", "video", "label", "target", "source", "group"]
    rows = [("c", "real", name, 0, name, None, at) for at, name in enumerate("abc")]
    rows += [("c", "FaceSwap", f"{a}_{b}", 1, a, b, at)
             for at, (a, b) in enumerate(("ab", "bc", "ca"))]
    frames = pd.DataFrame(rows, columns=names).merge(pd.DataFrame({"frame": range(4)}), how="cross")
    return CropView.of_arrays(np.zeros((len(frames), 8, 8, 3), np.uint8), frames)


@pytest.mark.parametrize(("column", "right"), [("target", [1, 1, 0]), ("source", [1, 0, 1])])
def test_naming_finds_the_scene_in_scene_features_and_the_face_in_face_features(
        people, column, right):
    seen = people.frames[column].fillna(people.frames.target)
    features = (seen.to_numpy()[:, None] == np.array(["a", "b", "c"])).astype(np.float32)  # (n, 3)
    detector = SimpleNamespace(features=lambda view: features)
    found = leakage.naming(detector, people, Bootstrap(draws=20))
    assert found.accuracy.tolist() == right
    assert found.chance.tolist() == [1 / 3] * 3 and found.frames.tolist() == [6, 12, 12]


def test_a_planted_cue_is_found_where_frames_are_split_and_not_where_identities_are(
        tmp_path, monkeypatch):
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path))
    worlds = experiment.planted_worlds(config.load("smoke"), 30, identities=40, frames=6, seed=5)
    trials = leakage.planted(worlds, ("frame", "identity"), seeds=range(3),
                             model=worlds["cue on"].clip)
    found = leakage.gaps(leakage.collect(trials), "NeuralTextures", Bootstrap(draws=200),
                         reference="cue off")
    leaky, strict = (found[(found.design == "cue on") & (found.model == name)].iloc[0]
                     for name in trials)
    assert leaky.gap_low > 0 and leaky.AUC > 0.8
    assert strict.gap_low < 0 < strict.gap_high or abs(strict.gap) < 0.1
    words = leakage.describe_planted(found).splitlines()
    assert len(words) == 2 and "frame (leaky" in words[0] and ": raised, +0." in words[0]


def test_the_answer_counts_the_gaps_that_are_clear_of_zero():
    gaps = pd.DataFrame({"model": ["one", "two"] * 2, "design": ["frame"] * 2 + ["video"] * 2,
                         "gap_low": [0.1, -0.1, -0.4, np.nan],
                         "gap_high": [0.3, 0.2, -0.1, np.nan]})
    words = leakage.answer(gaps)
    assert "same video) raises the AUC in 1 and lowers it in 0 of 2 comparisons" in words
    assert "scene and face) raises the AUC in 0 and lowers it in 1 of 2 comparisons" in words
