"""What grows with the number of cores: it is given here, never that of the test's machine."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError, files, machine
from dfnb.data import crop_cache, crops, decoder, video
from dfnb.demo import corpus as demo
from dfnb.machine import Machine
from dfnb.runs import kernels
from dfnb.runs import pool as pools

GB = 10**9


def control_group(root, **limits):
    """Files of a control group of version 2: memory_max becomes memory.max."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in limits.items():
        (root / name.replace("_", ".")).write_text(f"{text}\n")
    return root


@pytest.fixture
def cores(monkeypatch):
    """A function that sets the number of cores that this process may use."""
    return lambda count: monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: set(range(count)), raising=False)


# ------------------------------------------------------------------- what there is
def test_the_limits_of_a_container_are_those_of_its_machine(tmp_path, cores):
    cores(64)
    free = machine.look(tmp_path / "none")
    assert free.cores == 64 and free.memory > 2**28 and free.tasks == sys.maxsize
    bound = control_group(tmp_path / "bound", cpu_max="250000 100000", memory_max=2**28,
                          pids_max=300)
    assert machine.look(bound) == Machine(3, 2**28, 300)
    open_ = control_group(tmp_path / "open", cpu_max="max 100000", memory_max="max", pids_max="max")
    assert machine.look(open_) == free


def test_limits_of_the_groups_above_hold_too(tmp_path, cores, monkeypatch):
    def read(path, read=machine._read):
        return "0::/batch/job" if path.name == "cgroup" else read(path)

    cores(64)
    monkeypatch.setattr(machine, "_read", read)
    control_group(tmp_path, memory_max=2**29)
    control_group(tmp_path / "batch", cpu_max="400000 100000", pids_max=500)
    control_group(tmp_path / "batch" / "job", memory_max=2**30, pids_max=900)
    assert machine.look(tmp_path) == Machine(4, 2**29, 500)


@pytest.mark.parametrize(("said", "found"), [("3", 3), ("99", 8), ("", 8), ("many", 8), ("0", 1)])
def test_fewer_cores_can_be_asked_for_but_not_more(said, found, tmp_path, cores, monkeypatch):
    cores(8)
    monkeypatch.setenv("DFNB_CORES", said)
    assert machine.look(tmp_path).cores == found


# ------------------------------------------------------------------- how many workers
@pytest.mark.parametrize(("cores", "memory", "workers", "threads"), [
    (1, 8, 1, 1), (2, 4, 1, 2), (2, 8, 2, 1), (2, 24, 2, 1), (8, 8, 2, 4), (8, 16, 5, 1),
    (8, 64, 8, 1), (16, 16, 5, 3), (16, 128, 16, 1), (64, 24, 8, 8), (64, 64, 22, 2),
    (64, 256, 64, 1)])
def test_runs_and_threads_by_cores_and_memory(cores, memory, workers, threads, monkeypatch):
    monkeypatch.setattr(pools, "on_gpu", lambda: False)
    host = Machine(cores, memory * GB)
    assert pools.shares(None, None, 90, each=2 * 2**30, host=host) == (workers, threads)
    assert workers * threads <= cores and workers * 2 * 2**30 <= max(host.budget, 2 * 2**30)


@pytest.fixture
def share(monkeypatch):
    """A function that shares a machine among runs of 1 GB, with or without a GPU."""

    def share(workers, threads, runs=27, *, gpu, each=GB):
        monkeypatch.setattr(pools, "on_gpu", lambda: gpu)
        return pools.shares(workers, threads, runs, each=each, host=Machine(12, 64 * GB))

    return share


def test_workers_and_threads_that_are_asked_for_are_taken(share):
    assert share(3, None, gpu=False) == (3, 4)
    assert share(20, None, gpu=False) == (20, 1)
    assert share(2, 5, gpu=False) == (2, 5)
    assert share(None, None, 3, gpu=False) == (3, 4)  # a profile of three runs
    message = r"20 workers may take 80.0 GB .* than the 48.0 GB .*; 12 fit"
    with pytest.raises(UserError, match=message):
        share(20, None, gpu=False, each=4 * GB)
    with pytest.raises(UserError, match=r"40 workers may take 80.0 GB .*; 24 fit"):
        Machine(2, 64 * GB).workers(40, 2 * GB)  # whatever the cores are


def test_processes_that_a_container_may_not_start_are_not_planned():
    assert Machine(64, 256 * GB, tasks=640).workers(None, GB) == 10
    assert Machine(64, 256 * GB, tasks=20).workers(None, GB) == 1


def test_a_gpu_has_one_run_at_a_time(share):
    assert share(None, None, gpu=True) == (1, 12)
    assert share(1, 2, gpu=True) == (1, 2)
    message = "one run at a time has the GPU to itself, 4 workers would share its memory"
    with pytest.raises(UserError, match=message):
        share(4, 1, gpu=True)


def test_threads_of_a_kernel_are_what_is_asked_for_or_what_a_container_allows(monkeypatch):
    monkeypatch.setattr(machine, "processors", lambda: 64)
    for name in machine.THREADS:
        monkeypatch.delenv(name, raising=False)
    for cores, expected in ((64, set()), (4, {"4"})):
        monkeypatch.setattr(machine, "look", lambda cores=cores: Machine(cores, 64 * GB))
        assert set(kernels._thread_limits(None).values()) == expected
        assert set(kernels._thread_limits(8).values()) == {"8"}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert kernels._thread_limits(None)["OMP_NUM_THREADS"] == "2"


class Noted(Executor):
    """A pool that notes how many workers it was to have, and does the work here."""

    sizes: list[int] = []

    def __init__(self, workers):
        self.sizes.append(workers)

    def submit(self, task, *arguments):
        future = Future()
        future.set_result(task(*arguments))
        return future


@pytest.mark.parametrize(("cores", "memory", "croppers", "renderers"), [
    (1, 8, [], []), (2, 8, [2], [2]), (8, 16, [7], [8]), (16, 128, [16], [16]), (64, 8, [3], [11]),
    (64, 256, [40], [30])])
def test_pools_of_crops_and_of_the_demo_world(cores, memory, croppers, renderers, monkeypatch,
                                              tmp_path):
    monkeypatch.setattr(machine, "look", lambda: Machine(cores, memory * GB))
    monkeypatch.setattr(machine, "pool", Noted)
    settings = {"frames": 101, "size": 32, "margin": 1.3, "limits": video.Limits()}
    jobs = [crop_cache.plan("nowhere.mp4", ("demo", "real", f"{at:03d}"), tmp_path, settings)
            for at in range(40)]
    Noted.sizes.clear()
    assert len(list(crop_cache.make_all(jobs, None))) == 40 and Noted.sizes == croppers
    Noted.sizes.clear()
    demo._in_parallel(len, [()] * 30, None, False)
    assert Noted.sizes == renderers


# --- the decoder, and what a machine may refuse
FLAT = """
import sys
from dfnb.data import decoder, video
decoder.CONVERTERS = 16
for at in range(200):
    answer, _ = decoder.answer_to(sys.argv[1], 8, video.Limits())
    assert answer["shape"] == [8, 256, 256], answer
    if at in (19, 199):
        lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(lines["Threads"].split()[0], lines["VmSize"].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_decoder_does_not_grow_with_the_videos_whatever_threads_there_are(corpus):
    command = [sys.executable, "-c", FLAT, video_of(corpus)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=files.ROOT)
    threads, size = np.array(done.stdout.split(), int).reshape(2, 2).T
    assert threads[1] <= threads[0] <= 40 and size[1] <= 1.02 * size[0] < 4 * 2**20  # KB


def video_of(corpus):
    return str(next(corpus.rglob("original_sequences/youtube/c23/videos/*.mp4")))


def test_a_thread_that_the_system_refuses_is_no_lack_of_memory_and_is_not_remembered(
        corpus, monkeypatch):
    def refuse(*arguments):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(decoder, "read", refuse)
    answer, _ = decoder.answer_to(video_of(corpus), 4, video.Limits())
    assert answer == {
        "rejected": "refused by the system: Resource temporarily unavailable", "passing": True}


@pytest.fixture
def lose(tmp_path, monkeypatch):
    """A function that crops 40 videos, each rejected for a reason, and returns the paths read."""

    def build(reason, message):
        def read(path, *arguments, **options):
            paths.append(path)
            raise video.Rejected(reason)

        paths = []
        names = [f"{at:03d}_{at + 1:03d}" for at in range(40)]
        videos = pd.DataFrame({"corpus": "mine", "manipulation": "FaceSwap", "video": names,
                               "label": 1, "path": names, "group": 0})
        monkeypatch.setenv("DFNB_CACHE", str(tmp_path))
        monkeypatch.setattr(video, "read", read)
        with pytest.raises(UserError, match=message):
            crops.build(videos, frames=4, size=32, workers=1, progress=False)
        return paths

    return build


@pytest.mark.parametrize("reason", [
    "out of memory: decoding needs more than 4.3 GB", "timed out: decoding took more than 120 s",
    "crashed: the decoder was killed by SIGKILL", "refused by the system: no thread"])
def test_what_the_machine_loses_ends_the_work_at_once_and_is_not_remembered(reason, lose, tmp_path):
    message = "8 of the first 8 videos of FaceSwap .* reason that lies in this machine.*"
    assert len(lose(reason, message + re.escape(reason))) == 8
    assert not list((tmp_path / "crops").glob("*.json"))


def test_what_the_files_lose_is_told_of_all_of_them(lose):
    message = r"100% of the frames of FaceSwap are lost.*most often: empty \(40 videos\)"
    assert len(lose("empty: the file has zero bytes", message)) == 40


# ------------------------------------------------------------------- workers
def _what_a_worker_sees():
    import cv2
    import numpy  # noqa: F401
    from threadpoolctl import threadpool_info

    threads = {cv2.getNumThreads(), *(library["num_threads"] for library in threadpool_info())}
    return threads, signal.getsignal(signal.SIGINT)


@pytest.mark.slow
def test_a_worker_has_one_thread_in_every_library_and_leaves_ctrl_c_to_its_parent():
    with machine.pool(1) as pool:
        threads, handler = pool.submit(_what_a_worker_sees).result()
    assert threads == {1} and handler == signal.SIG_IGN
