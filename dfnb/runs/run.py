"""The run folder: one notebook with one set of parameters, and the proof that it was completed.

config.json     written first: notebook, profile, parameters, settings, fingerprints
metrics.json    and scores.parquet, adapter/, ...: what the notebook saved
timing.json     its durations, device and peak memory
notebook.ipynb  the executed notebook, when `study` ran it, with notebook.log beside it
DONE.json       written last: SHA-256 of every artefact; the only proof of completion
FAILED.json     instead of it: class of the failure, message, attempt
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

PACKAGES = ["dfnb", "torch", "transformers", "peft", "scikit-learn", "numpy", "pandas", "papermill"]

# A kernel executes one notebook, whose cells may be executed again; so these belong to the process.
_held: dict[Path, int] = {}  # folder of an open run -> descriptor of its lock
_inputs: dict[str, str | None] = {}  # run that the open run has read -> SHA-256 of its metrics


def record_input(name: str, digest: str | None) -> None:
    """Note that the open run has read a result, or has found that there is none (None)."""
    _inputs[name] = digest


@dataclass
class Run:
    """An open run; `managed` where `study` executes it, holds its lock and closes it."""

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
        """Return where the numbers come from: profile, corpus, commit and device."""
        demo, corpus, warning = self.profile.demo, escape(self.profile.folder.name), ""
        if demo:
            corpus = f"demo world {demo.seed}, {demo.identities} identities"
            warning = " These are demo numbers, not FaceForensics++."
        return (f"Profile {self.profile.name}; corpus {corpus}; commit {commit()}; "
                f"{device()}.{warning}")

    def answer(self, text: str = "") -> None:
        """Show the chapter's answer below its question; without text, keep the place for it."""
        from IPython.display import Markdown, display

        shown = Markdown(f"**Answer** {text or '(computed at the end of this chapter)'}")
        display(shown, display_id="answer", update=bool(text))

    def save(self, metrics: dict[str, Any], scores=None, detector=None, **tables) -> None:
        """Write metrics.json, each DataFrame as <name>.parquet, and the detector's files.

        `metrics` must be the same to the bit in every repetition; durations belong into `timed`.
        Outside of `study` this also closes the run: it writes DONE.json and frees the lock.
        """
        (self.folder / "DONE.json").unlink(missing_ok=True)
        if scores is not None:
            tables["scores"] = scores
        for name, table in tables.items():
            with files.atomic(self.folder / f"{name}.parquet") as temporary:
                table.to_parquet(temporary)
        if detector is not None:
            _save_detector(detector, self.folder)
        files.atomic_write(self.folder / "timing.json", canonical(self._timing()))
        files.atomic_write(self.folder / "metrics.json", canonical(metrics))
        if not self.managed:
            finish(self.folder)
            state.unlock(_held.pop(self.folder))

    def _timing(self) -> dict[str, Any]:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux
        return {"seconds": self.seconds | {"total": time.perf_counter() - self.began},
                "cpu_seconds": time.process_time(), "device": device(), "precision": precision(),
                "peak_memory_mb": round(kilobytes / 1024, 1), "inputs": _inputs}


def escape(name: object) -> str:
    """Return a name from outside (a file, a folder) as text without markup in Markdown and HTML."""
    return re.sub(r"[^A-Za-z0-9 .,-]", lambda match: f"&#{ord(match[0])};", str(name))


def start(notebook: str, profile: Profile, values: Mapping[str, Any]) -> Run:
    """Open the run of a chapter; `values` holds all parameters that the notebook declares.

    A notebook passes globals(), of which only the declared names count; any other mapping must hold
    no further name. The values decide the folder: the chapter's where they equal the profile's,
    else one below sweep/. A finished run of the same configuration stays valid until `save`.
    """
    check_kernel()
    path = notebooks.folder() / f"{notebook}.ipynb"
    wanted = set(declared(path)) - {"profile"}
    if missing := sorted(wanted - values.keys()):
        raise UserError(f"{notebook} declares {', '.join(missing)}, "
                        "but does not pass it to `start`")
    is_namespace = "__builtins__" in values
    parameters = {name: value for name, value in values.items()
                  if name in wanted or not is_namespace}
    config = configuration.of_run(path, profile, parameters)
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
    """Write DONE.json: SHA-256 of every artefact, versions, and what timing.json holds."""
    (folder / "FAILED.json").unlink(missing_ok=True)
    artefacts = {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*")
                 if path.is_file() and _is_artefact(path.relative_to(folder))}
    done = state.read_json(folder / "timing.json") | provenance | {
        "artefacts": artefacts, "versions": versions(), "commit": commit(), "finished": state.now()}
    files.atomic_write(folder / "DONE.json", canonical(done))


def _is_artefact(path: Path) -> bool:
    return path.parts[0] not in state.APART and not any(part.startswith(".") for part in path.parts)


# ------------------------------------------------------------------- provenance
def commit() -> str:
    """Return the commit's short hash, with "+" for a changed tree; "unknown" outside of git."""
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(files.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--",
                      "dfnb", "notebooks", "params")
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """Return the GPU where torch is loaded and sees one, else the CPU and the cores in use."""
    torch, cores = sys.modules.get("torch"), machine.processors()
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    used = torch.get_num_threads() if torch is not None else cores
    return f"{f'{used} of ' if used < cores else ''}{cores} CPU cores ({platform.machine()})"


def precision() -> list[str]:
    """Return in which precision this process computed the frozen CLIP; cached features are out."""
    device = sys.modules.get("dfnb.models.device")  # not loaded where no CLIP was computed
    return sorted(device.PRECISIONS) if device else []


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
