"""Chapter 4 from the runs of sweeps: small tables by hand, and real runs of which one failed."""

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import logit

from dfnb import cli
from dfnb.evaluation import ablations, published, sweep_plots
from dfnb.runs import notebooks, results, study
from dfnb.runs import sweep as sweeps

GRID = list(itertools.product([8, 16, 32], [16, 32, 64], [0.0, 0.05, 0.1]))
BASE = (8, 64, 0.05)


def runs(settings, **columns) -> pd.DataFrame:
    """Return finished runs of (rank, alpha, dropout) on split seed 0, with AUCs of 0.5."""
    table = pd.DataFrame(settings, columns=["rank", "alpha", "dropout"])
    known = {"state": "done", "why": "", "split_seed": 0, "blocks": 1, "fraction": 1.0, "steps": 0,
             "steps_taken": 240, "trainable": table["rank"] * 768 + 193, "validation_loss": 0.5,
             "EER": 0.4, "F1": 0.9, "ACC": 0.8}
    return table.assign(**dict.fromkeys(results.MEASURED, 0.5) | known | columns)


def noise(count: int) -> np.ndarray:
    """Return deviations so small that they only give the linear model an error."""
    return np.random.default_rng(0).normal(0, 1e-9, count)


def test_main_effects_are_the_slopes_of_a_table_made_of_them():
    table = runs(GRID)
    ranks, scales = np.log2(table["rank"]), np.log2(table.alpha / table["rank"])
    slopes = 0.02 * ranks - 0.01 * scales + 0.03 * table.dropout / 0.05
    found = ablations.main_effects(table.assign(test=0.4 + slopes + noise(27)), "test")
    assert found.effect.tolist() == pytest.approx([0.02, -0.01, 0.03], abs=1e-8)
    assert found.reason.tolist() == ["", "", ""]
    moved = table.assign(split_seed=1, test=0.9 + slopes + noise(27))  # splits have own intercepts
    both = pd.concat([table.assign(test=0.4 + slopes + noise(27)), moved])
    assert ablations.main_effects(both, "test").effect.tolist() == pytest.approx(
        found.effect.tolist(), abs=1e-8)
    alone = ablations.main_effects(table[table["rank"] == 8].assign(test=0.5 + noise(9)), "test")
    assert alone.reason.tolist() == ["takes one value only", "", ""]


def test_more_data_is_judged_by_the_slopes_of_whole_draws():
    """Five draws with slopes .00, .02, .04, .06, .08: mean .04, deviation .0316, t(4) 2.776."""
    table = runs([BASE] * 15, split_seed=np.repeat(range(5), 3), fraction=[0.25, 0.5, 1.0] * 5)
    table["test"] = 0.5 + 0.1 * table.split_seed \
        + 0.02 * table.split_seed * np.log2(table.fraction)
    found = ablations.doubled_data(table, "test")
    assert (found["draws"], found["reason"]) == (5, "")
    assert [found[name] for name in ("effect", "low", "high", "lowest", "highest")] == \
        pytest.approx([0.04, 0.04 - 0.03926, 0.04 + 0.03926, 0.0, 0.08], abs=1e-4)
    few = ablations.doubled_data(table[table.split_seed < 3], "test")
    assert few["effect"] == pytest.approx(0.02)
    assert np.isnan(few["low"]) and few["reason"] == "3 draws are too few, 5 are needed"
    assert ablations.doubled_data(table[:0], "test")["draws"] == 0


def test_the_answer_names_signs_only_where_the_interval_leaves_out_zero():
    rows = pd.DataFrame({"effect": [0.02, -0.03, 0.001], "low": [0.01, -0.04, -0.01],
                         "high": [0.03, -0.02, 0.012], "reason": ""}, list(ablations.EFFECTS))
    unknown = rows.assign(effect=np.nan, low=np.nan, high=np.nan, reason="takes one value only")
    data = pd.DataFrame([{"held": "steps", "split": "test", "draws": 2, "effect": 0.1,
                          "low": np.nan, "high": np.nan, "reason": "2 draws are too few"}])
    text = ablations.answer({"validation": unknown, "test": rows}, data)
    for words in ("no estimate (takes one value only) on validation",
                  "up (+0.020, +0.010 to +0.030) on test", "down (-0.030, -0.040 to -0.020)",
                  "open (+0.001, -0.010 to +0.012)", "+0.100 (2 draws are too few)"):
        assert words in text


def test_runs_on_other_draws_of_the_split_are_not_compared_video_by_video(monkeypatch):
    grid = runs(GRID[:2] * 2, split_seed=[0, 0, 1, 1]).assign(run=["a", "b", "c", "d"])
    planned = [SimpleNamespace(folder=Path(name)) for name in grid.run]
    videos = pd.DataFrame({"video": ["1", "2", "3", "4", "5", "6"], "label": [0, 0, 0, 1, 1, 1],
                           "group": range(6), "split": "test"})
    shares = {"a": [.1, .2, .3, .6, .7, .9], "b": [.2, .3, .5, .4, .6, .8]}  # of split seed 0
    monkeypatch.setattr(results, "load", lambda profile: None)
    monkeypatch.setattr(results.grids, "expand", lambda settings: planned)
    monkeypatch.setattr(results, "read", lambda folder: SimpleNamespace(
        scores=videos.assign(score=shares[folder.name])))
    alike = results.correlations("tiny", grid)
    assert alike["reals"] == pytest.approx(np.corrcoef(
        *(logit(shares[name][:3]) for name in "ab"))[0, 1])
    assert results.optimism("tiny", grid)["apparent"] == 1.0


def test_all_cells_stand_in_one_table_the_best_first():
    table = runs(GRID, test=np.linspace(0.64, 0.9, 27)).assign(
        state=["done"] * 26 + ["failed"])
    table.loc[26, "test"] = np.nan
    found = ablations.cells(table)
    assert len(found) == 26 and found.shape[1] == 8
    assert found.AUC.is_monotonic_decreasing


def test_the_interval_of_an_effect_covers_the_truth_as_often_as_its_confidence():
    table, generator, covered = runs(GRID), np.random.default_rng(1), 0
    for _ in range(300):
        measured = 0.02 * np.log2(table["rank"]) + generator.normal(0, 0.05, len(table))
        row = ablations.main_effects(table.assign(test=measured), "test").loc["rank, doubled"]
        covered += row.low <= 0.02 <= row.high
    assert 0.91 <= covered / 300 <= 0.985


@pytest.mark.parametrize(("settings", "reason"), [
    ([(2, 16, 0.05), (4, 16, 0.05)], "2 runs are too few for 3 unknowns and an error"),
    ([(2, 16, 0.0), (4, 32, 0.1)] * 2, "these factors were only varied together")])
def test_an_effect_that_the_runs_cannot_show_is_nan_with_the_reason(settings, reason):
    found = ablations.main_effects(runs(settings), "test")
    assert found.effect.isna().all()
    assert found.reason["rank, doubled"] == reason


def test_no_run_at_all_is_no_error():
    empty = runs(GRID, state="missing", why="never run", **dict.fromkeys(results.MEASURED, np.nan))
    assert ablations.main_effects(empty, "test").effect.isna().all()
    assert ablations.chosen(empty) is None
    assert "nothing can be chosen" in ablations.verdict(empty, None, {})
    assert ablations.beside_reported(empty)["reported on FF++"].AUC.notna().all()
    for table, count in ((empty, 8), (empty[:0], 0)):  # six maps and a bar for each split
        figure = sweep_plots.heat_maps(table)
        assert len(figure.axes) == count
        plt.close(figure)


def test_validation_chooses_and_the_loss_breaks_ties():
    table = runs([(8, 16, 0.0), (16, 16, 0.0), (32, 16, 0.0)], validation_frames=[0.8, 0.9, 0.9],
                 validation_loss=[0.1, 0.6, 0.4], test=[0.9, 0.5, 0.6])
    pick = ablations.chosen(table)
    assert pick["rank"] == 32
    words = ablations.verdict(table, pick, {"reason": "", "optimism": 0.031})
    for phrase in ("chooses rank 32, alpha 16, dropout 0: 0.600 on test", "number 2 of 3",
                   "best on test is rank 8", "optimistic by 0.031"):
        assert phrase in words
    without = ablations.verdict(table, pick.replace(pick.test, np.nan), {})
    assert "has no AUC on test" in without


def test_eight_rows_are_shown_by_the_rules_of_the_study():
    """The AUC falls along the grid, so the first run is best; its rank has fewest parameters."""
    table = runs(GRID, test=np.linspace(0.9, 0.64, 27))
    rows = ablations.representative(table).set_index("row")[["rank", "alpha", "dropout"]]
    assert dict(zip(rows.index, rows.itertuples(index=False, name=None), strict=True)) == {
        "best": (8, 16, 0.0), "dropout_0": (8, 16, 0.0), "dropout_0.05": (8, 16, 0.05),
        "dropout_0.1": (8, 16, 0.1), "most_parameters": (32, 16, 0.0),
        "fewest_parameters": (8, 32, 0.0),  # the best of rank 8 that no row before shows
        "lowest_AUC": (32, 64, 0.1), "median_AUC": (16, 32, 0.05)}


def test_the_rules_agree_with_the_reported_rows():
    reported = published.grid()
    settings = reported[["rank", "alpha", "dropout"]].to_numpy().tolist()
    table = runs(settings, test=reported.AUC.to_numpy())
    found = ablations.representative(table).set_index("row").test
    rows = ["best", "dropout_0", "dropout_0.1", "fewest_parameters", "most_parameters",
            "lowest_AUC"]
    assert found[rows].to_dict() == reported.set_index("row").AUC[rows].to_dict()


def test_varying_keeps_the_runs_that_differ_in_one_factor_only():
    table = runs([(8, 64, 0.05), (16, 64, 0.05), (8, 32, 0.05), (16, 32, 0.05)])
    base = {"rank": 8, "alpha": 64, "dropout": 0.05, "blocks": 1, "fraction": 1.0}
    base = pd.DataFrame({"sweeps": base})
    assert ablations.varying(table, "rank", base).index.tolist() == [0, 1]
    assert ablations.varying(table, "alpha", base).index.tolist() == [0, 2]


def test_a_heat_map_names_every_run_and_every_gap():
    table = runs(GRID, test=np.linspace(0.6, 0.9, 27), test_low=0.4, test_high=0.95)
    table.loc[4, ["state", *results.MEASURED]] = ["failed", *[np.nan] * len(results.MEASURED)]
    figure = sweep_plots.heat_maps(table)
    maps = [ax for ax in figure.axes if ax.get_title()]
    titles = ["test, dropout 0", "test, dropout 0.05", "test, dropout 0.1"]
    assert [ax.get_title() for ax in maps[3:]] == titles
    texts = [[text.get_text() for text in ax.texts] for ax in maps]
    assert [len(text) for text in texts] == [9] * 6
    assert "failed" in texts[4] and "0.60\n0.40 to 0.95" in texts[3]
    plt.close(figure)


def test_every_seed_is_a_line_of_both_splits_and_every_effect_a_row():
    rows = runs([(rank, 64, 0.05) for rank in (8, 16) for _ in range(3)], split_seed=[0, 1, 2] * 2)
    figure, axes = plt.subplots(3)
    sweep_plots.factor(rows, "rank", axes[0])
    lines = [line for line in axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in lines if len(line.get_xdata())] == [2] * 6
    assert axes[0].get_legend() is None  # a caller draws one for all figures, without a warning
    assert axes[0].get_legend_handles_labels()[1] == ["validation", "test"]
    tables = {split: ablations.main_effects(rows, split) for split in ablations.SPLITS}
    sweep_plots.effects(tables, axes[1])
    assert [label.get_text() for label in axes[1].get_yticklabels()] == list(ablations.EFFECTS)
    sweep_plots.scatter(rows, "trainable", "test", axes[2], by="blocks", labels=("a", "b"))
    assert len(axes[2].collections[0].get_offsets()) == 6
    plt.close(figure)


TRAIN = '''# %% tags=["parameters"]
profile = "tiny"  # a profile
split_seed = 0  # first seed
repeats = 1  # splits
rank = 2  # a number

# %%
import os
import numpy as np, pandas as pd
from dfnb import UserError, config
from dfnb.evaluation import tables
from dfnb.runs.run import start
given = dict(split_seed=split_seed, repeats=repeats, rank=rank)
run = start("03_tiny", config.load(profile), given)
if rank == 5 and not os.path.exists("HOME/go"):
    raise UserError("rank must not be 5 yet")
labels = np.arange(12) % 2
values = np.where(labels, 0.6, 0.4) + rank / 100 * (np.arange(12) % 3)
scores = pd.concat([pd.DataFrame({
    "corpus": "c", "manipulation": np.where(labels, "FaceSwap", "real"), "frame": 0,
    "video": [f"{split}{at}" for at in range(12)], "group": range(12), "label": labels,
    "split": split, "model": "LoRA", "split_seed": 0, "score": values})
    for split in ("validation", "test")])
kept = {"epoch": 1, "steps": 9, "train_auc": 0.9, "validation_auc": 0.8, "validation_loss": 0.5,
        "best": True}
rows = tables.by_split(scores).to_dict("records")
run.save({"rows": rows, "history": [kept], "trainable": rank}, scores=scores)
'''
READ = '''# %% tags=["parameters"]
profile = "tiny"  # a profile

# %%
from dfnb import config
from dfnb.evaluation.intervals import Bootstrap
from dfnb.runs import results
from dfnb.runs.run import start
run = start("04_tiny", config.load(profile), {})
table = results.of_sweeps(profile)
luck = results.optimism(profile, table, Bootstrap(draws=20))
run.save({"states": table.state.tolist(), "why": table.why.tolist(), "test": table.test.tolist(),
          "trainable": table.trainable.tolist(), "best": luck.get("best")})
'''


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A study of two chapters: the second reads a sweep of the first, of which one run fails."""
    for name in ("DATA", "CACHE", "RUNS", "NOTEBOOKS", "PARAMS"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("DFNB_RUN", raising=False)
    for name, text in (("03_tiny", TRAIN), ("04_tiny", READ)):
        (tmp_path / "notebooks" / f"{name}.py").write_text(text.replace("HOME", str(tmp_path)))
    notebooks.pair()
    sweep = {"notebook": "03_tiny", "chapter": "04_tiny", "grid": {"rank": [4, 5, 6]}, "retries": 0}
    (tmp_path / "params" / "tiny.yaml").write_text(yaml.safe_dump({
        "corpus": {"root": "demo"}, "demo": {"seed": 1, "identities": 4, "frames": 2},
        "crops": {"frames": 2, "size": 64}, "sweeps": {"grid": sweep}}))
    return tmp_path


@pytest.mark.slow
def test_a_study_runs_the_sweeps_first_and_a_failed_run_is_a_gap_until_it_is_repeated(home, capsys):
    chapter = home / "runs" / "tiny" / "04_tiny"

    def read() -> dict:
        assert cli.main(["study", "--profile", "tiny", "--only", "04"]) == 0
        return json.loads((chapter / "metrics.json").read_text())

    first, out = read(), capsys.readouterr().out
    assert "the runs of grid\n" in out and "sweeps: 3 runs: 2 done, 1 failed\n" in out
    assert first["states"] == ["done", "failed", "done"]
    assert first["why"][1] == "bad parameters: rank must not be 5 yet"
    assert (first["test"], first["trainable"]) == ([1.0, None, 1.0], [4, None, 6])
    before = (chapter / "DONE.json").read_bytes()
    assert read() == first and (chapter / "DONE.json").read_bytes() == before
    (home / "go").touch()
    sweeps.run("tiny", retry_failed=True, workers=1)
    row = study.status("tiny")[1]
    assert row["state"] == "stale"
    assert re.fullmatch(r"the result of 03_tiny/sweep/rank5-\w+ has changed", row["why"])
    again = read()
    assert (again["states"], again["best"]) == (["done"] * 3, 0)


def test_a_sweep_of_a_missing_chapter_is_refused_before_anything_runs(home, capsys):
    profile = home / "params" / "tiny.yaml"
    profile.write_text(profile.read_text().replace("04_tiny", "09_gone"))
    assert cli.main(["study", "--profile", "tiny"]) == 2
    assert "there is no chapter '09_gone'" in capsys.readouterr().err
