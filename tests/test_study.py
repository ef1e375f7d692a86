"""The study of tiny notebooks: order, resumption, failure, the book, and pairs of notebooks."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest

from dfnb import UserError, config, files
from dfnb.runs import book, notebooks, state, study

pytestmark = pytest.mark.slow

SCRIPT = """# %% [markdown]
# # 1. Tiny

# %% tags=["parameters"]
profile = "tiny"  # a profile
rank = 2  # a number

# %%
from dfnb import config
from dfnb.runs.run import start
run = start("STEM", config.load(profile), globals())

# %%
BODY

# %%
run.save({"rank": rank, "nan": float("nan")})
"""
NAMED = """import pandas as pd
from dfnb.runs.run import escape
from IPython.display import Markdown, display
name = "<img src=x onerror=alert(1)> {eval}`1+1` *em* [a](javascript:b)"
display(Markdown(f"The video {escape(name)}."), pd.DataFrame({"video": [name]}))"""
PROFILE = """
corpus: {root: demo}
demo: {seed: 1, identities: 4, frames: 2}
crops: {frames: 2, size: 64}
notebooks: {01_first: {rank: 3}}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Folders of a study: one notebook, one profile, no run."""
    for name in ("DATA", "CACHE", "RUNS", "NOTEBOOKS", "PARAMS"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("DFNB_RUN", raising=False)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "tiny.yaml").write_text(PROFILE)
    write(tmp_path, "01_first")
    return tmp_path


def write(home: Path, stem: str, body: str = "print(rank)") -> None:
    files.atomic_write(home / "notebooks" / f"{stem}.py",
                       SCRIPT.replace("STEM", stem).replace("BODY", body))
    notebooks.pair()


def run_all(**options) -> list[str]:
    """Run every chapter, without the book; return the lines of progress."""
    lines: list[str] = []
    every = [path.stem for path in notebooks.chapters()]
    study.run("tiny", every, progress=lines.append, **options)
    return lines


def states() -> dict[str, str]:
    return {row["notebook"]: row["state"] for row in study.status("tiny")}


def begun(process: subprocess.Popen, folder: Path) -> None:
    """Wait until the run in `folder` has begun."""
    while not (folder / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.05)


def test_a_chapter_runs_once_and_repeats_to_the_bit_when_forced(home):
    lines = run_all()
    folder = home / "runs" / "tiny" / "01_first"
    metrics = (folder / "metrics.json").read_bytes()
    assert json.loads(metrics) == {"rank": 3, "nan": None}
    assert "missing" in lines[0]
    done = json.loads((folder / "DONE.json").read_text())
    assert {"config.json", "metrics.json", "timing.json", "notebook.ipynb"} == set(
        done["artefacts"])
    assert run_all() == ["01_first: done before, skipped"]
    run_all(force=True)
    assert (folder / "metrics.json").read_bytes() == metrics
    assert json.loads((folder / "DONE.json").read_text())["finished"] >= done["finished"]


def test_a_run_with_other_parameters_has_another_folder(home):
    notebook, settings = home / "notebooks" / "01_first.ipynb", config.load("tiny")
    folder = study.execute(notebook, settings, {"rank": 7})
    assert folder.parent == home / "runs" / "tiny" / "01_first" / state.SWEEP
    assert folder.name.startswith("rank7-")
    assert json.loads((folder / "metrics.json").read_text())["rank"] == 7
    assert states() == {"01_first": "missing"}


def test_a_profile_with_a_wrong_parameter_stops_before_the_first_chapter(home):
    (home / "params" / "tiny.yaml").write_text(PROFILE.replace("rank: 3", "rank: x"))
    sentence = r"rank must be an integer, got 'x' \(params/tiny.yaml, 01_first\)"
    with pytest.raises(UserError, match=sentence):
        study.run("tiny")
    assert not (home / "runs").exists()


def test_a_failed_chapter_stops_the_study_with_the_notebooks_sentence(home):
    error = "from dfnb import UserError\nraise UserError('rank must be at least 9, got 2')"
    write(home, "02_bad", error)
    write(home, "03_after")
    with pytest.raises(state.StudyFailed, match="^02_bad failed: rank must be at least 9, got 2$"):
        run_all()
    folder = home / "runs" / "tiny" / "02_bad"
    failed = json.loads((folder / "FAILED.json").read_text())
    assert (failed["reason"], failed["attempt"]) == ("bad parameters", 1)
    assert not (folder / "DONE.json").exists()
    assert states() == {"01_first": "done", "02_bad": "failed", "03_after": "missing"}
    write(home, "02_bad")
    run_all()
    assert set(states().values()) == {"done"}
    assert not (folder / "FAILED.json").exists()


@pytest.mark.parametrize(("body", "reason", "sentence"), [
    ("import os\nos.kill(os.getpid(), 9)", "kernel died", "kernel was killed"),
    ("1 / 0", "error", "ZeroDivisionError: division by zero .see .*notebook.log"),
    ("import sys\nrun.save = lambda metrics: None", "error", "ended without saving")])
def test_a_notebook_that_does_not_reach_its_end_has_failed(home, body, reason, sentence):
    write(home, "01_first", body)
    with pytest.raises(state.StudyFailed, match=sentence):
        run_all()
    folder = home / "runs" / "tiny" / "01_first"
    assert json.loads((folder / "FAILED.json").read_text())["reason"] == reason
    assert states() == {"01_first": "failed"}


def test_a_killed_study_continues_where_it_stopped(home):
    wait = f"import os, time\nif not os.path.exists('{home}/go'):\n    time.sleep(60)"
    write(home, "02_slow", wait)
    code = "from dfnb.runs import study; study.run('tiny', ['01', '02'])"
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=files.ROOT)
    begun(runner, home / "runs" / "tiny" / "02_slow")
    assert states() == {"01_first": "done", "02_slow": "running"}
    with pytest.raises(UserError, match=f"02_slow is being run by process {runner.pid} on"):
        study.run("tiny", ["02"])
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    assert states() == {"01_first": "done", "02_slow": "interrupted"}
    (home / "go").touch()
    lines = run_all()
    assert lines[0] == "01_first: done before, skipped"
    assert lines[1].startswith("02_slow: running (interrupted")
    assert set(states().values()) == {"done"}


def test_an_interrupted_study_can_be_continued(home):
    write(home, "01_first", "import time\ntime.sleep(60)")
    command = [sys.executable, "-m", "dfnb.cli", "study", "--profile", "tiny"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background ignores it
    runner = subprocess.Popen(command, cwd=files.ROOT, stderr=subprocess.PIPE, text=True,
                              preexec_fn=heard)
    begun(runner, home / "runs" / "tiny" / "01_first")
    runner.send_signal(signal.SIGINT)
    assert "run the same command again to go on" in runner.communicate(timeout=20)[1]
    assert runner.returncode == 130
    assert states() == {"01_first": "interrupted"}


def test_a_changed_notebook_is_stale_and_runs_again(home):
    run_all()
    write(home, "01_first", "print(rank + 1)")
    why = study.status("tiny")[0]["why"]
    assert why == "the code of the package or of the notebook has changed"
    assert "stale" in run_all()[0]


def test_a_notebook_that_differs_from_its_script_is_not_run(home):
    path = home / "notebooks" / "01_first.py"
    path.write_text(path.read_text().replace("print(rank)", "print(-rank)"))
    assert notebooks.differs() == ["01_first"]
    with pytest.raises(UserError, match="01_first: script and notebook differ; `dfnb pair`"):
        study.run("tiny")
    assert notebooks.pair() == ["01_first"]
    assert notebooks.differs() == []


def test_outputs_that_an_editor_leaves_do_not_make_the_code_of_a_pair_differ(home):
    path = home / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert [cell.id for cell in notebook.cells] == [f"01-first-{index:02d}" for index in range(5)]
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(notebook, path)
    assert notebooks.differs() == ["01_first"]
    assert notebooks.differs(exactly=False) == []


def test_a_book_is_refused_while_a_chapter_is_missing_and_built_when_all_are_done(home):
    source = home / "book"
    files.atomic_write(source / "_config.yml", 'title: Tiny\nexecute: {execute_notebooks: "off"}\n')
    files.atomic_write(source / "_toc.yml", "format: jb-book\nroot: index\nchapters:\n"
                                            "- file: chapters/01_first\n")
    files.atomic_write(source / "index.md", "# A tiny book\n")
    write(home, "01_first",
          f"from dfnb import files\nprint(files.ROOT / 'x', run.folder)\n{NAMED}")
    with pytest.raises(UserError, match="01_first is missing .* no book to print"):
        book.build("tiny", study.status("tiny"), source)
    run_all()
    page = book.build("tiny", study.status("tiny"), source)
    assert page == source / "_build" / "tiny" / "_build" / "html" / "index.html"
    assert "A tiny book" in page.read_text()
    chapter = (source / "_build" / "tiny" / "chapters" / "01_first.ipynb").read_text()
    assert "x runs/tiny/01_first" in chapter  # what was printed, without this machine's folders
    local = (str(files.ROOT), str(home / "runs"), "papermill", "iopub")
    assert not any(word in chapter for word in local)
    assert not (source / "chapters").exists()
    html = (page.parent / "chapters" / "01_first.html").read_text()  # names from outside stay text
    shown = "The video &lt;img src=x onerror=alert(1)&gt; {eval}`1+1` *em* [a](javascript:b)."
    assert shown in html
    assert html.count("&lt;img src=x") == 3  # in the code, the sentence and the table
    assert "<img src=x" not in html


def test_only_the_demos_chapters_are_published(home, monkeypatch):
    with pytest.raises(UserError, match="the profile tiny is not published"):
        book.publish("tiny", [])
    monkeypatch.setattr(book, "PUBLISHED", "tiny")
    with pytest.raises(UserError, match="01_first is missing"):
        book.publish("tiny", study.status("tiny"))
    run_all()
    written = book.publish("tiny", study.status("tiny"), home / "book")
    assert written == [home / "book" / "chapters" / "01_first.ipynb"]
    assert str(home) not in written[0].read_text()


def test_a_result_of_plain_papermill_counts_but_gives_no_page(home):
    env = os.environ | {"JUPYTER_RUNTIME_DIR": str(home / "jupyter")}
    notebook = home / "notebooks" / "01_first.ipynb"
    subprocess.run([sys.executable, "-m", "papermill", notebook, home / "out.ipynb",
                    "-p", "rank", "3"], env=env, check=True, capture_output=True)
    folder = home / "runs" / "tiny" / "01_first"
    artefacts = state.read_json(folder / "DONE.json")["artefacts"]
    assert set(artefacts) == {"config.json", "metrics.json", "timing.json"}
    assert study.status("tiny")[0]["why"].startswith("it was run outside of the study")
