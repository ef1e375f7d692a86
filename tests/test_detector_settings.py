"""The rule that chooses the detectors' settings, with detectors that need no training."""

from types import SimpleNamespace

import pytest

from dfnb.detectors.training import Diverged
from tools import detector_settings

MERITS = {(1, 0.1): 0.6, (2, 0.1): 0.7, (1, 0.2): 0.8, (2, 0.2): 0.6, (1, 0.3): 0.9}


def test_the_largest_mean_merit_wins_and_a_diverging_training_has_none(monkeypatch):
    def opened(profile):
        def trial(name, table, learning_rate, steps, **options):
            assert steps == 4 and options["seed"] == 0
            if (profile.demo.seed, learning_rate) not in MERITS:
                raise Diverged("a loss is infinite")
            best = MERITS[profile.demo.seed, learning_rate]
            history = [{"validation_auc": best - 0.2}, {"validation_auc": best}]
            return SimpleNamespace(detector=SimpleNamespace(history=history))

        assert profile.corpus.manipulations == ["FaceSwap"]
        return SimpleNamespace(split=lambda *names, **options: None, trial=trial)

    monkeypatch.setattr(detector_settings.Experiment, "of", opened)
    rates = {"lora": [{"learning_rate": rate} for rate in (0.1, 0.2, 0.3)]}
    table = detector_settings.choose((1, 2), rates, {"steps": 4})
    assert table.candidate.tolist() == [f"learning_rate {rate}" for rate in (0.1, 0.2, 0.3)]
    assert table["mean"].tolist() == pytest.approx([0.65, 0.7, 0.45])
    assert table.chosen.tolist() == ["", "yes", ""]


def test_every_detector_has_as_many_candidates_and_the_worlds_are_apart():
    assert {len(every) for every in detector_settings.CANDIDATES.values()} == {8}
    assert not set(detector_settings.CHOICE) & set(detector_settings.CONFIRMATION)
    assert min(detector_settings.CHOICE + detector_settings.CONFIRMATION) > 400
