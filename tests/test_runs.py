"""The run contract: DONE.json last and whole, a state with its reason, one owner at a time."""

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

from dfnb import UserError, config, files
from dfnb.runs import configuration, notebooks, parameters, results, state
from dfnb.runs.run import _held as held
from dfnb.runs.run import escape, start

PROFILE = """corpus: {root: CORPUS, manipulations: [FaceSwap]}
crops: {frames: 2, size: 64, margin: 1.3}
"""
SCRIPT = """# %% tags=["parameters"]
profile = "p"  # name
rank = 8  # rank of the matrices
alpha = 16.0  # scale
note = ""  # text

# %%
print(1)
"""
VIDEOS = {"original_sequences/youtube": "000", "manipulated_sequences/FaceSwap": "000_001"}
GIVEN = {"rank": 8, "alpha": 16.0, "note": ""}
SCORES = pd.DataFrame({"score": [0.25]})
START = f"""from dfnb import config
from dfnb.runs.run import start
start('03_x', config.load('p'), {GIVEN})
"""


@pytest.fixture
def home(folders):
    """Two notebooks, one profile and a corpus of two files that are never decoded."""
    held.clear()
    for folder, video in VIDEOS.items():
        files.atomic_write(folders / "corpus" / folder / "c23" / "videos" / f"{video}.mp4", "v")
    (folders / "params" / "p.yaml").write_text(PROFILE.replace("CORPUS", f"{folders}/corpus"))
    for stem in ("03_x", "08_y"):
        (folders / "notebooks" / f"{stem}.py").write_text(SCRIPT)
    notebooks.pair()
    return folders


@pytest.fixture
def profile(home):
    return config.load("p")


@pytest.fixture
def folder(home):
    """The folder of the chapter's run, which is not there yet."""
    return home / "runs" / "p" / "03_x"


@pytest.fixture
def begin(profile):
    """A function that starts the run of the chapter, with other parameters where they are given."""
    return lambda **given: start("03_x", profile, GIVEN | given)


def state_of(home, notebook="03_x"):
    path, settings = home / "notebooks" / f"{notebook}.ipynb", config.load("p")
    wanted = configuration.of_run(path, settings, {})
    return state.state(configuration.place(path, settings, wanted), wanted)


def test_a_run_goes_from_missing_to_done(home, begin, folder):
    assert state_of(home) == ("missing", "never run")
    run = begin()
    assert run.folder == folder
    assert (folder / "config.json").exists()
    assert state_of(home)[0] == "running"
    for _ in range(2):
        with run.timed("fit"):
            pass
    run.save({"auc": 0.5}, scores=SCORES, curve=pd.DataFrame({"x": [1]}))
    assert state_of(home) == ("done", "")
    done = json.loads((folder / "DONE.json").read_text())
    saved = {"config.json", "metrics.json", "timing.json", "scores.parquet", "curve.parquet"}
    assert set(done["artefacts"]) == saved
    assert done["artefacts"]["metrics.json"] == files.sha256(folder / "metrics.json")
    assert 0 < done["seconds"]["fit"] < done["seconds"]["total"]
    assert done["peak_memory_mb"] > 1
    assert done["versions"]["python"] == platform.python_version()


def test_a_notebook_may_pass_its_whole_namespace(home, begin):
    declared = parameters.declared(home / "notebooks" / "03_x.ipynb")
    assert declared == {"profile": "p"} | GIVEN
    run = begin(rank=4, other=1, profile="p", __builtins__={})
    assert run.config["parameters"] == GIVEN | {"rank": 4}


def test_metrics_are_canonical(begin, folder):
    metrics = {"b": np.float64(0.1), 2: np.array([1, 2]), "a": float("nan"),
               "c": (True, None, np.int64(3))}
    begin().save(metrics)
    text = (folder / "metrics.json").read_text()
    assert json.loads(text) == {"2": [1, 2], "a": None, "b": 0.1, "c": [True, None, 3]}
    assert list(json.loads(text)) == ["2", "a", "b", "c"]
    begin().save(dict(reversed(metrics.items())))
    assert (folder / "metrics.json").read_text() == text


@pytest.mark.parametrize("spoil", ["missing", "changed"])
@pytest.mark.parametrize("name", ["metrics.json", "config.json", "scores.parquet"])
def test_done_without_an_artefact_is_not_done(home, begin, folder, name, spoil):
    begin().save({}, scores=SCORES)
    (folder / name).unlink() if spoil == "missing" else (folder / name).write_text("{}")
    name_of_state, why = state_of(home)
    assert name_of_state == "interrupted"
    assert why.startswith(f"{name} {'is missing' if spoil == 'missing' else 'has changed'}")


def test_a_write_that_fails_anywhere_leaves_no_done_and_the_next_run_completes(
        home, begin, folder, monkeypatch):
    atomic, given = files.atomic, {"metrics": {"a": 1}, "scores": SCORES}
    begin().save(**given)
    metrics = (folder / "metrics.json").read_bytes()
    for allowed in range(5):  # config, scores, timing, metrics, DONE
        left = iter(range(allowed))
        state.clear(folder)
        held.clear()

        def limited(path, left=left):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            return atomic(path)

        with monkeypatch.context() as patch:
            patch.setattr(files, "atomic", limited)
            with pytest.raises(OSError, match="No space"):
                begin().save(**given)
        assert not (folder / "DONE.json").exists()
        begin().save(**given)
        assert state_of(home) == ("done", "")
        assert (folder / "metrics.json").read_bytes() == metrics


def test_changed_settings_make_a_run_stale(home, begin):
    begin().save({})
    path = home / "params" / "p.yaml"
    text = path.read_text()
    path.write_text(text.replace("margin: 1.3", "margin: 1.4"))
    assert state_of(home) == ("stale", "settings.crops.margin was 1.3, is 1.4")
    path.write_text(text + "notebooks: {03_x: {rank: 4}}\n")
    assert state_of(home) == ("stale", "parameters.rank was 8, is 4")


def test_a_changed_corpus_makes_a_run_stale_and_an_absent_one_does_not(home, begin):
    video = next((home / "corpus").rglob("000_001.mp4"))
    video.with_name("000_002.mp4").symlink_to(home / "nowhere")  # it hides no change of the others
    begin().save({})
    assert state_of(home) == ("done", "")
    video.write_bytes(b"another video")
    assert state_of(home) == ("stale", "the files of the corpus have changed")
    (home / "corpus").rename(home / "elsewhere")
    assert state_of(home) == ("done", "")


def test_changed_code_makes_a_run_stale_but_prose_does_not(home, begin):
    begin().save({})
    script = home / "notebooks" / "03_x.py"
    for old, new, expected in (("# %%", "# %% [markdown]\n# A sentence.\n\n# %%", "done"),
                               ("print(1)", "print(2)", "stale")):
        script.write_text(script.read_text().replace(old, new, 1))
        notebooks.pair()
        assert state_of(home)[0] == expected


def test_starting_again_leaves_a_finished_run_valid_until_it_saves(home, begin):
    begin().save({"a": 1})
    run = begin()
    assert state.settled(run.folder, run.config) == ("done", "")
    run.save({"a": 2})
    assert state_of(home) == ("done", "")
    assert results.result("p", "03_x").metrics == {"a": 2}


def test_other_parameters_have_a_folder_that_no_value_can_choose(begin, folder):
    one = begin(rank=16).folder
    same = begin(rank=np.int64(16), alpha=16).folder
    note = "../../../etc/{rank}\n" + "x" * 99
    odd = begin(note=note).folder
    assert one == same
    assert re.fullmatch(r"rank16-[0-9a-f]{12}", one.name)
    assert re.fullmatch(r"note-etc-rank-x{1,40}-[0-9a-f]{12}", odd.name)
    assert {path.name for path in (folder / state.SWEEP).iterdir()} == {one.name, odd.name}
    state.clear(folder)
    assert (folder / state.SWEEP).exists()


def test_a_run_behind_a_link_is_refused_and_a_link_in_a_run_is_not_followed(home, begin, folder):
    thesis = home / "outside" / "thesis.tex"
    files.atomic_write(thesis, "years of work")
    sentence = "lies behind a link to .*outside.*; remove the link, or set DFNB_RUNS"
    for link in (folder.parent, folder):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(thesis.parent)
        with pytest.raises(UserError, match=sentence):
            begin()
        assert list(thesis.parent.iterdir()) == [thesis]
        link.unlink()
    begin().save({})
    (folder / "adapter").symlink_to(thesis.parent)
    state.clear(folder)
    assert thesis.read_text() == "years of work"
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("name", [
    "<script>alert(1)", "{eval}`1`", "*a* _b_ $x$ [l](j:x)", "# a\n- b", "|a|", "&lt;"])
def test_a_name_from_outside_is_no_markup(name):
    assert html.unescape(escape(name)) == name
    plain = set(string.ascii_letters + string.digits + " .,-")
    assert set(re.sub("&#[0-9]+;", "", escape(name))) <= plain


@pytest.mark.parametrize(("given", "sentence"), [
    ({"rank": 8, "alpha": 1.0}, "03_x declares note, but does not pass it"),
    (GIVEN | {"beta": 1}, "has no parameter 'beta'; it declares profile .str., rank .int."),
    (GIVEN | {"rank": "8"}, "rank must be an integer, got '8'"),
    (GIVEN | {"rank": True}, "rank must be an integer, got True"),
    (GIVEN | {"rank": 2.0}, "rank must be an integer, got 2.0"),
    (GIVEN | {"alpha": float("inf")}, "alpha must be a finite number, got inf")])
def test_parameters_that_do_not_fit_the_notebook_are_refused(home, profile, given, sentence):
    with pytest.raises(UserError, match=sentence):
        start("03_x", profile, given)
    assert not (home / "runs").exists()


@pytest.mark.parametrize("name", [
    "__import__('os').system('touch hacked')", "rank = 1; import os", "../../rank", "{rank}",
    "rank\nimport os", ""])
def test_a_name_that_is_code_or_a_path_reaches_no_notebook(home, begin, name):
    notebook, path = home / "notebooks" / "03_x.ipynb", home / "params" / "p.yaml"
    path.write_text(path.read_text() + json.dumps({"notebooks": {"03_x": {name: 1}}})[1:-1])
    for refused in (lambda: parameters.chapter_parameters(notebook, config.load("p")),
                    lambda: begin(**{name: 1}),
                    lambda: parameters.parse(notebook, [f"{name}=1"])):
        with pytest.raises(UserError, match="has no parameter"):
            refused()
    assert not (home / "runs").exists()
    assert not (files.ROOT / "hacked").exists()


@pytest.mark.parametrize("name", ["04_absent", "../03_x", "/etc/passwd"])
def test_a_notebook_that_is_not_there_is_a_sentence(profile, name):
    with pytest.raises(UserError, match="there is no notebook"):
        start(name, profile, {})


def test_only_one_process_has_a_run(begin):
    run = begin()
    again = begin()  # the same cell, executed twice in JupyterLab
    assert again.folder == run.folder
    other = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True)
    assert "03_x is being run by process" in other.stderr
    again.save({})
    assert subprocess.run([sys.executable, "-c", START]).returncode == 0


def test_a_process_that_dies_leaves_an_interrupted_run(home):
    subprocess.run([sys.executable, "-c", START + "import os\nos.kill(os.getpid(), 9)"])
    assert state_of(home) == ("interrupted", "started, but neither done nor failed")


def test_a_reader_of_results_becomes_stale_with_them(home, profile, begin):
    with pytest.raises(UserError, match="of 03_x is needed, but it is missing .*--only 03_x"):
        results.result("p", "03_x")
    begin().save({"a": 1}, scores=SCORES)
    run = start("08_y", profile, GIVEN)
    result = results.result("p", "03_x")
    assert result.metrics == {"a": 1}
    assert result.scores.score.tolist() == [0.25]
    assert result.seconds["total"] > 0
    run.save({})
    assert state_of(home, "08_y") == ("done", "")
    begin().save({"a": 2})
    assert state_of(home, "08_y") == ("stale", "the result of 03_x has changed")


class Detector:
    """Saves as a LoRA detector does: a folder and a file."""

    def __init__(self, fails=False):
        self.fails = fails

    def save(self, folder):
        files.atomic_write(folder / "adapter" / "weights.safetensors", b"w")
        if self.fails:
            raise OSError("disk")
        (folder / "head.safetensors").write_bytes(b"h")


def test_a_detector_is_saved_whole_or_not_at_all(begin, folder):
    run = begin()
    with pytest.raises(OSError, match="disk"):
        run.save({}, detector=Detector(fails=True))
    assert {path.name for path in folder.iterdir()} == {"config.json", "lock"}
    run.save({}, detector=Detector())
    assert (folder / "adapter" / "weights.safetensors").read_bytes() == b"w"
    assert "head.safetensors" in json.loads((folder / "DONE.json").read_text())["artefacts"]


def test_the_stamp_says_what_the_numbers_are_not(profile, begin):
    stamp = begin().stamp()
    assert "corpus corpus;" in stamp
    assert "FaceForensics" not in stamp
    demo = config.Profile(name="p", corpus={"root": "demo"}, crops={"frames": 2, "size": 64},
                          demo={"seed": 7, "identities": 4, "frames": 2})
    stamp = start("03_x", demo, GIVEN).stamp()
    assert "Profile p; corpus demo world 7, 4 identities; commit " in stamp
    assert stamp.endswith("These are demo numbers, not FaceForensics++.")
    corpus = profile.corpus.model_copy(update={"root": "/x/<b>{eval}`1`"})
    stamp = start("03_x", profile.model_copy(update={"corpus": corpus}), GIVEN).stamp()
    assert "corpus &#60;b&#62;&#123;eval&#125;&#96;1&#96;; " in stamp
