"""Divide videos into folds of whole identity groups, for cross-fitting.

Each fold is the test split once, the next one validates, and the others train. Every video is then
tested exactly once, by a detector that has met none of its people.
"""

import numpy as np
from numpy.typing import ArrayLike

from dfnb import UserError


def grouped_folds(labels: ArrayLike, groups: ArrayLike, folds: int = 5, *, seed: int = 0
                  ) -> np.ndarray:
    """Return a fold (n,) in 0..folds-1 per row; groups stay whole, classes are spread evenly.

    Raises UserError for too few groups.
    """
    labels = np.asarray(labels)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= folds <= len(names):
        raise UserError(f"folds must be from 2 to the number of identity groups ({len(names)}), "
                        f"got {folds}")
    sizes = np.stack([np.bincount(member, labels == label, len(names)) for label in (0, 1)], axis=1)
    order = np.random.default_rng(seed).permutation(len(names))  # large first, ties at random
    order = order[np.argsort(-sizes[order].sum(axis=1), kind="stable")]
    share = np.maximum(sizes.sum(axis=0), 1)
    fold, filled = np.zeros(len(names), int), np.zeros((folds, 2))
    for group in order:
        burden = (filled / share) @ (sizes[group] / share) + 1e-9 * filled.sum(axis=1)
        burden[filled.any(axis=1)] += (~filled.any(axis=1)).any() * folds  # no fold stays empty
        fold[group] = np.argmin(burden)
        filled[fold[group]] += sizes[group]
    return fold[member]


def roles(fold: np.ndarray, tested: int, folds: int) -> np.ndarray:
    """Return the split (n,) of each row where the fold `tested` is the test split.

    Raises UserError for fewer than three folds, of which none would be left to train on, and for a
    fold that does not exist.
    """
    if folds < 3:
        raise UserError("folds must be at least 3 (one to test, one to validate, others to train), "
                        f"got {folds}")
    if not 0 <= tested < folds:
        raise UserError(f"fold must lie between 0 and {folds - 1}, got {tested}")
    validating = (tested + 1) % folds
    return np.select([fold == tested, fold == validating], ["test", "validation"], "train")
