"""Exported detectors: they score without dfnb as they do with it."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError, cli, experiment
from dfnb.data.crops import CropView
from dfnb.detectors import DETECTORS
from dfnb.evaluation import metrics
from dfnb.predict import export, videos

FITS = {  # name of the folder -> detector and options
    "lora": ("lora", {"rank": 2, "blocks": 1, "epochs": 1}),
    "full": ("full", {"epochs": 1}),
    "probe": ("probe", {}),
    "pooled probe": ("probe", {"features": "pooled"})}
WITHOUT_DFNB = """
import contextlib, io, json, os, sys, pathlib
sys.modules["dfnb"] = None  # importing it is an error from here on
printed = {}
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    os.chdir(folder)
    code = pathlib.Path("README.md").read_text().split("```python\\n")[1].split("```")[0]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    printed[folder.name] = out.getvalue()
assert not [name for name in sys.modules if name.startswith("dfnb.")]
print(json.dumps(printed))
"""


def leave_run(folder, detector, cued, about: dict):
    """Save a detector of noise as a run does; `about` gives what a trial adds."""
    tables = []
    for split, view in zip(("validation", "test"), cued[1:], strict=True):
        named = CropView.of_arrays(view.images(), view.frames.assign(group=view.frames.video))
        tables.append(experiment.scores_table(
            named, split, detector.score(view), model="mine", split_seed=0))
    judged = metrics.to_videos(tables[0])
    detector.metadata |= {name: about[name] for name in videos.NEEDED} | {"split_seed": 0}
    detector.metadata["threshold"] = metrics.best_threshold(judged.label, judged.score)
    detector.save(folder)
    pd.concat(tables).to_parquet(folder / "scores.parquet")


def test_ten_lines_without_dfnb_give_the_same_scores(cued, clip, finished, tmp_path):
    expected = {}
    large = cued[2].images(slice(8)).repeat(2, axis=1).repeat(2, axis=2)
    large = large[:, 9:105, 9:105]  # (8, 96, 96, 3)
    for name, (kind, options) in FITS.items():
        detector = DETECTORS[kind].fit(*cued[:2], clip=clip, **options)
        leave_run(tmp_path / "runs" / name, detector, cued, finished[1].detector.metadata)
        folder = export.export(tmp_path / "runs" / name, tmp_path / "out" / name)
        images = large if name == "full" else cued[2].images()
        np.save(folder / "crops.npy", images)
        view = CropView.of_arrays(images, cued[2].frames[: len(images)])
        expected[name] = detector.score(view), detector.metadata["threshold"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_DFNB, tmp_path / "out"],
                          capture_output=True, text=True,
                          env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    for name, printed in json.loads(done.stdout).items():
        scores, _, answer = printed.strip().rpartition(" ")
        tolerance = 1e-3 if name == "full" else 1e-5  # larger crops: two libraries resize
        np.testing.assert_allclose(json.loads(scores), expected[name][0], rtol=0, atol=tolerance)
        assert answer == ("fake" if expected[name][0].mean() >= expected[name][1] else "real")
    assert set(json.loads(done.stdout)) == set(FITS)


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "detector"
    assert cli.main(["export", str(folder), "--run", str(finished[0])]) == 0
    return folder


def test_the_snippet_is_short_and_needs_no_dfnb(exported):
    code = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 12
    assert "dfnb" not in code


def test_dfnb_loads_what_it_exported(exported, finished, corpus):
    file = corpus / "original_sequences/youtube/c23/videos/001.mp4"
    ours, theirs = (videos.score(videos.load(folder), [file], progress=False)[0]
                    for folder in (finished[0], exported))
    np.testing.assert_array_equal(ours.frames.score, theirs.frames.score)
    assert (ours.threshold, ours.warnings) == (theirs.threshold, theirs.warnings)


def test_the_folder_is_whole_and_names_no_place_of_this_machine(exported, clip_folder):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert names >= {"README.md", "detector.json", "training_domain.json", "preprocessing.json",
                     "head.safetensors", "adapter/adapter_config.json",
                     "adapter/adapter_model.safetensors", "clip/model.safetensors"}
    for path in exported.rglob("*"):
        assert not path.is_file() or str(clip_folder).encode() not in path.read_bytes(), path
    settings = json.loads((exported / "preprocessing.json").read_text())
    assert {name: settings[name] for name in ("frames", "margin", "crop_size", "input_size")} == {
        "frames": 4, "margin": 1.3, "crop_size": 64, "input_size": 64}


def test_the_model_card_says_data_results_and_limits(exported, finished):
    text = (exported / "README.md").read_text()
    tested, results = export.results(finished[0], finished[1].detector.metadata)
    assert f"Test videos of split seed 0: {tested}. None of them" in text
    assert sorted(tested.split(", ")) == ["2 FaceSwap", "2 NeuralTextures", "2 real"]
    chosen = results[results.answer == "threshold from validation"].set_index("unit").loc["video"]
    assert all(f"| {chosen[name]:.3f}" in text for name in ("AUC", "low", "high"))
    assert f"**Threshold** {finished[1].detector.metadata['threshold']:.4f}" in text
    assert "2 real, 2 FaceSwap, 2 NeuralTextures" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Use", "## Training data", "## Results", "## Limits"]
    assert text.count("its answer is no evidence") == 2


def test_a_hub_name_stays_a_name(finished):
    metadata = finished[1].detector.metadata
    named = {"pretrained_model_name_or_path": "owner/clip"}
    assert export.base("owner/clip@1a2b", None, None) == named | {"revision": "1a2b"}
    assert f"base = {named}" in export.snippet(metadata, export.base("owner/clip", None, None))


def test_nothing_is_written_over_and_other_scores_are_not_taken_for_its_own(
        exported, finished, tmp_path):
    with pytest.raises(UserError, match="is there already"):
        export.export(finished[0], exported)
    metadata = finished[1].detector.metadata
    with pytest.raises(UserError, match="holds no scores of the detector it saved \\(split seed 7"):
        export.results(finished[0], metadata | {"split_seed": 7})
    with pytest.raises(UserError, match="holds no scores of the detector it saved"):
        export.results(finished[0], metadata | {"threshold": 0.123})
