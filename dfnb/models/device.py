"""Fit computations into a device: pieces of crops that memory holds, and the precision used."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

PRECISIONS: set[str] = set()  # in which this process computed frozen blocks, for the run's record


class Pieces:
    """The number of crops that pass through a model at once, halved where memory is short."""

    def __init__(self, size: int):
        self.size = max(1, size)

    def slices(self, total: int) -> list[slice]:
        """Return 0 .. total - 1 in pieces."""
        return [slice(start, start + self.size) for start in range(0, total, self.size)]

    def of(self, rows: np.ndarray, compute: Callable) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield pieces of `rows` (n,) with their results; too large a piece is tried in halves."""
        start = 0
        while start < len(rows):
            piece = rows[start : start + self.size]
            try:
                result = compute(piece)
            except torch.OutOfMemoryError as error:
                self.halve(len(piece), error)
                continue
            yield piece, result
            start += len(piece)

    def halve(self, total: int, error: Exception) -> None:
        """Halve the size of a piece and warn; raise `error` where one crop was too much."""
        tried = min(self.size, total)
        if tried == 1:
            raise error
        self.size = tried // 2
        warnings.warn(f"{tried} crops at once do not fit into the GPU's memory; "
                      f"going on with {self.size} at once", stacklevel=3)
