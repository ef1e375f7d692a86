"""What a machine has memory and speed for: pieces that fit, and half precision where it is measurably faster."""

import hashlib
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from dfnb import files

GAIN = 1.3  # how much faster bfloat16 must be, so that a second measurement would not say otherwise
ROUNDS = 3  # of the benchmark, in turn; the fastest of each counts, since other processes only slow one down

used: set[str] = set()  # what this process computed frozen towers in, for the run's record


class Pieces:
    """How many crops pass through a model at once: `size`, halved where the GPU's memory does not suffice."""

    def __init__(self, size: int):
        self.size = max(1, size)

    def slices(self, total: int) -> list[slice]:
        """0 .. total - 1, cut."""
        return [slice(start, start + self.size) for start in range(0, total, self.size)]

    def of(self, rows: np.ndarray, compute: Callable) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Pieces of `rows` (n,) and what `compute` makes of each; a piece that is too large is tried again, halved."""
        start = 0
        while start < len(rows):
            piece = rows[start : start + self.size]
            try:
                found = compute(piece)
            except torch.OutOfMemoryError as error:
                self.halve(len(piece), error)
                continue
            yield piece, found
            start += len(piece)

    def halve(self, total: int, error: Exception) -> None:
        """Take half of what was too much, and say so; raise `error` where that was one crop."""
        tried = min(self.size, total)
        if tried == 1:
            raise error
        self.size = tried // 2
        told = f"{tried} crops at once do not fit into the GPU's memory; going on with {self.size} at once"
        warnings.warn(told, stacklevel=3)


def prefers_half(run: Callable[[], object], what: str) -> bool:
    """Whether this machine's CPU does `run` clearly faster under bfloat16 autocast: measured once, about a second.

    The answer lies in the cache folder, since it decides over digits that must not change from run to run; `what`
    names the shape that was measured.
    """
    machine = f"{_processor()}\n{torch.__version__}\n{what}"
    path = files.cache() / "hardware" / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
    try:
        return bool(json.loads(path.read_text())["bfloat16"])
    except (OSError, ValueError, KeyError, TypeError):
        seconds = _seconds(run)
    faster = seconds["bfloat16"] * GAIN < seconds["float32"]
    files.atomic_write(path, json.dumps({"bfloat16": faster, "seconds": seconds, "machine": machine.split("\n")}))
    return faster


def _seconds(run: Callable[[], object]) -> dict[str, float]:
    """The fastest of a few repetitions in each precision; the very first is a warm-up."""
    found: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    with torch.inference_mode():
        run()
        for _ in range(ROUNDS):
            for name, times in found.items():
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "bfloat16"):
                    began = time.perf_counter()
                    run()
                    times.append(time.perf_counter() - began)
    return {name: min(times) for name, times in found.items()}


def _processor() -> str:
    """The CPU's own name; where the system does not tell, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
