"""Sweeps of tiny notebooks: what they expand to, and that no death loses or repeats a run."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from dfnb import UserError, cli, config, files
from dfnb.runs import grid as grids
from dfnb.runs import notebooks, state, study
from dfnb.runs import sweep as sweeps

SCRIPT = """# %% tags=["parameters"]
profile = "tiny"  # a profile
split_seed = 0  # first seed
repeats = 2  # splits
rank = 2  # a number
dropout = 0.0  # a share
fault = ""  # what goes wrong

# %%
import os, time
from dfnb import DataError, UserError, config
from dfnb.runs.run import start
run = start("03_tiny", config.load(profile), dict(
    split_seed=split_seed, repeats=repeats, rank=rank, dropout=dropout, fault=fault))
with open("HOME/executed", "a") as file:
    file.write(run.folder.name + "\\n")

# %%
BODY

# %%
run.save({"value": (rank + split_seed) / 3 - dropout, "repeats": repeats})
"""
FAULTS = {
    "killed": "os.kill(os.getpid(), 9)", "slow": "time.sleep(60)",
    "memory": "raise MemoryError('a lot')",
    "bad": "raise UserError('rank must be at least 9, got 2')",
    "data": "from dfnb import DataError; raise DataError('there is no corpus')",
    "diverged": "raise type('Diverged', (UserError,), {})"
                "('training diverged at step 3: the loss is nan')",
    "idle": "raise type('NoGradient', (UserError,), {})"
            "('2 trainable parameters get no gradient: a, b')",
    "full": "raise OSError(28, 'No space left on device')", "other": "1 / 0"}
BODY = "\n".join(f"if fault == '{name}':\n    {code}" for name, code in FAULTS.items())
PROFILE = {"corpus": {"root": "demo"}, "demo": {"seed": 1, "identities": 4, "frames": 2},
           "crops": {"frames": 2, "size": 64}, "notebooks": {"03_tiny": {"rank": 3}}}
GRID = {"notebook": "03_tiny", "grid": {"rank": [4, 5], "dropout": [0, 0.1]}}
CELLS = {  # the name of each run, its rank and its dropout
    "repeats1-rank4-affd8a0f9e43": (4, 0.0), "repeats1-rank4-dropout0.1-f00f11fdef8b": (4, 0.1),
    "repeats1-rank5-9af979fd4a0f": (5, 0.0), "repeats1-rank5-dropout0.1-56dfb4858e9e": (5, 0.1)}
NAMES = list(CELLS)


@pytest.fixture
def home(folders, monkeypatch):
    """A study of one notebook and its sweep; `executed` gets a line from every kernel."""
    (folders / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folders / "temporary"))
    write(folders)
    declare(folders, grid=GRID)
    return folders


def write(home: Path, body: str = BODY, stem: str = "03_tiny") -> None:
    script = SCRIPT.replace("HOME", str(home)).replace("BODY", body).replace("03_tiny", stem)
    (home / "notebooks" / f"{stem}.py").write_text(script)
    notebooks.pair()


def declare(home: Path, **named) -> None:
    profile = yaml.safe_dump(PROFILE | {"sweeps": named}, sort_keys=False)
    (home / "params" / "tiny.yaml").write_text(profile)


def cells(**options):
    return grids.expand(config.load("tiny"), **options)


def executed(home: Path) -> Counter:
    """How often each run's notebook has begun."""
    path = home / "executed"
    return Counter(path.read_text().split() if path.exists() else [])


def states() -> list[str]:
    return [row["state"] for row in grids.table("tiny")]


def metrics() -> dict[str, bytes]:
    rows = grids.table("tiny")
    return {row["run"]: (row["folder"] / "metrics.json").read_bytes() for row in rows}


def content(rank: int, dropout: float, seed: int = 0) -> bytes:
    """What metrics.json holds in the end, to the bit."""
    return files.canonical({"value": (rank + seed) / 3 - dropout, "repeats": 1}).encode()


def run(**options) -> list[dict]:
    """Run the sweeps; the executor starts at once, for the kernels are processes anyway."""
    return sweeps.run("tiny", executor=ThreadPoolExecutor(2), **options)


def finish(**options) -> None:
    run(workers=2, **options)
    assert set(states()) == {"done"}


# ------------------------------------------------------------------- which runs
def test_a_grid_has_a_cell_for_every_combination_with_a_name_fixed_by_its_parameters(home):
    found = {cell.folder.name: cell.config["parameters"] for cell in cells()}
    assert {name: (one["rank"], one["dropout"]) for name, one in found.items()} == CELLS
    assert {(one["repeats"], one["fault"]) for one in found.values()} == {(1, "")}
    same = {"notebook": "03_tiny", "combinations": [{"dropout": 0, "rank": 4, "repeats": 1}]}
    declare(home, other=same)
    assert [cell.folder.name for cell in cells()] == NAMES[:1]


def test_one_factor_at_a_time_has_the_base_once_and_every_seed(home):
    factors = {"rank": [3, 4], "dropout": [0, 0.1]}
    declare(home, around={"notebook": "03_tiny", "one_at_a_time": factors, "seeds": [0, 1]},
            grid=GRID)
    around = [cell.config["parameters"] for cell in cells(only=["around"])]
    assert [(one["rank"], one["dropout"], one["split_seed"]) for one in around] == [
        (3, 0.0, 0), (3, 0.0, 1), (4, 0.0, 0), (4, 0.0, 1), (3, 0.1, 0), (3, 0.1, 1)]
    shared = [cell.folder.name for cell in cells() if cell.sweeps == ("around", "grid")]
    assert shared == NAMES[:1]  # rank 4, dropout 0, seed 0
    assert len(cells()) == 6 + 4 - 1
    assert len(cells(only=["03_tiny"])) == len(cells(only=["03"])) == 9


def test_the_demo_has_the_grid_of_the_study_and_three_seeds_of_every_factor():
    grid, around = ([cell.config["parameters"] for cell in cells_of]
                    for cells_of in (grids.expand(config.load("demo"), [name])
                                     for name in ("grid", "one_factor")))
    assert len({(one["rank"], one["alpha"], one["dropout"]) for one in grid}) == len(grid) == 27
    # the base, two other values of each of three factors, and two blocks
    assert Counter(one["split_seed"] for one in around) == {0: 8, 1: 8, 2: 8}


@pytest.mark.parametrize(("sweep", "only", "sentence"), [
    ({"grid": {"rnak": [1]}}, None, r"has no parameter 'rnak' \(params/tiny.yaml, sweeps.grid\)"),
    ({"grid": {"rank": [1, "two"]}}, None,
     r"rank must be an integer, got 'two' \(params/tiny.yaml, sweeps.grid\)"),
    ({"combinations": [{"profile": "demo"}]}, None, "runs under its own profile"),
    ({"grid": {"rank": [1]}, "base": {"rank": 2}}, None,
     "sweeps.grid is .*, but rank is in the base and in the grid"),
    ({"grid": {"rank": [1]}, "combinations": [{}]}, None,
     "has one of grid, combinations and one_at_a_time, not grid and combinations"),
    ({}, None, "has one of grid, combinations and one_at_a_time, not none"),
    ({"grid": {"rank": []}}, None, "sweeps.grid.grid.rank is .*at least 1 item"),
    ({"combinations": [{}], "notebook": "09_absent"}, None, "there is no chapter '09_absent'"),
    (GRID, ["gird"], r"no sweep 'gird' in params/tiny.yaml; its sweeps are grid \(03_tiny\)")])
def test_a_mistake_in_a_sweep_is_a_sentence_before_anything_runs(home, sweep, only, sentence):
    declare(home, grid={"notebook": "03_tiny"} | sweep)
    with pytest.raises(UserError, match=sentence):
        run(only=only)
    assert not (home / "runs").exists()


def test_a_dry_run_says_what_would_run_and_runs_nothing(home, capsys):
    assert cli.main(["sweep", "--profile", "tiny", "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [[name, "missing", "run", "never", "run"] for name in NAMES]
    assert " ".join(lines[4]) == "4 runs: 4 missing"
    assert not (home / "runs").exists()


def test_processes_that_all_die_at_once_end_the_sweep_and_blame_no_run(home):
    class Broken(ThreadPoolExecutor):
        def submit(self, *arguments):
            raise BrokenExecutor("no worker begins")

    sentence = "die at once .BrokenExecutor: no worker begins.*__main__"
    with pytest.raises(sweeps.SweepFailed, match=sentence):
        sweeps.run("tiny", executor=Broken())
    assert states() == ["missing"] * 4


# ------------------------------------------------------------------- running, failing, going on
@pytest.mark.slow
def test_a_sweep_runs_each_cell_once_in_processes_with_their_share_of_threads(home):
    note = f"with open('{home}/order', 'a') as file:\n    print(WORD, file=file)\n"
    begin = note.replace("WORD", "os.environ['OMP_NUM_THREADS']")
    write(home, f"{begin}time.sleep(0.3)\n{note.replace('WORD', repr('end'))}")
    lines: list[str] = []
    rows = sweeps.run("tiny", workers=2, threads=3, progress=lines.append)
    assert {row["state"] for row in rows} == {"done"}
    assert metrics() == {name: content(*cell) for name, cell in CELLS.items()}
    order = (home / "order").read_text().split("\n")
    assert order[:2] == ["3", "end"]  # the first makes the crops that all share
    assert all(state.read_json(row["folder"] / "DONE.json")["threads"] == 3 for row in rows)
    assert lines[0].startswith(f"1/4 {NAMES[0]} done; about ")
    assert lines[-1].startswith("4/4 ")
    assert sweeps.run("tiny", workers=2) == rows
    assert executed(home) == Counter(NAMES)


@pytest.mark.slow
def test_chapters_that_wait_for_no_other_run_side_by_side_with_the_sweeps(home, capsys):
    meet = f"""open(f"{home}/{{run.folder.name[:2]}}.begun", "w").close()
while not (os.path.exists("{home}/04.begun") and os.path.exists("{home}/05.begun")):
    time.sleep(0.05)"""
    read = """from dfnb.runs.results import result
result('tiny', '05_tiny'), result('tiny', '04_tiny')"""
    for stem, body in (("04", meet), ("05", meet), ("07", read), ("08", "")):
        write(home, body, f"{stem}_tiny")
    declare(home, rows=GRID | {"chapter": "08_tiny"})
    names = ["03_tiny", "04_tiny", "05_tiny", "07_tiny", "08_tiny"]
    only = [word for name in names for word in ("--only", name)]
    arguments = ["study", "--profile", "tiny", "--workers", "2", *only]
    assert cli.main(arguments) == 0
    words = capsys.readouterr().out
    assert words.startswith(
        f"{'; '.join(names)}; the runs of rows\n03_tiny: running\n1/9 03_tiny done in ")
    assert "\n04_tiny: running\n05_tiny: running\n" in words
    assert "\n9/9 08_tiny done in " in words and words.endswith("sweeps: 4 runs: 4 done\n")
    begun = (home / "executed").read_text().split()
    assert begun[0] == "03_tiny" and set(begun[1:3]) == {"04_tiny", "05_tiny"}
    assert begun[-1] == "08_tiny"  # its rows were done before it began
    assert cli.main(arguments) == 0
    assert executed(home) == Counter([*names, *NAMES])


@pytest.mark.slow
def test_chapters_that_name_each_other_do_not_wait_for_ever(home):
    write(home, "'05_tiny'", "04_tiny")
    write(home, "'04_tiny'", "05_tiny")
    assert cli.main(["study", "--profile", "tiny", "--only", "04", "--only", "05"]) == 0
    assert executed(home) == Counter(["04_tiny", "05_tiny"])


@pytest.mark.slow
def test_a_chapter_that_fails_stops_the_study_and_is_tried_again_by_the_next(home, capsys):
    write(home, "raise UserError('nothing to train on')", "02_tiny")
    write(home, "", "04_tiny")
    declare(home, grid=GRID | {"chapter": "03_tiny"})
    only = ["--only", "02", "--only", "03", "--only", "04"]
    arguments = ["study", "--profile", "tiny", "--workers", "1", *only]
    for _ in range(2):
        assert cli.main(arguments) == 1
        assert "dfnb: 02_tiny failed: nothing to train on" in capsys.readouterr().err
    assert executed(home) == Counter({"02_tiny": 2})
    write(home, "", "02_tiny")
    assert cli.main(arguments) == 0
    assert {row["state"] for row in study.status("tiny")} == {"done"}


@pytest.mark.slow
def test_a_failed_run_stops_no_other_and_says_its_class(home, capsys):
    faults = {
        "killed": "kernel died", "memory": "out of memory", "bad": "bad parameters", "data": "data",
        "diverged": "diverged", "idle": "no gradient", "other": "error"}
    declare(home, faults={"notebook": "03_tiny", "grid": {"fault": [*faults, ""]}})
    rows = run(workers=2)
    failed = [state.read_json(row["folder"] / "FAILED.json") for row in rows[:-1]]
    assert [record["reason"] for record in failed] == list(faults.values())
    # what may pass has another attempt
    assert [record["attempt"] for record in failed] == [2, 2, 1, 1, 1, 1, 1]
    assert [row["state"] for row in rows] == ["failed"] * 7 + ["done"]
    assert failed[2]["message"] == "rank must be at least 9, got 2"
    before = executed(home)
    sentence = "faultkilled-.* and 6 more not done .failed: kernel died: its"
    with pytest.raises(sweeps.SweepFailed, match=sentence):
        sweeps.check_done(run())
    assert executed(home) == before  # failed runs are left alone
    capsys.readouterr()
    assert cli.main(["status", "--profile", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "sweep faults            8 runs: 1 done, 7 failed" in out
    assert "diverged: training diverged at step 3: the loss is nan" in out
    write(home, "")  # the notebook is another one now
    rows = grids.table("tiny")
    assert {row["state"] for row in rows} == {"stale"}
    assert all("but since then the code of the package" in row["why"] for row in rows[:-1])
    finish()


@pytest.mark.slow
def test_failed_runs_are_repeated_when_asked_and_a_slow_one_is_stopped(home):
    write(home, f"if not os.path.exists('{home}/go'):\n    time.sleep(60)")
    slow = {"combinations": [{"rank": 4}], "timeout": 3, "retries": 0}
    declare(home, slow={"notebook": "03_tiny"} | slow)
    assert run()[0]["why"].startswith("timeout: it took longer")
    (home / "go").touch()
    assert run()[0]["state"] == "failed"
    finish(retry_failed=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_with_a_sentence_and_spoils_nothing(home, monkeypatch):
    run()
    before = {path: path.read_bytes() for path in (home / "runs").rglob("*") if path.is_file()}
    more = {"notebook": "03_tiny", "combinations": [{"rank": 8}, {"rank": 9}], "seeds": [0, 1]}
    declare(home, grid=GRID, more=more)
    atomic = files.atomic

    def full(path):
        if path.name in ("DONE.json", "FAILED.json"):
            raise OSError(28, "No space left on device")
        return atomic(path)

    sentence = "no space is left on the device; free some and run the same"
    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic", full)
        with pytest.raises(sweeps.SweepFailed, match=sentence):
            run(workers=1)
    assert states() == ["done"] * 4 + ["interrupted"] + ["missing"] * 3
    assert {path: path.read_bytes() for path in before} == before
    finish()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_kernel_without_disk_space_is_told_as_such(home):
    declare(home, full={"notebook": "03_tiny", "combinations": [{"fault": "full"}, {"rank": 9}]})
    with pytest.raises(sweeps.SweepFailed, match="03_tiny failed: no space is left on the device"):
        run(workers=1)
    assert states() == ["failed", "missing"]


@pytest.mark.slow
def test_a_run_that_kills_its_process_is_given_up_and_the_others_end(home):
    write(home, "if (rank, dropout) == (5, 0):\n    os.kill(os.getppid(), 9)\n    time.sleep(9)")
    rows = sweeps.run("tiny", workers=2)
    assert [row["state"] for row in rows] == ["done", "done", "failed", "done"]
    assert "kernel died: the process that executed it was lost 3 times" in rows[2]["why"]
    assert executed(home)[NAMES[2]] == 3


# ------------------------------------------------------------------- deaths of the runner
def runner(*options: str, workers: int = 2) -> subprocess.Popen:
    """`dfnb sweep` in a separate process group, as a terminal would start it."""
    command = [sys.executable, "-m", "dfnb.cli", "sweep", "--profile", "tiny"]
    return subprocess.Popen([*command, "--workers", str(workers), *options], cwd=files.ROOT,
                            text=True, start_new_session=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def until(condition, process=None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_runner_takes_its_kernels_along_and_the_next_one_repeats_nothing(home):
    write(home, f"if rank == 5 and not os.path.exists('{home}/go'):\n    time.sleep(60)")
    process, expected = runner(), ["done", "done", "interrupted", "interrupted"]
    until(lambda: executed(home).total() == 4, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: states() == expected, seconds=5)
    (home / "go").touch()
    time.sleep(1.5)
    assert states() == expected  # no orphan went on
    finish()
    assert executed(home) == Counter(dict(zip(NAMES, (1, 1, 2, 2), strict=True)))


@pytest.mark.slow
def test_the_first_interrupt_lets_running_cells_end_and_the_second_does_not(home):
    write(home, "time.sleep(60 if split_seed else 2)")
    declare(home, quick=GRID, slow=GRID | {"seeds": [1]})
    process = runner("--only", "quick", workers=1)
    until(lambda: executed(home), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping after the current runs" in out
    assert "run the same command again to go on" in err
    assert states()[:4] == ["done", "missing", "missing", "missing"]
    process = runner("--only", "slow", workers=2)
    until(lambda: executed(home).total() == 3, process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, "run the same command again" in err) == (130, True)
    until(lambda: states()[4:] == ["interrupted", "interrupted", "missing", "missing"], seconds=5)


@pytest.mark.slow
def test_two_runners_of_one_sweep_give_each_run_once(home):
    write(home, "time.sleep(0.5)")
    pair = [runner(), runner()]
    for process in pair:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.endswith("4 runs: 4 done\n")
    assert executed(home) == Counter(NAMES)


SABOTAGE = """
import contextlib, json, os, signal
from dfnb import files
whole = files.atomic

def die(path, point):
    plan = json.loads(os.environ["SABOTAGE"]).get(path.parent.name)
    if plan and plan[:2] == [path.name, point]:
        with contextlib.suppress(FileExistsError):
            mark = path.parents[5] / f"killed-{path.parent.name}"
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            runner = plan[2] == "runner" and "DFNB_RUN" in os.environ
            os.kill(os.getppid() if runner else os.getpid(), signal.SIGKILL)
            while True:
                pass

@contextlib.contextmanager
def atomic(path):
    with whole(path) as temporary:
        yield temporary
        die(path, "written")
    die(path, "replaced")
files.atomic = atomic
"""
SAVED = ["config.json", "head.safetensors", "timing.json", "metrics.json"]  # by the kernel
DETECTOR = """class Detector:
    def save(self, folder):
        (folder / "head.safetensors").write_bytes(b"weights")
save = run.save
run.save = lambda metrics: save(metrics, detector=Detector())"""
EXECUTE = """import os, sys
import papermill  # once, not in every runner
from dfnb import config
from dfnb.runs import notebooks, study
notebook = notebooks.folder() / "03_tiny.ipynb"
for rank in sys.argv[1:]:
    runner = os.fork()
    if not runner:
        study.execute(notebook, config.load("tiny"), {"repeats": 1, "rank": int(rank)})
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]), flush=True)"""


@pytest.fixture
def sabotage(home, monkeypatch):
    """Every boundary of every atomic write of a run: the file, when, and who dies there."""
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(SABOTAGE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(home / "site"), str(files.ROOT)]))
    moments = ("written", "replaced")
    points = [*itertools.product(SAVED, moments, ("kernel", "runner")),
              *itertools.product(("notebook.ipynb", "DONE.json"), moments, ("runner",))]
    write(home, DETECTOR)
    ranks = {"rank": list(range(10, 10 + len(points)))}
    declare(home, grid={"notebook": "03_tiny", "grid": ranks, "retries": 0})
    plan = {cell.folder.name: point for cell, point in zip(cells(), points, strict=True)}
    monkeypatch.setenv("SABOTAGE", json.dumps(plan))
    return plan


@pytest.mark.torture
def test_a_death_at_any_boundary_of_any_write_leaves_no_false_done_and_the_same_numbers(
        home, sabotage):
    def execute(some) -> dict[str, int]:
        command = [sys.executable, "-c", EXECUTE, *(str(cell.parameters["rank"]) for cell in some)]
        out = subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True).stdout
        return dict(zip((cell.folder.name for cell in some), map(int, out.split()), strict=True))

    every = cells()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(execute, [every[::2], every[1::2]])
    codes = first | second
    found = dict(zip(sabotage, states(), strict=True))
    assert len(list(home.glob("killed-*"))) == len(sabotage) == 20
    for name, (file, point, who) in sabotage.items():
        assert codes[name] == (-signal.SIGKILL if who == "runner" else 1)
        finished = (file, point) == ("DONE.json", "replaced")
        nothing = (file, point) == ("config.json", "written") and who == "runner"
        assert found[name] == ("done" if finished else "failed" if who == "kernel" else
                               "missing" if nothing else "interrupted"), (file, point, who)
    finish(retry_failed=True)
    assert metrics() == {cell.folder.name: content(cell.parameters["rank"], 0.0) for cell in every}
    artefacts = {*SAVED, "notebook.ipynb"}
    for cell in every:
        assert set(state.read_json(cell.folder / "DONE.json")["artefacts"]) == artefacts
        assert {path.name for path in cell.folder.iterdir()} == {
            *artefacts, "DONE.json", "lock", "notebook.log"}
    written = {path.parent for path in (home / "runs").rglob("*") if path.is_file()}
    assert written == {cell.folder for cell in every}
    assert list((home / "temporary").iterdir()) == []


@pytest.mark.torture
def test_ten_deaths_at_random_moments_change_no_number(home):
    write(home, "time.sleep(0.4)")
    declare(home, grid=GRID | {"seeds": [0, 1, 2]})
    moments, process, deaths = random.Random(2026), runner(), 0
    while deaths < 10 and set(states()) != {"done"}:
        while process.poll() is None and not kernels(home):
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1.5))
        for victim in [process] if moments.random() < 0.5 else kernels(home)[:1]:
            victim.kill()
            deaths += 1
        for row in grids.table("tiny"):
            assert (row["state"] == "done") == (row["folder"] / "DONE.json").exists()
        if process.poll() is not None:
            process.communicate()
            process = runner()
    process.communicate(timeout=120)
    finish(retry_failed=True)
    assert deaths >= 5
    assert list((home / "temporary").iterdir()) == []
    given = {cell.folder.name: cell.parameters for cell in cells()}
    assert metrics() == {name: content(one["rank"], one["dropout"], one["split_seed"])
                         for name, one in given.items()}


def kernels(home: Path) -> list:
    """Processes of kernels that run a notebook of this study."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("DFNB_RUN", "").startswith(str(home))
            if ours and process.status() != "zombie":
                found.append(process)
    return found


# ------------------------------------------------------------------- a cluster
@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_numbers(home):
    distributed = pytest.importorskip("distributed")
    write(home, "time.sleep(1)")
    local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with local as cluster, distributed.Client(cluster) as client, ThreadPoolExecutor(1) as thread:
        sweep = thread.submit(sweeps.run, "tiny", scheduler=cluster.scheduler_address)
        until(lambda: executed(home).total() >= 2)
        busy = [worker for worker, calls in client.processing().items() if calls]
        os.kill(client.run(os.getpid)[busy[0]], signal.SIGKILL)
        rows = sweep.result(timeout=120)
    assert {row["state"] for row in rows} == {"done"}
    assert executed(home).total() == 5  # one began twice
    assert metrics() == {name: content(*cell) for name, cell in CELLS.items()}


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_a_sentence(home):
    pytest.importorskip("distributed")
    with pytest.raises(UserError, match="no Dask scheduler answers at 'tcp://127.0.0.1:1' "):
        sweeps.run("tiny", scheduler="tcp://127.0.0.1:1")
