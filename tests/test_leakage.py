"""Gaps, shifts and naming on scores made by hand; the planted leak of the demo world is found."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dfnb import config, experiment
from dfnb.data.crops import CropView
from dfnb.evaluation import comparison, leakage
from dfnb.evaluation.intervals import Bootstrap


def table(design: str, scores, *, split_seed: int = 0, model: str = "m",
          fakes: str = "FaceSwap") -> pd.DataFrame:
    """Test scores of one design: first half real, second half fake, a group each, one frame a
    video.
    """
    label = np.arange(len(scores)) * 2 // len(scores)
    return pd.DataFrame({
        "corpus": "c", "manipulation": np.where(label, fakes, "real"), "video": [
            f"{split_seed}{at:02d}" for at in range(len(scores))
        ], "group": 100 * split_seed + np.arange(len(scores)), "split": "test", "frame": 0,
        "label": label, "score": scores, "split_seed": split_seed, "model": model, "design": design
    })


def both(scores, leaked, **options) -> pd.DataFrame:
    return pd.concat([table("frame", leaked, **options), table("identity", scores, **options)])


def test_the_gap_is_the_mean_over_folds_of_auc_differences():
    # AUC 0.75, then 1
    scores = pd.concat([both([0.1, 0.6, 0.4, 0.9], [0.1, 0.3, 0.4, 0.9], split_seed=0),
                        # AUC 0.25, then 0.5
                        both([0.6, 0.2, 0.4, 0.1], [0.6, 0.2, 0.7, 0.1], split_seed=1)])
    found = leakage.gaps(scores, "FaceSwap", Bootstrap(draws=50)).set_index("design")
    assert found.AUC.to_dict() == {"frame": 0.75, "identity": 0.5}
    assert found.gap["frame"] == 0.25 and found.by_split["frame"] == [0.25, 0.25]
    assert found.gap["identity"] == 0 and np.isnan(found.gap_low["identity"])
    assert (found.low < found.AUC).all() and (found.high > found.AUC).all()


def test_on_one_fold_the_gap_has_the_interval_of_the_paired_bootstrap():
    rng = np.random.default_rng(0)
    scores, leaked = rng.random((2, 60))
    leaked[30:] = np.minimum(leaked[30:] + 0.3, 1)
    found = leakage.gaps(both(scores, leaked), "FaceSwap", Bootstrap(draws=4000)).iloc[0]
    label = np.arange(60) * 2 // 60
    expected = comparison.compare(label, leaked, scores, np.arange(60), Bootstrap(draws=4000))
    assert found.gap == pytest.approx(expected["difference"])
    bounds = expected["low"], expected["high"]
    assert (found.gap_low, found.gap_high) == pytest.approx(bounds, abs=0.02)


def test_other_manipulations_do_not_enter_a_gap():
    scores = both([0.1, 0.2, 0.8, 0.9], [0.1, 0.2, 0.8, 0.9])
    other = both([0.5, 0.5], [0.5, 0.0], fakes="NeuralTextures").query("label == 1")
    found = leakage.gaps(pd.concat([scores, other]), "FaceSwap", Bootstrap(draws=20))
    assert found.AUC.tolist() == [1.0, 1.0]


def test_arms_that_test_different_videos_are_refused():
    scores = both([0.1, 0.2, 0.8, 0.9], [0.1, 0.2, 0.8, 0.9])
    with pytest.raises(ValueError, match="same videos"):
        leakage.gaps(scores[~((scores.design == "frame") & (scores.video == "000"))], "FaceSwap")


def test_a_shift_is_told_in_deviations_of_the_validation_logits():
    def sigmoid(logits):
        return 1 / (1 + np.exp(-np.asarray(logits, float)))

    # mean 0, deviation sqrt(2)
    checked = both(sigmoid([-1, 1]), sigmoid([-1, 1])).assign(split="validation")
    moved = pd.concat([both(sigmoid([0, 0, 0, 0]), sigmoid([-2, -1, 1, 3])), checked])
    found = leakage.shifts(moved, Bootstrap(draws=50)).set_index("manipulation")["shift"]
    assert found.to_dict() == pytest.approx({"real": -1.5 / 2**0.5, "FaceSwap": 2.0 / 2**0.5})


def test_a_bolder_or_more_suspicious_detector_does_not_shift():
    logits = np.array([-1.0, 0.5, 0.2, 2.0])
    bolder = 3 * logits + 2
    rows = [1 / (1 + np.exp(-values)) for values in (logits, bolder)]
    scores = both(*rows)
    found = leakage.shifts(pd.concat([scores, scores.assign(split="validation")]),
                           Bootstrap(draws=50))
    np.testing.assert_allclose(found["shift"], 0, atol=1e-9)


def test_the_words_follow_the_intervals():
    rows = [("frame", 0.1, 0.05, 0.2), ("video", -0.1, -0.2, -0.05), ("target", -0.1, -0.2, 0.05),
            ("identity", 0, np.nan, np.nan)]
    found = leakage.says(pd.DataFrame(rows, columns=["design", "gap", "gap_low", "gap_high"])
                         .assign(model="LoRA", fakes="FaceSwap")).splitlines()
    expected = "LoRA, frame (leaky: frames of the same video), FaceSwap: +0.100 (+0.050 to +0.200)"
    assert expected in found[0]
    assert "video (leaky" in found[1] and "frame (leaky" not in found[1]
    assert "1 of 3 gaps, 1 of them below zero" in found[2]


def test_where_the_auc_fell_stands_how_each_class_moved():
    rows = [("frame", 0.1, -0.1, 0.2), ("video", -0.1, -0.2, -0.05),
            ("identity", 0, np.nan, np.nan)]
    gaps = pd.DataFrame(rows, columns=["design", "gap", "gap_low", "gap_high"]).assign(
        model="LoRA", fakes="FaceSwap", AUC=0.5, low=0.4, high=0.6, by_split=None)
    shifts = pd.DataFrame({
        "model": "LoRA", "design": "video", "manipulation": ["real", "FaceSwap"],
        "shift": [0.5, -1.5]
    })
    fell = leakage.lowered(gaps, shifts)
    assert fell.index.tolist() == [("FaceSwap", "LoRA", "video (leaky: scene and face)")]
    assert fell.iloc[0].to_dict() == {"gap": -0.1, "clear": True, "reals": 0.5, "its_fakes": -1.5}
    table = leakage.side_by_side(gaps)
    assert table.index.tolist()[0] == ("LoRA", "frame (leaky: frames of the same video)")
    assert table["FaceSwap", "gap"].tolist() == [0.1, -0.1, 0]


@pytest.fixture
def people():
    """Four frames of three real videos and of their swaps; group = target."""
    ids = ["a", "b", "c"]
    rows = [("c", "real", name, 0, name, None, at) for at, name in enumerate(ids)]
    rows += [("c", "FaceSwap", f"{a}_{b}", 1, a, b, at)
             for at, (a, b) in enumerate(zip(ids, "bca", strict=True))]
    videos = pd.DataFrame(
        rows, columns=["corpus", "manipulation", "video", "label", "target", "source", "group"])
    frames = videos.merge(pd.DataFrame({"frame": range(4)}), how="cross")
    return CropView.of_arrays(np.zeros((len(frames), 8, 8, 3), np.uint8), frames)


@pytest.mark.parametrize(("column", "right"), [("target", [1, 1, 0]), ("source", [1, 0, 1])])
def test_naming_finds_the_scene_in_scene_features_and_the_face_in_face_features(
        people, column, right):
    seen = people.frames[column].fillna(people.frames.target)
    features = (seen.to_numpy()[:, None] == np.array(["a", "b", "c"])).astype(np.float32)  # (n, 3)
    found = leakage.naming(SimpleNamespace(features=lambda view: features), people,
                           Bootstrap(draws=20))
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
    words = leakage.finds(found).splitlines()
    assert len(words) == 2 and "frame (leaky" in words[0] and ": raised, +0." in words[0]
