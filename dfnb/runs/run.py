"""The run folder: one notebook with one set of parameters, and the proof that it was completed.

config.json     written first: notebook, profile, parameters, settings, fingerprints of code and corpus
metrics.json    and scores.parquet, adapter/, ...: what the notebook saved
timing.json     its durations, device and peak memory
notebook.ipynb  the executed notebook, when `study` ran it, with notebook.log beside it
DONE.json       written last: SHA-256 of every artefact; the only proof of completion
FAILED.json     instead of it: reason class, message, attempt
"""

import contextlib
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dfnb import UserError, files, machine
from dfnb.config import Profile
from dfnb.files import canonical, sha256
from dfnb.runs import configuration, notebooks, state
from dfnb.runs.parameters import check_kernel, declared

APART = {"lock", "sweep", "DONE.json", "FAILED.json", "notebook.log"}  # in a run's folder, no artefacts
PACKAGES = ["dfnb", "torch", "transformers", "peft", "scikit-learn", "numpy", "pandas", "papermill"]

_held: dict[Path, int] = {}  # run folder -> descriptor of the lock that this process holds for a notebook


_inputs: dict[str, str | None] = {}  # run -> SHA-256 of its metrics, None if it has none, for all read in this process


def record_input(name: str, digest: str | None) -> None:
    """Note that the open run has read the result of another run, or found that it has none (None)."""
    _inputs[name] = digest


@dataclass
class Run:
    """An open run. `managed` says that `study` executes it, holds its lock and closes it."""

    folder: Path
    config: dict[str, Any]
    profile: Profile
    managed: bool
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the wall-clock seconds of a block to `seconds[name]`."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def stamp(self) -> str:
        """Where the numbers come from: profile, corpus, commit, device."""
        demo = self.profile.demo
        corpus = f"demo world {demo.seed}, {demo.identities} identities" if demo else escape(self.profile.folder.name)
        text = f"Profile {self.profile.name}; corpus {corpus}; commit {commit()}; {device()}."
        return text + (" These are demo numbers, not FaceForensics++." if demo else "")

    def save(self, metrics: dict[str, Any], scores=None, detector=None, **tables) -> None:
        """Write metrics.json, each table as <name>.parquet, the detector's files; a notebook's last call.

        `metrics` are the same to the bit in every repetition: durations belong into `timed`. `scores` and
        `tables` are DataFrames. Outside of `study` this also closes the run: DONE.json, and no lock any more.
        """
        (self.folder / "DONE.json").unlink(missing_ok=True)
        if scores is not None:
            tables["scores"] = scores
        for name, table in tables.items():
            with files.atomic(self.folder / f"{name}.parquet") as temporary:
                table.to_parquet(temporary)
        if detector is not None:
            _save_detector(detector, self.folder)
        seconds = self.seconds | {"total": time.perf_counter() - self.began}
        timing = {"seconds": seconds, "cpu_seconds": time.process_time(), "device": device(), "precision": precision(),
                  "peak_memory_mb": peak_memory(), "inputs": _inputs}
        files.atomic_write(self.folder / "timing.json", canonical(timing))
        files.atomic_write(self.folder / "metrics.json", canonical(metrics))
        if not self.managed:
            finish(self.folder)
            state.unlock(_held.pop(self.folder))


def escape(name: object) -> str:
    """A name from outside (a file, a folder) as plain text of Markdown and HTML: no markup, no directive."""
    return re.sub(r"[^A-Za-z0-9 .,-]", lambda found: f"&#{ord(found[0])};", str(name))


def start(notebook: str, profile: Profile, values: Mapping[str, Any]) -> Run:
    """Open the run of a chapter; `values` holds all parameters that the notebook declares.

    A notebook passes globals(), of which only the declared names count; any other mapping must hold
    no further name. The values decide the folder: the chapter's where they equal the profile's, else
    one below sweep/. A finished run of the same configuration stays valid until `save`.
    """
    check_kernel()
    path = notebooks.folder() / f"{notebook}.ipynb"
    wanted = set(declared(path)) - {"profile"}
    if missing := sorted(wanted - values.keys()):
        raise UserError(f"{notebook} declares {', '.join(missing)}, but does not pass it to `start`")
    own = "__name__" in values  # the namespace of a notebook
    parameters = {name: value for name, value in values.items() if name in wanted or not own}
    config = configuration.of_run(path, profile, parameters) | {"data": None}
    folder = configuration.place(path, profile, config)
    managed = os.environ.get("DFNB_RUN") == str(folder)
    if not managed:
        if folder not in _held:
            _held[folder] = state.lock(folder)
        if state.settled(folder, config)[0] != "done":
            state.clear(folder)
    if not (folder / "DONE.json").exists():
        files.atomic_write(folder / "config.json", canonical(config))
    _inputs.clear()
    return Run(folder, config, profile, managed)


def _save_detector(detector, folder: Path) -> None:
    """Save to a temporary folder first, so that no half-written weights carry a final name."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".detector-") as temporary:
        detector.save(Path(temporary))
        for source in sorted(path for path in Path(temporary).rglob("*") if path.is_file()):
            with files.atomic(folder / source.relative_to(temporary)) as target:
                shutil.copyfile(source, target)


def finish(folder: Path, **provenance: Any) -> None:
    """Write DONE.json: SHA-256 of every artefact, versions, durations, device and peak memory."""
    paths = [path for path in folder.rglob("*") if path.is_file() and _is_artefact(path.relative_to(folder))]
    (folder / "FAILED.json").unlink(missing_ok=True)
    artefacts = {str(path.relative_to(folder)): sha256(path) for path in paths}
    done = state.read_json(folder / "timing.json") | provenance | {
        "artefacts": artefacts, "versions": versions(), "commit": commit(), "finished": state.now()}
    files.atomic_write(folder / "DONE.json", canonical(done))


def _is_artefact(path: Path) -> bool:
    return path.parts[0] not in APART and not any(part.startswith(".") for part in path.parts)


# ------------------------------------------------------------------- provenance
def commit() -> str:
    """Short hash of the commit, with "+" when the tree has changes; "unknown" outside of git."""
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(files.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "dfnb", "notebooks", "params")
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """The GPU when torch is loaded and sees one, else the CPU and how much of it torch uses."""
    torch, cores = sys.modules.get("torch"), machine.processors()
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    used = torch.get_num_threads() if torch is not None else cores
    return f"{f'{used} of ' if used < cores else ''}{cores} CPU cores ({platform.machine()})"


def precision() -> list[str]:
    """In what the frozen CLIP was computed by this process, where it was: features from the cache count not."""
    device = sys.modules.get("dfnb.models.device")  # not loaded where no CLIP was computed
    return sorted(device.PRECISIONS) if device else []


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB."""  # ru_maxrss counts KB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
