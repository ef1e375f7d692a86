"""The related methods side by side, on small score tables and simple detectors."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from dfnb import experiment, files
from dfnb.data import perturbations, splits
from dfnb.data.crops import CropView
from dfnb.evaluation import few_samples, method_comparison, published
from dfnb.evaluation.intervals import Bootstrap

FEW = Bootstrap(draws=50)


def scores(*values, videos=20, split="test"):
    """Return a frame of each video with the scores of reals, then those of the kinds A and B."""
    names = ["corpus", "manipulation", "video", "group", "frame", "label", "split", "score"]
    return pd.DataFrame(
        [("c", kind, f"{at:03d}", at, 0, int(kind != "real"), split, value)
         for kind, one in zip(("real", "A", "B"), values, strict=True)
         for at, value in enumerate(np.resize(one, videos))], columns=names)


def trial(*values):
    """Return a trial with these test scores, whose validation puts the threshold at one half."""
    checked = scores([0.2], [0.8], [0.8], split="validation")
    table = pd.concat([scores(*values), checked], ignore_index=True)
    return SimpleNamespace(scores=table, detector=SimpleNamespace(trainable=3), seconds=1.0)


def test_every_kind_is_compared_with_the_reals():
    trials = {("s", "m"): trial([0.1, 0.3], [0.9], [0.2])}
    rows = method_comparison.table(trials, ["A", "B", "C"], FEW)
    assert rows.fakes.tolist() == ["A", "B"]  # nothing of C was tested
    assert rows.video_AUC.tolist() == rows.frame_AUC.tolist() == [1, 0.5]
    assert rows.trained.tolist() == [3, 3]
    assert rows.reals.tolist() == rows.videos.tolist() == [20, 20]


def test_the_threshold_comes_from_validation():
    """On test every real lies above it, so half of the answers are wrong."""
    rows = method_comparison.table({("s", "m"): trial([0.6], [0.9], [0.9])}, ["A"], FEW)
    assert rows.balanced.tolist() == [0.5] and rows.video_AUC.tolist() == [1]


def test_crops_without_a_score_are_left_out():
    asked = trial([0.1, 0.3], [0.9], [0.2])
    asked.scores.loc[asked.scores.index[::5], "score"] = np.nan
    row = method_comparison.table({("s", "m"): asked}, ["A"], FEW).iloc[0]
    assert row.video_AUC == 1 and row.reals == row.videos == 16


def test_a_difference_is_paired_and_the_reference_has_none():
    draw = np.random.default_rng(0).random
    noisy = trial(draw(20), draw(20) + 0.2, draw(20))
    trials = {("s", "LoRA"): noisy, ("s", "same"): noisy, ("s", "sure"): trial([0.1], [0.9], [0.9])}
    rows = method_comparison.differences(trials, ["A"], Bootstrap(draws=200)).set_index("model")
    assert rows.index.tolist() == ["same", "sure"]
    names = rows[["protocol", "fakes", "reals", "videos"]]
    assert names.to_numpy().tolist() == [["s", "A", 20, 20]] * 2
    assert rows.loc["same", "difference"] == 0
    assert rows.loc["sure", "difference"] == pytest.approx(1 - rows.loc["sure", "AUC_second"])


def test_the_words_follow_the_intervals():
    rows = pd.DataFrame({
        "protocol": "study", "fakes": "A", "model": ["good", "bad", "flat", "unclear"], "reals": 10,
        "videos": 20, "video_low": [0.6, 0.1, 0.4, np.nan], "video_high": [0.9, 0.4, 0.6, np.nan]})
    assert method_comparison.describe(rows) == (
        "- study, A (10 reals, 20 fakes), against the constant answer: above it good; "
        "below it bad; undecided flat.")  # without an interval there is no statement
    assert "above it good" in method_comparison.answer(rows, "The rest.")


def test_statements_hold_for_all_models_of_a_panel_together():
    """Two models and the constant answer: each interval has the confidence 0.975."""
    draw = np.random.default_rng(0).random
    trials = {("s", name): trial(draw(20), draw(20) + 0.2, draw(20)) for name in ("one", "two")}
    trials["s", "always fake"] = trial([0.5], [0.5], [0.5])
    plain, wide = (of(trials, ["A"], Bootstrap(draws=200)).set_index("model")
                   for of in (method_comparison.table, method_comparison.simultaneous))
    exact = method_comparison.table(trials, ["A"], Bootstrap(0.975, draws=200)).set_index("model")
    pd.testing.assert_frame_equal(wide, exact)
    assert (wide.video_low < plain.video_low)[:2].all()
    assert plain.loc["always fake", ["video_AUC", "EER"]].tolist() == [0.5, 0.5]
    assert plain.loc["always fake", ["video_low", "frame_high"]].isna().all()


def test_the_best_two_are_compared_directly():
    draw = np.random.default_rng(0).random
    trials = {("s", "poor"): trial(draw(20), draw(20), draw(20)),
              ("s", "sure"): trial([0.1], [0.9], [0.9]),
              ("s", "good"): trial(draw(20), draw(20) + 0.5, draw(20))}
    words = method_comparison.best_two(trials, "s", "A", Bootstrap(draws=200))
    assert words.startswith("The largest AUC is that of sure, then good")


def test_few_draws_of_pairs_have_students_interval():
    curves = pd.DataFrame({"model": "m", "pairs": [10] * 3 + [25] * 2,
                           "frame_AUC": [0.6, 0.7, 0.8, 0.7, 0.9]})
    table = few_samples.few_shot_table(curves).loc["m"]
    half = 4.3027 * 0.1 / 3 ** 0.5  # t(2) at .975
    assert table.loc[10, ["low", "mean", "high"]].tolist() == pytest.approx(
        [0.7 - half, 0.7, 0.7 + half], abs=1e-4)
    assert table.loc[25, ["low", "high"]].isna().all()


@pytest.mark.parametrize(("there", "wanted", "kept"), [
    (8, 4, [0, 2, 4, 6]), (8, 3, [0, 3, 6]), (3, 4, [0, 1, 2]), (5, 1, [0])])
def test_thinning_takes_crops_evenly_from_every_video(there, wanted, kept):
    frames = pd.DataFrame({
        "corpus": "c", "manipulation": "real", "video": np.repeat(["0", "1"], there),
        "frame": np.tile(np.arange(there), 2), "label": 0})
    view = CropView.of_arrays(np.zeros((2 * there, 8, 8, 3), np.uint8), frames)
    some = method_comparison.thinned(view, wanted)
    assert some.frames.groupby("video").frame.agg(list).tolist() == [kept, kept]
    assert some.root is view


class Brightness:
    """Scores a crop by its mean grey level, and keeps a file in the cache."""

    def score(self, view):
        files.atomic_write(files.cache() / "seen", str(len(view)))
        return view.images().mean(axis=(1, 2, 3)).astype(np.float32) / 255


@pytest.fixture
def grey():
    """Dark reals and bright fakes, 6 of each."""
    frames = pd.DataFrame({
        "corpus": "c", "manipulation": ["real", "A"] * 6, "label": [0, 1] * 6, "frame": 0,
        "video": [f"{at}" for at in range(12)], "group": range(12)})
    levels = np.where(frames.label, 140, 120) + np.arange(12)
    images = np.broadcast_to(levels[:, None, None, None], (12, 16, 16, 3)).astype(np.uint8)
    return CropView.of_arrays(images, frames)


def test_robustness_has_every_strength_and_leaves_no_cache_behind(grey, tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    kinds = ["brightness", "noise"]
    rows = few_samples.robustness({"bright": Brightness()}, grey, kinds=kinds)
    assert len(rows) == 12 and rows.query("strength == 0").frame_AUC.tolist() == [1, 1]
    assert rows.query("kind == 'brightness'").frame_AUC.eq(1).all()  # it moves all crops alike
    assert rows.amount.tolist()[:6] == perturbations.KINDS["brightness"].names()
    # only the untouched crops were cached here
    assert (tmp_path / "cache" / "seen").read_text() == "12"
    assert os.environ["DFNB_CACHE"] == str(tmp_path / "cache")


def test_scratch_restores_an_unset_cache(monkeypatch):
    monkeypatch.delenv("DFNB_CACHE", raising=False)
    with pytest.raises(ZeroDivisionError), method_comparison.scratch():
        assert "DFNB_CACHE" in os.environ
        raise ZeroDivisionError
    assert "DFNB_CACHE" not in os.environ


def test_costs_have_a_row_for_each_model_of_the_protocol(grey):
    fitted = SimpleNamespace(detector=Brightness(), seconds=1.0)
    trials = {("study", "bright"): fitted, ("identity", "bright"): None}
    found = method_comparison.costs(trials, "study", grey)
    assert found.index.tolist() == ["bright"] and found.seconds.tolist() == [1.0]
    assert found.ms.iloc[0] > 0


def test_maps_are_alike_by_rank():
    maps = np.random.default_rng(0).random((5, 4, 4))
    assert method_comparison.likeness(maps, np.exp(3 * maps)) == pytest.approx(1)
    assert method_comparison.likeness(maps, -maps) == pytest.approx(-1)
    even = np.concatenate([maps, np.ones((1, 4, 4))])
    assert method_comparison.likeness(even, np.concatenate([maps, maps[:1]])) == pytest.approx(1)


def test_models_name_what_they_train_and_the_multimodal_one_needs_an_endpoint():
    options = {"lora": {"rank": 4}, "fitting": {"epochs": 1, "batch": 8}, "frames": 4,
               "rates": {"layernorm": 0.01, "components": 0.02, "prompt": 0.03,
                         "reprogramming": 0.04}}
    url = "http://localhost:1/v1"
    off = method_comparison.models(**options)
    on = method_comparison.models(**options, endpoint=url, model="m")
    assert [name for name, one in off.items() if not one.runs] == ["multimodal"]
    assert off["multimodal"].trains == "not run"
    assert on["multimodal"].runs and on["multimodal"].options["base_url"] == url
    assert off["LoRA"].options == {"epochs": 1, "batch": 8, "rank": 4}
    rates = [off[name].options["learning_rate"] for name in ("LN-tuning", "components")]
    assert rates == [0.01, 0.02]
    exchanged = method_comparison.swapped(off["zero-shot"], ("real", "fake"))
    assert exchanged.options == {"words": ("fake", "real")}


@pytest.fixture(scope="module")
def opened(corpus, clip_folder, tmp_path_factory):
    """An experiment on the corpus and the CLIP of the fixtures, with two crops a video."""
    place = tmp_path_factory.mktemp("opened")
    profile = {"corpus": {"root": str(corpus)}, "crops": {"frames": 2, "size": 64},
               "clip": str(clip_folder)}
    (place / "mine.yaml").write_text(yaml.safe_dump(profile))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_PARAMS", str(place))
        patch.setenv("DFNB_CACHE", str(place / "cache"))
        yield experiment.Experiment.open("mine", progress=False)


def test_both_splits_train_on_one_manipulation_alone(opened):
    for table in method_comparison.both_splits(opened, "FaceSwap", ["NeuralTextures"], 0).values():
        assert set(table.manipulation[table.split != "test"]) == {"real", "FaceSwap"}
        assert "NeuralTextures" in set(table.manipulation[table.split == "test"])


def test_few_shot_trains_once_a_draw_and_on_no_more_pairs_than_there_are(opened):
    split_table = opened.split("study", seed=0)
    known = len(splits.training_pairs(split_table, opened.videos))
    models = {"linear probe": method_comparison.Model("probe", "")}
    rows = few_samples.few_shot(opened, split_table, models, "NeuralTextures",
                                      pairs=[1, known, 99], draws=2)
    expected = [[1, 0], [1, 1], [known, 0], [known, 1]]
    assert rows[["pairs", "draw"]].to_numpy().tolist() == expected
    whole = rows[rows.pairs == known]
    assert whole.frame_AUC.nunique() == 1  # all pairs are the same pairs, whatever the draw
    assert rows.video_AUC.between(0, 1).all()


def test_reported_numbers_are_marked_with_their_protocol():
    table = published.related()
    assert set(table) == {"model", "paper", "trained_on", "tested_on", "unit", "AUC"}
    assert table.AUC.dropna().between(0, 1).all()
    assert (table.trained_on[table.AUC.notna()] != "").all() and (table.paper != "").all()
    tuned = table.query("model == 'LN-tuning, ViT-L/14'").iloc[0]
    assert (tuned.AUC, tuned.tested_on) == (0.949, "Celeb-DF v2")
