"""Forked kernels: they come with their imports done, and nobody outlives whom it works for."""

import json
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from dfnb import files
from dfnb.runs import kernels, notebooks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not kernels.can_fork(), reason="kernels are forked on Linux only")]
SCRIPT = '''# %% tags=["parameters"]
profile = "tiny"  # a profile
name = ""  # of the run
fault = ""  # what goes wrong

# %%
import os, sys
early = "xml.dom.minidom" in sys.modules, "dfnb" in sys.modules
note = [os.getppid(), os.getpid(), *early, os.environ["OMP_NUM_THREADS"],
        os.getsid(0) == os.getpid()]

# %%
%matplotlib inline
1

# %%
import json, time, xml.dom.minidom
import pandas, psutil
from dfnb import config
from dfnb.runs.run import start
run = start("03_tiny", config.load(profile), dict(name=name, fault=fault))
with open("HOME/notes", "a") as file:
    print(json.dumps([*note, pandas.get_option("display.max_columns")]), file=file)
if fault == "stand-in":
    worker = psutil.Process(os.getppid()).parent()
    [child.kill() for child in worker.children() if "-ISc" in child.cmdline()]
    time.sleep(60)

# %%
run.save({"name": name})
'''
WORKER = '''from dfnb import config
from dfnb.runs import notebooks, state, study
path_of = notebooks.folder().joinpath
def run(name, forked=True, **given):
    notebook, parameters = path_of("03_tiny.ipynb"), {"name": name, **given}
    try:
        study.execute(notebook, config.load("tiny"), parameters, threads=1, forked=forked)
        print("done", flush=True)
    except state.StudyFailed as error:
        print(error.reason, flush=True)
'''


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A function that runs lines of `run(...)` in a separate process: what they print, and
    the kernels' notes.
    """
    for name in ("RUNS", "NOTEBOOKS", "PARAMS"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(f"DFNB_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("DFNB_RUN", raising=False)
    script = tmp_path / "notebooks" / "03_tiny.py"
    script.write_text(SCRIPT.replace("HOME", str(tmp_path)))
    notebooks.pair()
    (tmp_path / "params" / "tiny.yaml").write_text(yaml.safe_dump(
        {"corpus": {"root": "demo"}, "demo": {"seed": 1, "identities": 4, "frames": 2},
         "crops": {"frames": 2, "size": 64}}))

    def work(lines: str) -> tuple[list[str], list[list]]:
        command = [sys.executable, "-c", WORKER + lines]
        done = subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines(), [
            json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]

    return work


def ended(pid: int, seconds: float = 5) -> bool:
    """Whether a process is gone, or will be in a moment; one that nobody has waited for is gone
    too.
    """
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_one_server_forks_kernels_with_all_imported_but_dfnb_which_may_have_changed(worker):
    change = """path = path_of("03_tiny.py")
path.write_text(path.read_text() + "\\n# %%\\n1 + 1\\n")
notebooks.pair()
"""
    said, notes = worker('run("a")\nrun("b")\nrun("fresh", forked=False)\n' + change + 'run("c")')
    assert said == ["done"] * 4
    servers, pids, early, own, threads, leads, columns = zip(*notes, strict=True)
    assert servers[0] == servers[1] == servers[3] != servers[2]
    assert len(set(pids)) == 4
    assert early == (True, True, False, True)
    assert own == (False,) * 4
    assert threads == ("1",) * 4
    assert leads == (True,) * 4  # its own session: Ctrl-C in the terminal does not reach it
    # tables look alike, though pandas was imported outside of IPython
    assert len(set(columns)) == 1


def test_a_kernel_dies_with_its_stand_in_and_the_next_run_has_another(worker):
    said, notes = worker('run("a", fault="stand-in")\nrun("b")')
    assert said == ["kernel died", "done"]
    assert notes[0][0] == notes[1][0]  # the server goes on
    assert ended(notes[0][1])
    assert ended(notes[1][0])  # and ended with its worker
