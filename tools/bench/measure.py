"""Clocks, floating-point operations, the machine's limit, differences between repetitions."""

import contextlib
import io
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch.utils.flop_counter import FlopCounterMode


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds of a call, and what it returned; a GPU is waited for."""
    wait()
    began = time.perf_counter()
    found = work()
    wait()
    return time.perf_counter() - began, found


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Return median of the seconds that a call takes, after one call that does not count."""
    work()
    return statistics.median(timed(work)[0] for _ in range(repeats))


def flops(work: Callable[[], Any]) -> float:
    """Return floating-point operations of the matrix products in a call.

    A multiplication with its addition counts two.
    """
    with contextlib.redirect_stdout(io.StringIO()), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def matrix_peak(size: int = 2048, repeats: int = 7) -> float:
    """Return GFLOP/s of the product of two square float32 matrices, the fastest of some."""
    one, other = (torch.rand(size, size) for _ in range(2))
    best = min(timed(lambda: one @ other)[0] for _ in range(repeats + 1))
    return 2 * size**3 / best / 1e9


def hardware() -> str:
    """Return the processor, or the GPU, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [
        line.partition(":")[2].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} threads of {name}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def gap(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> dict[str, float]:
    """Return the mean difference of two sets of repetitions and its half width (Student)."""
    freedom = len(first) + len(second) - 2
    squares = sum(float(np.var(values)) * len(values) for values in (first, second))
    error = np.sqrt(squares / freedom *
                    (1 / len(first) + 1 / len(second))) if freedom > 0 else np.nan
    half = float(student.ppf((1 + level) / 2, freedom) * error)
    return {"difference": float(np.mean(first) - np.mean(second)), "half": half}


def overlap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return intersection over union (n,) of boxes (n, 4) as x0, y0, x1, y1.

    NaN where either is missing.
    """
    low, high = np.maximum(ours[:, :2], theirs[:, :2]), np.minimum(ours[:, 2:], theirs[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (ours, theirs)]
    return common / (areas[0] + areas[1] - common)
