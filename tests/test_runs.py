"""The run contract: DONE last and only with all artefacts, states with their reason, one owner at a time."""

import errno
import html
import json
import platform
import re
import string
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError, files
from dfnb import config as profiles
from dfnb.runs import configuration, notebooks, parameters, results
from dfnb.runs import run as runs
from dfnb.runs import state as run_state

PROFILE = "corpus: {root: CORPUS, manipulations: [FaceSwap]}\ncrops: {frames: 2, size: 64, margin: 1.3}\n"
CELL = 'profile = "p"  # name\nrank = 8  # rank of the matrices\nalpha = 16.0  # scale\nnote = ""  # text\n'
VIDEOS = {"original_sequences/youtube": "000", "manipulated_sequences/FaceSwap": "000_001"}
GIVEN = {"rank": 8, "alpha": 16.0, "note": ""}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """One notebook, one profile and a corpus of two files that are never decoded."""
    for name in ("DATA", "CACHE", "RUNS", "NOTEBOOKS", "PARAMS"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    monkeypatch.delenv("DFNB_RUN", raising=False)
    monkeypatch.setattr(runs, "_held", {})
    for folder, video in VIDEOS.items():
        path = tmp_path / "corpus" / folder / "c23" / "videos" / f"{video}.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"video")
    (tmp_path / "params" / "p.yaml").write_text(PROFILE.replace("CORPUS", str(tmp_path / "corpus")))
    for stem in ("03_x", "08_y"):
        script = f'# %% tags=["parameters"]\n{CELL}\n# %%\nprint(1)\n'
        (tmp_path / "notebooks" / f"{stem}.py").write_text(script)
    notebooks.pair()
    return tmp_path


@pytest.fixture
def profile(home):
    return profiles.load("p")


def state(home, parameters=None, notebook="03_x"):
    path, settings = home / "notebooks" / f"{notebook}.ipynb", profiles.load("p")
    config = configuration.of_run(path, settings, parameters or {})
    return run_state.state(configuration.place(path, settings, config), config)


def test_a_notebook_declares_names_and_defaults(home):
    declared = parameters.declared(home / "notebooks" / "03_x.ipynb")
    assert declared == {"profile": "p"} | GIVEN


def test_a_run_goes_from_missing_to_done(home, profile):
    assert state(home) == ("missing", "never run")
    run = runs.start("03_x", profile, GIVEN)
    assert run.folder == home / "runs" / "p" / "03_x"
    assert (run.folder / "config.json").exists()
    assert state(home)[0] == "running"
    run.save({"auc": 0.5}, scores=pd.DataFrame({"score": [0.25]}), curve=pd.DataFrame({"x": [1]}))
    assert state(home) == ("done", "")
    done = json.loads((run.folder / "DONE.json").read_text())
    saved = {"config.json", "metrics.json", "timing.json", "scores.parquet", "curve.parquet"}
    assert set(done["artefacts"]) == saved
    assert done["artefacts"]["metrics.json"] == files.sha256(run.folder / "metrics.json")
    assert done["seconds"]["total"] > 0
    assert done["peak_memory_mb"] > 1
    assert done["versions"]["python"] == platform.python_version()


def test_metrics_are_canonical(home, profile):
    metrics = {"b": np.float64(0.1), 2: np.array([1, 2]), "a": float("nan"), "c": (True, None, np.int64(3))}
    runs.start("03_x", profile, GIVEN).save(metrics)
    path = home / "runs" / "p" / "03_x" / "metrics.json"
    text = path.read_text()
    assert json.loads(text) == {"2": [1, 2], "a": None, "b": 0.1, "c": [True, None, 3]}
    assert list(json.loads(text)) == ["2", "a", "b", "c"]
    runs.start("03_x", profile, GIVEN).save(dict(reversed(metrics.items())))
    assert path.read_text() == text


@pytest.mark.parametrize("spoil", ["missing", "changed"])
@pytest.mark.parametrize("name", ["metrics.json", "config.json", "scores.parquet"])
def test_done_without_an_artefact_is_not_done(home, profile, name, spoil):
    run = runs.start("03_x", profile, GIVEN)
    run.save({}, scores=pd.DataFrame({"score": [0.25]}))
    (run.folder / name).unlink() if spoil == "missing" else (run.folder / name).write_text("{}")
    found, why = state(home)
    assert found == "interrupted"
    assert why.startswith(name)


def test_a_write_that_fails_anywhere_leaves_no_done_and_the_next_run_completes(home, profile, monkeypatch):
    atomic, full = files.atomic, OSError(errno.ENOSPC, "No space left on device")
    runs.start("03_x", profile, GIVEN).save({"a": 1}, scores=pd.DataFrame({"score": [0.25]}))
    metrics = (home / "runs" / "p" / "03_x" / "metrics.json").read_bytes()
    for allowed in range(5):  # config, scores, timing, metrics, DONE
        left = iter(range(allowed))
        run_state.clear(home / "runs" / "p" / "03_x")
        runs._held.clear()

        def limited(path, left=left):
            if next(left, None) is None:
                raise full
            return atomic(path)

        with monkeypatch.context() as patch:
            patch.setattr(files, "atomic", limited)
            with pytest.raises(OSError, match="No space"):
                runs.start("03_x", profile, GIVEN).save({"a": 1}, scores=pd.DataFrame({"score": [0.25]}))
        assert not (home / "runs" / "p" / "03_x" / "DONE.json").exists()
        runs.start("03_x", profile, GIVEN).save({"a": 1}, scores=pd.DataFrame({"score": [0.25]}))
        assert state(home) == ("done", "")
        assert (home / "runs" / "p" / "03_x" / "metrics.json").read_bytes() == metrics


def test_a_stale_run_names_the_field_that_differs(home, profile):
    runs.start("03_x", profile, GIVEN).save({})
    file = home / "params" / "p.yaml"
    file.write_text(file.read_text().replace("margin: 1.3", "margin: 1.4"))
    assert state(home) == ("stale", "settings.crops.margin was 1.3, is 1.4")
    file.write_text(file.read_text().replace("margin: 1.4", "margin: 1.3") + "notebooks: {03_x: {rank: 4}}\n")
    assert state(home) == ("stale", "parameters.rank was 8, is 4")


def test_a_changed_corpus_makes_a_run_stale_and_an_absent_one_does_not(home, profile):
    runs.start("03_x", profile, GIVEN).save({})
    video = next((home / "corpus").rglob("000_001.mp4"))
    video.write_bytes(b"another video")
    assert state(home) == ("stale", "the files of the corpus have changed")
    (home / "corpus").rename(home / "elsewhere")
    assert state(home) == ("done", "")


def test_a_link_to_nowhere_does_not_hide_changes_of_the_other_videos(home, profile):
    link = next((home / "corpus").rglob("000_001.mp4")).with_name("000_002.mp4")
    link.symlink_to(home / "nowhere")
    runs.start("03_x", profile, GIVEN).save({})
    assert state(home) == ("done", "")
    next((home / "corpus").rglob("000.mp4")).write_bytes(b"another video")
    assert state(home) == ("stale", "the files of the corpus have changed")


def test_changed_code_makes_a_run_stale_but_prose_does_not(home, profile):
    runs.start("03_x", profile, GIVEN).save({})
    script = home / "notebooks" / "03_x.py"
    script.write_text("# %% [markdown]\n# A sentence.\n\n" + script.read_text())
    notebooks.pair()
    assert state(home) == ("done", "")
    script.write_text(script.read_text().replace("print(1)", "print(2)"))
    notebooks.pair()
    assert state(home)[0] == "stale"


def test_starting_again_leaves_a_finished_run_valid_until_it_saves(home, profile):
    runs.start("03_x", profile, GIVEN).save({"a": 1})
    run = runs.start("03_x", profile, GIVEN)
    assert run_state.settled(run.folder, run.config) == ("done", "")
    run.save({"a": 2})
    assert state(home) == ("done", "")
    assert results.result("p", "03_x").metrics == {"a": 2}


def test_other_parameters_have_a_folder_that_no_value_can_choose(home, profile):
    one = runs.start("03_x", profile, GIVEN | {"rank": 16}).folder
    same = runs.start("03_x", profile, GIVEN | {"rank": np.int64(16), "alpha": 16}).folder
    odd = runs.start("03_x", profile, GIVEN | {"note": "../../../etc/{rank}\n" + "x" * 99}).folder
    sweep = home / "runs" / "p" / "03_x" / "sweep"
    assert one == same
    assert re.fullmatch(r"rank16-[0-9a-f]{12}", one.name)
    assert re.fullmatch(r"note-etc-rank-x{1,40}-[0-9a-f]{12}", odd.name)
    assert {path.name for path in sweep.iterdir()} == {one.name, odd.name}
    run_state.clear(home / "runs" / "p" / "03_x")
    assert sweep.exists()


def test_a_run_behind_a_link_is_refused_and_a_link_in_a_run_is_not_followed(home, profile):
    outside = home / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_text("years of work")
    for link in (home / "runs" / "p", home / "runs" / "p" / "03_x"):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(outside)
        with pytest.raises(UserError, match="lies behind a link to .*outside.*; remove the link, or set DFNB_RUNS"):
            runs.start("03_x", profile, GIVEN)
        assert (outside / "thesis.tex").exists() and len(list(outside.iterdir())) == 1
        link.unlink()
    runs.start("03_x", profile, GIVEN).save({})
    (home / "runs" / "p" / "03_x" / "adapter").symlink_to(outside)
    run_state.clear(home / "runs" / "p" / "03_x")
    assert (outside / "thesis.tex").read_text() == "years of work"
    assert {path.name for path in (home / "runs" / "p" / "03_x").iterdir()} == {"lock"}


@pytest.mark.parametrize("name", ["<script>alert(1)", "{eval}`1`", "*a* _b_ $x$ [l](j:x)", "# a\n- b", "|a|", "&lt;"])
def test_a_name_from_outside_is_no_markup(name):
    shown = runs.escape(name)
    assert html.unescape(shown) == name
    assert set(re.sub("&#[0-9]+;", "", shown)) <= set(string.ascii_letters + string.digits + " .,-")


@pytest.mark.parametrize(("given", "sentence"), [
    ({"rank": 8, "alpha": 1.0}, "03_x declares note, but does not pass it"),
    (GIVEN | {"beta": 1}, "has no parameter 'beta'; it declares profile .str., rank .int."),
    (GIVEN | {"rank": "8"}, "rank must be an integer, got '8'"),
    (GIVEN | {"alpha": float("inf")}, "alpha must be a finite number, got inf"),
])
def test_parameters_that_do_not_fit_the_notebook_are_refused(home, profile, given, sentence):
    with pytest.raises(UserError, match=sentence):
        runs.start("03_x", profile, given)
    assert list((home / "runs").iterdir()) == []


HOSTILE = ["__import__('os').system('touch hacked')", "rank = 1; import os", "../../rank", "{rank}", "rank\nimport os", ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_code_or_a_path_reaches_no_notebook(home, profile, name):
    notebook = home / "notebooks" / "03_x.ipynb"
    (home / "params" / "p.yaml").write_text(
        (home / "params" / "p.yaml").read_text() + json.dumps({"notebooks": {"03_x": {name: 1}}})[1:-1])
    for refused in (lambda: parameters.chapter_parameters(notebook, profiles.load("p")),
                    lambda: runs.start("03_x", profile, GIVEN | {name: 1}),
                    lambda: parameters.parse(notebook, [f"{name}=1"])):
        with pytest.raises(UserError, match="has no parameter"):
            refused()
    assert list((home / "runs").iterdir()) == [] and not (files.ROOT / "hacked").exists()


@pytest.mark.parametrize("name", ["04_absent", "../03_x", "/etc/passwd"])
def test_a_notebook_that_is_not_there_is_a_sentence(home, profile, name):
    with pytest.raises(UserError, match="there is no notebook"):
        runs.start(name, profile, {})


def test_only_one_process_has_a_run(home, profile):
    run = runs.start("03_x", profile, GIVEN)
    again = runs.start("03_x", profile, GIVEN)  # the same cell, executed twice in JupyterLab
    assert again.folder == run.folder
    code = f"from dfnb import config; from dfnb.runs import run; run.start('03_x', config.load('p'), {GIVEN})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "03_x is being run by process" in other.stderr
    again.save({})
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode == 0


def test_a_process_that_dies_leaves_an_interrupted_run(home, profile):
    code = f"from dfnb import config; from dfnb.runs import run; run.start('03_x', config.load('p'), {GIVEN})"
    subprocess.run([sys.executable, "-c", code + "; import os; os.kill(os.getpid(), 9)"])
    assert state(home) == ("interrupted", "started, but neither done nor failed")


def test_a_reader_of_results_goes_stale_with_them(home, profile):
    with pytest.raises(UserError, match="the result of 03_x is needed, but it is missing .*--only 03_x"):
        results.result("p", "03_x")
    runs.start("03_x", profile, GIVEN).save({"a": 1}, scores=pd.DataFrame({"score": [0.25]}))
    run = runs.start("08_y", profile, GIVEN)
    result = results.result("p", "03_x")
    assert result.metrics == {"a": 1}
    assert result.scores.score.tolist() == [0.25]
    assert result.seconds["total"] > 0
    run.save({})
    assert state(home, notebook="08_y") == ("done", "")
    runs.start("03_x", profile, GIVEN).save({"a": 2})
    assert state(home, notebook="08_y") == ("stale", "the result of 03_x has changed")


class Detector:
    """Saves as a LoRA detector does: a folder and a file."""

    def __init__(self, fails=False):
        self.fails = fails

    def save(self, folder):
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights.safetensors").write_bytes(b"w")
        if self.fails:
            raise OSError("disk")
        (folder / "head.safetensors").write_bytes(b"h")


def test_a_detector_is_saved_whole_or_not_at_all(home, profile):
    run = runs.start("03_x", profile, GIVEN)
    with pytest.raises(OSError, match="disk"):
        run.save({}, detector=Detector(fails=True))
    assert {path.name for path in run.folder.iterdir()} == {"config.json", "lock"}
    run.save({}, detector=Detector())
    assert (run.folder / "adapter" / "weights.safetensors").read_bytes() == b"w"
    assert "head.safetensors" in json.loads((run.folder / "DONE.json").read_text())["artefacts"]


def test_durations_are_added_up(home, profile):
    run = runs.start("03_x", profile, GIVEN)
    for _ in range(2):
        with run.timed("fit"):
            pass
    run.save({})
    seconds = results.result("p", "03_x").seconds
    assert 0 < seconds["fit"] < seconds["total"]


def test_the_stamp_says_what_the_numbers_are_not(home, profile):
    assert "corpus corpus;" in runs.start("03_x", profile, GIVEN).stamp()
    assert "FaceForensics" not in runs.start("03_x", profile, GIVEN).stamp()
    demo = profiles.Profile(name="p", corpus={"root": "demo"}, demo={"seed": 7, "identities": 4, "frames": 2},
                            crops={"frames": 2, "size": 64})
    stamp = runs.start("03_x", demo, GIVEN).stamp()
    assert "Profile p; corpus demo world 7, 4 identities; commit " in stamp
    odd = profile.model_copy(update={"corpus": profile.corpus.model_copy(update={"root": "/x/<b>{eval}`1`"})})
    assert "corpus &#60;b&#62;&#123;eval&#125;&#96;1&#96;; " in runs.start("03_x", odd, GIVEN).stamp()
    assert stamp.endswith("These are demo numbers, not FaceForensics++.")
