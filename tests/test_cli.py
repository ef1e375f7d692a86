"""The command line: quick to start, one sentence for a mistake, no traceback."""

import subprocess
import sys
import time

import pytest

from dfnb import cli
from dfnb.runs import grid, notebooks, study
from dfnb.runs import state as run_state


def test_help_and_import_take_less_than_a_third_of_a_second():
    for arguments in (["-c", "import dfnb"], ["-m", "dfnb.cli", "--help"]):
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.3


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["study", "--profile", "nope"], "there is no profile 'nope'"),
    (["status", "--profile", "../demo"], "there is no profile '../demo'"),
    (["corpus", "/nowhere/at/all"], "/nowhere/at/all"),
])
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err
    assert output.err.startswith("dfnb: ")
    assert output.err.count("\n") == 1


def test_a_wrong_option_is_explained_with_exit_code_2(capsys):
    assert cli.main(["study", "--profil", "demo"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_a_failed_study_has_exit_code_1(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise run_state.StudyFailed("02_bad failed: no")

    monkeypatch.setattr(study, "run", fail)
    assert cli.main(["study"]) == 1
    assert capsys.readouterr().err == "dfnb: 02_bad failed: no\n"


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupt)
    assert cli.main(["study"]) == 130
    assert "interrupted; run the same command again to go on" in capsys.readouterr().err


def test_a_defect_of_ours_is_not_dressed_up_as_the_users(monkeypatch):
    monkeypatch.setattr(study, "run", lambda *arguments, **options: [][0])
    with pytest.raises(IndexError):
        cli.main(["study"])


def test_mistakes_of_the_demo_are_sentences_too(tmp_path, capsys):
    assert cli.main(["demo", str(tmp_path / "d"), "--identities", "-3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("given", "parameters"), [
    (["-p", "rank", "16", "-p", "alpha", "32"], {"rank": 16, "alpha": 32.0}),
    (["-p", "rank=16", "-p", "alpha", "1.5"], {"rank": 16, "alpha": 1.5}),
    (["-p", "note", "a=b", "-p", "fast", "False"], {"note": "a=b", "fast": False}),
    ([], {}),
])
def test_parameters_are_read_in_their_declared_types(given, parameters, monkeypatch, tmp_path, notebook):
    seen = []
    monkeypatch.setattr(notebooks, "find", lambda name: notebook)
    monkeypatch.setattr(study, "execute", lambda path, profile, given, **options: seen.append(given))
    assert cli.main(["run", "03", *given, "--profile", "smoke"]) == 0
    assert seen == [parameters]


@pytest.mark.parametrize(("given", "sentence"), [
    (["-p", "rank", "16.5"], "rank must be an integer, got '16.5'"),
    (["-p", "alpha", "nan"], "alpha must be a finite number"),
    (["-p", "rank); import os; (", "1"], "has no parameter"),
    (["-p", "rank"], "NAME VALUE or NAME=VALUE"),
])
def test_parameters_that_do_not_fit_are_refused(given, sentence, monkeypatch, capsys, notebook):
    monkeypatch.setattr(notebooks, "find", lambda name: notebook)
    assert cli.main(["run", "03", "--profile", "smoke", *given]) == 2
    assert sentence in capsys.readouterr().err


@pytest.fixture
def notebook(tmp_path):
    lines = ["rank = 8  # rank", "alpha = 16.0  # scale", 'note = ""  # text', "fast = True  # yes or no"]
    (tmp_path / "03_x.py").write_text('# %% tags=["parameters"]\n' + "\n".join(lines) + "\n")
    notebooks.pair(tmp_path)
    return tmp_path / "03_x.ipynb"


def test_pair_says_what_it_wrote(monkeypatch, tmp_path, capsys, notebook):
    monkeypatch.setenv("DFNB_NOTEBOOKS", str(tmp_path))
    notebook.unlink()
    assert cli.main(["pair"]) == 0
    assert capsys.readouterr().out == "03_x\n"
    assert cli.main(["pair"]) == 0
    assert capsys.readouterr().out == "all pairs are equal\n"


def test_the_status_is_a_line_a_chapter(monkeypatch, capsys):
    rows = [{"notebook": "01_a", "state": "done", "why": "", "seconds": "12"},
            {"notebook": "02_b", "state": "stale", "why": "crops.margin was 1.3, is 1.4", "seconds": ""}]
    monkeypatch.setattr(study, "status", lambda profile: rows)
    runs = [{"run": "rank4-0", "state": "failed", "why": "diverged: the loss is nan"},
            {"run": "rank5-1", "state": "done", "why": ""}]
    monkeypatch.setattr(grid, "by_name", lambda profile: {"grid": runs})
    assert cli.main(["status"]) == 0
    first, second, sweep, run = capsys.readouterr().out.splitlines()
    assert sweep.split() == ["sweep", "grid", *["2", "runs:", "1", "done,", "1", "failed"]]
    assert run.split() == ["rank4-0", "failed", *runs[0]["why"].split()]
    assert first.split() == ["01_a", "done", "12", "s"]
    assert second.split() == ["02_b", "stale", *rows[1]["why"].split()]
