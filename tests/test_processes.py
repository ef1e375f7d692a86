"""No command leaves a process behind, whichever signal ends it; bad parameters end it at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dfnb import UserError, cli, files
from dfnb.data import splits
from dfnb.runs import kernels, notebooks, parameters, study

SCRIPT = """# %% tags=["parameters"]
profile = "tiny"  # a profile
seconds = 60  # that it takes
seed = 0  # of nothing

# %%
import time
from dfnb import config, machine
from dfnb.runs.run import start
run = start("01_tiny", config.load(profile), globals())
if seconds:
    pool = machine.executor(2)
    [pool.submit(time.sleep, seconds) for _ in range(2)]
    time.sleep(seconds)

# %%
run.save({"seed": seed})
"""
PROFILE = {"corpus": {"root": "demo"}, "demo": {"seed": 1, "identities": 4, "frames": 2},
           "crops": {"frames": 2, "size": 64}, "notebooks": {"01_tiny": {}},
           "sweeps": {"seeds": {"notebook": "01_tiny",
                                "combinations": [{"seed": 1}, {"seed": 2}]}}}
ALONE = {"evaluate", "export", "pair", "publish", "status"}  # they start no process


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Folders of a study of one notebook, which starts two processes and takes a minute."""
    for name in ("DATA", "CACHE", "RUNS", "NOTEBOOKS", "PARAMS"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("DFNB_RUN", raising=False)
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    (tmp_path / "notebooks" / "01_tiny.py").write_text(SCRIPT)
    notebooks.pair()
    (tmp_path / "params" / "tiny.yaml").write_text(yaml.safe_dump(PROFILE))
    return tmp_path


def many(corpus: Path, folder: Path) -> Path:
    """Write a corpus of 600 videos, so that reading their headers takes a while."""
    shutil.copytree(corpus, folder)
    videos = folder / "original_sequences" / "youtube" / "c23" / "videos"
    for at in range(6, 600):
        os.link(videos / "000.mp4", videos / f"{at:03d}.mp4")
    return folder


def done(home: Path) -> None:
    """Run the study's chapter quickly, so that there is a book to build."""
    profile = PROFILE | {"notebooks": {"01_tiny": {"seconds": 0}}, "sweeps": {}}
    (home / "params" / "tiny.yaml").write_text(yaml.safe_dump(profile))
    study.run("tiny", ["01"])


# command -> its arguments, from (home, corpus, run of a detector), and its processes at work
COMMANDS = {
    "demo": (lambda home, corpus, run: [home / "world", "--identities", "40", "--frames", "100",
                                        "--workers", "2"], 3),
    "study": (lambda home, corpus, run: ["-P", "tiny"], 4),
    "run": (lambda home, corpus, run: ["01", "-P", "tiny"], 4),
    "sweep": (lambda home, corpus, run: ["-P", "tiny", "--workers", "2", "--threads", "1"], 9),
    "book": (lambda home, corpus, run: done(home) or ["-P", "tiny"], 2),
    "corpus": (lambda home, corpus, run: [many(corpus, home / "many"), "--deep"], 2),
    "score": (lambda home, corpus, run: [corpus, "--run", run, "--workers", "2",
                                         "--out", home / "scores"], 4)}


def test_every_command_is_tested_here_or_starts_no_process():
    commands = {command.name or command.callback.__name__
                for command in cli.app.registered_commands}
    assert commands == set(COMMANDS) | ALONE


def marked(mark: str) -> dict[int, str]:
    """Return the processes whose environment has the mark, and their command lines."""
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                line = (folder / "cmdline").read_text().replace("\0", " ")
                lines[int(folder.name)] = line[:200]
        except OSError:
            pass  # the process has ended, or is not ours
    return lines


def within(seconds: float, condition) -> bool:
    """Wait until the condition holds, at most some seconds; return whether it does."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return holds


@pytest.mark.slow
@pytest.mark.skipif(not kernels.LINUX, reason="it reads /proc, and processes die with their parent")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_process_outlives_a_command(command, name, home, corpus, finished):
    mark = f"DFNB_TEST_MARK={uuid.uuid4().hex}"
    arguments, count = COMMANDS[command]
    line = [sys.executable, "-m", "dfnb.cli", command,
            *map(str, arguments(home, corpus, finished[0]))]
    process = subprocess.Popen(
        line, cwd=files.ROOT, env=os.environ | dict([mark.split("=")]), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        begun = within(60, lambda: len(marked(mark)) >= count or process.poll() is not None)
        assert begun and process.poll() is None, process.stdout.read().decode()[-2000:]
        time.sleep(0.2)
        process.send_signal(signal.Signals[name])
        if name == "SIGINT" and command in ("study", "sweep"):  # the first waits for what runs
            time.sleep(1)
            process.send_signal(signal.SIGINT)
        process.wait(30)
        assert within(15, lambda: not marked(mark)), marked(mark)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


# ------------------------------------------------------------------- parameters
NOTEBOOKS = sorted((files.ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A folder in which a command would write its corpus, cache and runs."""
    for name in ("DATA", "CACHE", "RUNS"):
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    return tmp_path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_number_of_a_notebook_has_a_range_that_holds_its_default(notebook):
    for name, default in parameters.declared(notebook).items():
        assert type(default) not in (int, float) or name in parameters.RANGES, name
        parameters.check_parameters(notebook, {name: default})


def test_the_choices_are_all_protocols_and_features():
    from dfnb.detectors import probe

    assert set(parameters.CHOICES["protocol"]) == set(splits.PROTOCOLS)
    assert set(parameters.CHOICES["features"]) == set(probe.KINDS)


@pytest.mark.parametrize(("given", "sentence"), [
    (["rank", "-1"], "rank must be at least 1, got -1"),
    (["alpha=0"], "alpha must be more than 0, got 0"),
    (["dropout", "1"], "dropout must be at least 0 and less than 1, got 1.0"),
    (["fraction=0"], "fraction must be more than 0 and at most 1, got 0.0"),
    (["batch=0"], "batch must be at least 1, got 0"),
    (["protocol=studdy"], "protocol must be one of study, frame, "),
    (["test_on=FaceSwop"], "test_on is 'FaceSwop', but the manipulations of params/smoke.yaml"),
    (["repeets", "1"], "03_lora_training has no parameter 'repeets'; it declares profile (str), ")])
def test_a_bad_parameter_is_refused_before_a_corpus_is_made(given, sentence, nowhere, capsys):
    assert cli.main(["run", "03", "-P", "smoke", "-p", *given]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(nowhere.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "given", "sentence"), [
    ("02_baseline_probe", {"repeets": 1}, "no parameter 'repeets'; it declares profile, split_"),
    ("03_lora_training", {"rank": -1}, "rank must be at least 1, got -1"),
    ("08_summary", {"confidense": 0.9}, "no parameter 'confidense'; it declares profile, ")])
def test_plain_papermill_with_a_bad_parameter_ends_at_once(stem, given, sentence, nowhere):
    import papermill

    with pytest.raises(papermill.PapermillExecutionError, match=sentence):
        papermill.execute_notebook(
            f"{files.ROOT}/notebooks/{stem}.ipynb", nowhere / "out.ipynb",
            given | {"profile": "smoke"}, cwd=files.ROOT, kernel_name="python3",
            progress_bar=False)
    assert not (nowhere / "data").exists()


def test_cells_that_a_person_runs_in_another_order_are_not_refused(monkeypatch):
    ran = {"In": ["", "%time 1", "# Parameters\nrepeats = 1"]}
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(user_ns=ran))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    parameters.check_kernel()
    ran["In"][1] = "profile = 'demo'\nrepeats = 5"
    parameters.check_kernel()
    ran["In"][1] = "profile = 'demo'\nrepeets = 5"
    with pytest.raises(UserError, match="no parameter 'repeats'; it declares profile, repeets"):
        parameters.check_kernel()
