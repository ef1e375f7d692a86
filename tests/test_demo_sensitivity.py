"""The sensitivity page: paired differences by hand, and one small measurement of real worlds."""

import json

import pandas as pd
import pytest

from dfnb import files
from tools import demo_sensitivity
from tools.demo_sensitivity import DEFAULT


def rows(*values):
    """Return frame AUCs (setting, split seed, probe, LoRA) as a table of `measure`."""
    return pd.DataFrame(
        [[7, swap, DEFAULT, seed, model, 0.9, auc, auc] for swap, seed, *aucs in values
         for model, auc in zip(demo_sensitivity.MODELS, aucs, strict=True)],
        columns=demo_sensitivity.COLUMNS)


TWO = rows((DEFAULT, 0, .5, .6), (DEFAULT, 1, .7, .6), ("b", 0, .5, .9), ("b", 1, .7, .8))


def test_differences_are_paired_by_draw():
    table = demo_sensitivity.differences(TWO)
    first, second = table.loc[DEFAULT].iloc[0], table.loc["b"].iloc[0]
    columns = ["difference", "lowest", "highest", "ahead", "of"]
    assert first[columns].tolist() == pytest.approx([0, -.1, .1, 1, 2])
    assert second[["difference", "ahead"]].tolist() == pytest.approx([.25, 2])
    assert second["LoRA, frame"] == pytest.approx(.85)


@pytest.mark.parametrize(("second", "share"), [
    ((.1, -.1), 1), ((.3, .3), 1 - .025 / .0275), ((-.1, .1), 0)])
def test_agreement_is_the_share_that_the_settings_do_not_move(second, share):
    """Gains of .1 and -.1 at one setting, `second` at the other; the variances are by hand."""
    table = rows(("a", 0, .5, .6), ("a", 1, .5, .4),
                 ("b", 0, .5, .5 + second[0]), ("b", 1, .5, .5 + second[1]))
    assert demo_sensitivity.agreement(table) == pytest.approx(share)


def test_each_swap_is_trained_and_each_reenactment_tested(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    lora = dict(rank=2, alpha=4, blocks=1, epochs=1, batch=8)
    table = demo_sensitivity.measure(
        lora, (5,), (0,), {DEFAULT: {}}, {DEFAULT: {}, "wider": {"bottleneck": .9}},
        identities=12, frames=2)
    assert table[["reenactment", "model"]].drop_duplicates().shape == (4, 2)
    assert table[["validation", "frame", "video"]].stack().between(0, 1).all()
    same = table.groupby("model").validation.nunique()
    assert (same == 1).all()  # another bottleneck tests the same detector
    page = demo_sensitivity.write(table, tmp_path, lora)
    assert "| default | wider" in page.read_text() and "rank 2" in page.read_text()
    assert len(json.loads((tmp_path / "demo_sensitivity.json").read_text())["rows"]) == 4


def test_changes_compare_each_setting_with_the_default_draw_by_draw():
    only = demo_sensitivity.changes(TWO).iloc[0]
    assert only[["manipulation", "changed to", "up", "of"]].tolist() == ["swap", "b", 2, 2]
    assert only[["change", "lowest", "highest"]].tolist() == pytest.approx([.25, .2, .3])


def test_the_summary_states_the_differences():
    assert demo_sensitivity.summary(TWO) == (
        "LoRA is ahead of the probe on most draws at 1 of 2 settings. Changed alone, these "
        "settings move the difference in the same direction in every draw: b (+0.250 on "
        "average, +0.200 to +0.300).")


def test_the_tracked_page_is_what_the_tracked_rows_give(tmp_path):
    content = json.loads((files.ROOT / "book" / "demo_sensitivity.json").read_text())
    page = demo_sensitivity.write(pd.DataFrame(content["rows"]), tmp_path, content["lora"])
    assert page.read_text() == (files.ROOT / "book" / "demo_sensitivity.md").read_text()
