"""The related methods side by side, on small score tables and simple detectors."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from dfnb import experiment, files
from dfnb.data import perturbations
from dfnb.data.crops import CropView
from dfnb.evaluation import method_comparison, published
from dfnb.evaluation.intervals import Bootstrap


def scores(*values, videos=20, split="test"):
    """Reals first, then the kinds A and B, one frame a video; `values` are the scores of each
    class.
    """
    rows = [("c", manipulation, f"{at:03d}", at, 0, int(manipulation != "real"), split, value)
            for manipulation, one in zip(("real", "A", "B"), values, strict=True)
            for at, value in enumerate(np.resize(one, videos))]
    return pd.DataFrame(
        rows,
        columns=["corpus", "manipulation", "video", "group", "frame", "label", "split", "score"])


def trial(*values, trainable=3, validation=([0.2], [0.8], [0.8])):
    table = pd.concat([scores(*values), scores(*validation, split="validation")], ignore_index=True)
    return SimpleNamespace(scores=table, detector=SimpleNamespace(trainable=trainable), seconds=1.0)


def test_every_kind_is_held_against_the_reals():
    rows = method_comparison.table({("s", "m"): trial([0.1, 0.3], [0.9], [0.2])}, ["A", "B", "C"],
                                   Bootstrap(draws=50))
    assert rows.fakes.tolist() == ["A", "B"]  # nothing of C was tested
    assert rows.video_AUC.tolist() == rows.frame_AUC.tolist() == [1, 0.5]
    assert rows.trained.tolist() == [3, 3
                                     ] and rows.reals.tolist() == rows.videos.tolist() == [20, 20]


def test_the_threshold_comes_from_validation():
    """Validation splits at one half; on test every real is above it, so half of the answers are
    wrong.
    """
    rows = method_comparison.table({("s", "m"): trial([0.6], [0.9], [0.9])}, ["A"],
                                   Bootstrap(draws=50))
    assert rows.balanced.tolist() == [0.5] and rows.video_AUC.tolist() == [1]


def test_crops_without_a_score_are_left_out():
    asked = trial([0.1, 0.3], [0.9], [0.2])
    asked.scores.loc[asked.scores.index[::5], "score"] = np.nan
    row = method_comparison.table({("s", "m"): asked}, ["A"], Bootstrap(draws=50)).iloc[0]
    assert row.video_AUC == 1 and row.reals == row.videos == 16


def test_a_difference_is_paired_and_the_reference_has_none():
    generator = np.random.default_rng(0)
    noisy = trial(generator.random(20), generator.random(20) + 0.2, generator.random(20))
    trials = {("s", "LoRA"): noisy, ("s", "same"): noisy, ("s", "sure"): trial([0.1], [0.9], [0.9])}
    rows = method_comparison.differences(trials, ["A"], Bootstrap(draws=200)).set_index("model")
    assert rows.index.tolist() == ["same", "sure"]
    assert rows[["protocol", "fakes", "reals",
                 "videos"]].to_numpy().tolist() == [["s", "A", 20, 20]] * 2
    assert rows.loc["same", "difference"] == 0
    assert rows.loc["sure", "difference"] == pytest.approx(1 - rows.loc["sure", "AUC_second"])


def test_the_words_follow_the_intervals():
    rows = pd.DataFrame({
        "protocol": "study", "fakes": "A", "model": ["good", "bad", "flat", "unclear"], "reals": 10,
        "videos": 20, "video_low": [0.6, 0.1, 0.4, np.nan], "video_high": [0.9, 0.4, 0.6, np.nan]
    })
    assert method_comparison.says(rows) == (
        "- study, A (10 reals, 20 fakes), against the constant answer: above it good; "
        "below it bad; not told apart from it flat, unclear.")


@pytest.mark.parametrize(("there", "asked", "kept"), [
    (8, 4, [0, 2, 4, 6]), (8, 3, [0, 3, 6]), (3, 4, [0, 1, 2]), (5, 1, [0])])
def test_thinning_takes_crops_evenly_from_every_video(there, asked, kept):
    frames = pd.DataFrame({
        "corpus": "c", "manipulation": "real", "video": np.repeat(["0", "1"], there),
        "frame": np.tile(np.arange(there), 2), "label": 0
    })
    view = CropView.of_arrays(np.zeros((2 * there, 8, 8, 3), np.uint8), frames)
    some = method_comparison.thinned(view, asked)
    assert some.frames.groupby("video").frame.agg(list).tolist() == [kept, kept]
    assert some.root is view


class Brightness:
    """Scores a crop by its mean grey level, and keeps a file in the cache."""

    trainable = 0

    def score(self, view):
        files.atomic_write(files.cache() / "seen", str(len(view)))
        return view.images().mean(axis=(1, 2, 3)).astype(np.float32) / 255


@pytest.fixture
def grey():
    """Dark reals and bright fakes, 6 of each."""
    frames = pd.DataFrame({
        "corpus": "c", "manipulation": ["real", "A"] * 6, "video": [f"{at}" for at in range(12)],
        "frame": 0, "label": [0, 1] * 6, "group": range(12)
    })
    levels = np.where(frames.label, 140, 120) + np.arange(12)
    return CropView.of_arrays(
        np.broadcast_to(levels[:, None, None, None], (12, 16, 16, 3)).astype(np.uint8), frames)


def test_robustness_has_every_strength_and_leaves_no_cache_behind(grey, tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    rows = method_comparison.robustness({"bright": Brightness()}, grey,
                                        kinds=["brightness", "noise"])
    assert rows.shape[0] == 12 and rows.query("strength == 0").frame_AUC.tolist() == [1, 1]
    assert rows.query("kind == 'brightness'").frame_AUC.eq(1).all()  # it moves all crops alike
    assert rows.amount.tolist()[:6] == perturbations.KINDS["brightness"].names()
    # the untouched crops; the perturbed ones went elsewhere
    assert (tmp_path / "cache" / "seen").read_text() == "12"
    assert os.environ["DFNB_CACHE"] == str(tmp_path / "cache")


def test_scratch_restores_an_unset_cache(monkeypatch):
    monkeypatch.delenv("DFNB_CACHE", raising=False)
    with pytest.raises(ZeroDivisionError), method_comparison.scratch():
        assert "DFNB_CACHE" in os.environ
        raise ZeroDivisionError
    assert "DFNB_CACHE" not in os.environ


def test_costs_have_a_row_for_each_model_of_the_split(grey):
    trials = {("study", "bright"): trial([0], [1], [1]), ("identity", "bright"): None}
    trials["study", "bright"].detector = Brightness()
    found = method_comparison.costs(trials, "study", grey)
    assert found.index.tolist() == ["bright"
                                    ] and found.seconds.tolist() == [1.0] and found.ms.iloc[0] > 0


def test_maps_are_alike_by_rank():
    maps = np.random.default_rng(0).random((5, 4, 4))
    assert method_comparison.likeness(maps, np.exp(3 * maps)) == pytest.approx(1)
    assert method_comparison.likeness(maps, -maps) == pytest.approx(-1)
    even = np.concatenate([maps, np.ones((1, 4, 4))])
    assert method_comparison.likeness(even, np.concatenate([maps, maps[:1]])) == pytest.approx(1)


def test_models_name_what_they_train_and_the_multimodal_one_waits_for_an_endpoint():
    options = {"lora": {"rank": 4}, "fitting": {"epochs": 1, "batch": 8}, "frames": 4,
               "layernorm_rate": 0.01, "components_rate": 0.02}
    off, on = method_comparison.models(
        **options), method_comparison.models(**options, endpoint="http://localhost:1/v1", model="m")
    assert not off["multimodal"].runs and off["multimodal"].trains == "not run"
    assert on["multimodal"].runs and on["multimodal"].options["base_url"] == "http://localhost:1/v1"
    assert all(one.runs for name, one in off.items() if name != "multimodal")
    assert off["LoRA"].options == {"epochs": 1, "batch": 8, "rank": 4}
    assert [off[name].options["learning_rate"]
            for name in ("LN-tuning", "components")] == [0.01, 0.02]
    assert method_comparison.swapped(off["zero-shot"],
                                     ("real", "fake")).options == {"words": ("fake", "real")}


@pytest.fixture(scope="module")
def bench(corpus, clip_folder, tmp_path_factory):
    """A separate profile that names the corpus and the CLIP of the fixtures, two crops a
    video.
    """
    place, settings = tmp_path_factory.mktemp("bench"), {"root": str(corpus)}
    profile = {"corpus": settings, "crops": {"frames": 2, "size": 64}, "clip": str(clip_folder)}
    (place / "mine.yaml").write_text(yaml.safe_dump(profile))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_PARAMS", str(place))
        patch.setenv("DFNB_CACHE", str(place / "cache"))
        yield experiment.Experiment.open("mine", progress=False)


def test_both_splits_train_on_one_manipulation_alone(bench):
    split_table = method_comparison.both_splits(bench, "FaceSwap", ["NeuralTextures"], 0)
    for table in split_table.values():
        assert set(table.manipulation[table.split != "test"]) == {"real", "FaceSwap"}
        assert "NeuralTextures" in set(table.manipulation[table.split == "test"])


def test_few_shot_trains_as_often_as_asked_and_on_no_more_than_there_is(bench):
    split_table = bench.split("study", seed=0)
    there = method_comparison.splits.training_pairs(split_table, bench.videos)
    models = {"linear probe": method_comparison.Model("probe", "")}
    rows = method_comparison.few_shot(bench, split_table, models, "NeuralTextures",
                                      pairs=[1, len(there), 99], draws=2)
    assert rows[["pairs", "draw"]].to_numpy().tolist() == [[1, 0], [1, 1], [len(there), 0],
                                                           [len(there), 1]]
    whole = rows[rows.pairs == len(there)]
    assert whole.frame_AUC.nunique() == 1  # all pairs are the same pairs, whatever the draw
    assert rows.video_AUC.between(0, 1).all()


def test_reported_numbers_are_marked_with_their_protocol():
    table = published.related()
    assert {"model", "paper", "trained_on", "tested_on", "unit", "AUC"} == set(table)
    assert table.AUC.dropna().between(0, 1).all()
    assert (table.trained_on[table.AUC.notna()] != "").all() and (table.paper != "").all()
    tuned = table.query("model == 'LN-tuning, ViT-L/14'").iloc[0]
    assert (tuned.AUC, tuned.tested_on) == (0.949, "Celeb-DF v2")
