"""The command line: quick to start, one sentence for a mistake, no traceback."""

import subprocess
import sys

import pytest

from dfnb import cli
from dfnb.runs import grid, notebooks, study
from dfnb.runs import state as run_state

HEAVY = {"torch", "numpy", "pandas", "scipy", "cv2", "av", "matplotlib", "transformers", "pydantic"}
RUN = ["run", "03", "--profile", "smoke"]


def test_help_imports_no_heavy_library():
    program = ("import sys; from dfnb import cli; cli.main(['--help']); "
               f"print({HEAVY} & set(sys.modules))")
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True,
                         text=True)
    assert "Commands:" in run.stdout and run.stdout.endswith("\nset()\n")


def test_the_help_of_every_command_and_option_is_text_that_ends_with_a_full_stop():
    for command in cli.typer.main.get_command(cli.app).commands.values():
        texts = [command.help, *(getattr(option, "help", "x.") for option in command.params)]
        assert all(text and text.endswith((".", "NAME VALUE")) for text in texts), texts


@pytest.mark.parametrize(("arguments", "sentence"), [
     (["study", "--profile", "nope"], "there is no profile 'nope'"),
     (["status", "--profile", "../demo"], "there is no profile '../demo'"),
     (["corpus", "/nowhere/at/all"], "/nowhere/at/all"),
     (["demo", "/nowhere/at/all", "--identities", "-3"], "identities"),
     ([*RUN, "-p", "rank", "16.5"], "rank must be an integer, got '16.5'"),
     ([*RUN, "-p", "alpha", "nan"], "alpha must be a finite number"),
     ([*RUN, "-p", "rank); import os; (", "1"], "has no parameter"),
     ([*RUN, "-p", "rank"], "NAME VALUE or NAME=VALUE")])
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, capsys, notebook):
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and sentence in output.err
    assert output.err.startswith("dfnb: ") and output.err.count("\n") == 1


def test_a_wrong_option_is_explained_with_exit_code_2(capsys):
    assert cli.main(["study", "--profil", "demo"]) == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code", "sentence"), [
    (run_state.StudyFailed("02_bad failed: no"), 1, "dfnb: 02_bad failed: no\n"),
    (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on\n"),
    (IndexError(), None, None)])
def test_a_failed_study_and_an_interrupted_one_have_exit_codes_and_a_bug_is_raised(
        error, code, sentence, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(study, "run", fail)
    if sentence is None:
        with pytest.raises(IndexError):
            cli.main(["study"])
        return
    assert cli.main(["study"]) == code
    assert capsys.readouterr().err.endswith(sentence)


@pytest.mark.parametrize(("given", "parameters"), [
    (["-p", "rank", "16", "-p", "alpha", "32"], {"rank": 16, "alpha": 32.0}),
    (["-p", "rank=16", "-p", "alpha", "1.5"], {"rank": 16, "alpha": 1.5}),
    (["-p", "note", "a=b", "-p", "fast", "False"], {"note": "a=b", "fast": False}),
    ([], {})])
def test_parameters_are_read_in_their_declared_types(given, parameters, monkeypatch, notebook):
    calls = []
    monkeypatch.setattr(study, "execute", lambda path, profile, given, **_: calls.append(given))
    assert cli.main([*RUN, *given]) == 0
    assert calls == [parameters]


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """The notebook that `dfnb run` finds, whatever its name."""
    lines = ['# %% tags=["parameters"]', "rank = 8  # rank", "alpha = 16.0  # scale",
             'note = ""  # text', "fast = True  # yes or no"]
    (tmp_path / "03_x.py").write_text("\n".join(lines))
    notebooks.pair(tmp_path)
    monkeypatch.setattr(notebooks, "find", lambda name: tmp_path / "03_x.ipynb")
    return tmp_path / "03_x.ipynb"


def test_pair_prints_what_it_wrote(monkeypatch, tmp_path, capsys, notebook):
    monkeypatch.setenv("DFNB_NOTEBOOKS", str(tmp_path))
    notebook.unlink()
    assert [cli.main(["pair"]), cli.main(["pair"])] == [0, 0]
    assert capsys.readouterr().out == "03_x\nall pairs are equal\n"


def test_the_status_is_a_line_per_chapter_and_per_sweep(monkeypatch, capsys):
    rows = [{"notebook": "01_a", "state": "done", "why": "", "seconds": "12"}, {
        "notebook": "02_b", "state": "stale", "why": "crops.margin was 1.3, is 1.4", "seconds": ""}]
    runs = [{"run": "rank4-0", "state": "failed", "why": "diverged: the loss is nan"},
            {"run": "rank5-1", "state": "done", "why": ""}]
    monkeypatch.setattr(study, "status", lambda profile: rows)
    monkeypatch.setattr(grid, "by_name", lambda profile: {"grid": runs})
    assert cli.main(["status"]) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "01_a done 12 s", "02_b stale crops.margin was 1.3, is 1.4",
        "sweep grid 2 runs: 1 done, 1 failed", "rank4-0 failed diverged: the loss is nan"]
