"""The leak experiment: arms that train on equally many videos and differ in what they know of the test videos.

Everything is made of closed pairs (a, b): the reals a and b, the fakes a_b and b_a. A test pair gives one test
video, its real a or its fake a_b, and has a twin pair elsewhere. The reference arm trains on the whole twins; a leaky
arm takes some videos of the test pair instead of the same ones of its twin. So the arms agree in test videos,
validation, number of videos and of frames per class. Half of a video's frames train and the other half test: no
tested frame is ever trained on.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from dfnb import KEY, UserError

REFERENCE = "identity"
ROLES = ("a", "b", "ab", "ba")  # the videos of a pair: two reals, the fake with target a, the one with target b
ARMS = {  # arm -> which of a test pair train, where the real a is tested and where the fake ab is; names of `splits`
    "frame": (("a",), ("ab",)),  # other frames of the tested video
    "video": (("ab", "b", "ba"), ("a", "b", "ba")),  # all but the tested video: its scene, with the other label
    "target": (("b", "ba"), ("b", "ba")),  # nothing of the tested scene: only the source
    "identity": ((), ()),
}


class Pair(NamedTuple):
    """A closed pair of ids of one corpus."""

    corpus: str
    a: str
    b: str

    def video(self, role: str, manipulation: str) -> tuple[str, str, str, str]:
        """(corpus, manipulation, target, source) of one of its videos; reals have the source ""."""
        target, *source = (getattr(self, name) for name in role)
        return self.corpus, manipulation if source else "real", target, "".join(source)


def design(
    frames: pd.DataFrame,
    *,
    train_manipulation: str = "FaceSwap",
    test_manipulations: Sequence[str] = ("NeuralTextures",),
    pairs: int = 16,
    validation: int = 6,
    per_video: int = 4,
    fold: int = 0,
    seed: int = 0,
    leaky: Mapping[str, tuple] = ARMS,
) -> dict[str, pd.DataFrame]:
    """Return the splits table of each arm of `leaky`: corpus, manipulation, video, frame, split.

    `frames` is a crop store's table of kept frames. `pairs` test pairs (half test their real, half their fake, by
    the train manipulation and every test manipulation) and as many twins; `validation` pairs validate in all arms. `per_video`
    frames of a video train, as many test. The folds of one seed walk through the pairs: none is tested twice until
    all were. Raises UserError for sizes that the corpus does not allow.
    """
    if pairs < 2 or pairs % 2 or validation < 1 or per_video < 1:
        raise UserError("pairs must be an even number of at least 2, validation and per_video at least 1; got "
                        f"{pairs}, {validation} and {per_video}")
    found = closed_pairs(frames, [train_manipulation, *test_manipulations], 2 * per_video)
    if len(found) < (needed := 2 * pairs + validation):
        raise UserError(f"the arms need {needed} closed pairs with {2 * per_video} kept frames a video (2 x {pairs} and "
                        f"{validation} for validation), the corpus has {len(found)}; lower pairs or use more videos")
    rng = np.random.default_rng(seed)
    found = [Pair(pair.corpus, *rng.permutation(pair[1:])) for pair in found]
    found = [found[at] for at in np.roll(rng.permutation(len(found)), -fold * pairs)]
    tested, twins, checked = found[:pairs], found[pairs : 2 * pairs], found[2 * pairs : needed]
    halves = np.arange(pairs) * 2 // pairs  # 0: the real is tested, 1: the fake
    fakes = [train_manipulation, *test_manipulations]
    rows = [(*pair.video(role, manipulation), "test", 0) for pair, half in zip(tested, halves, strict=True)
            for role, manipulation in ([("ab", name) for name in fakes] if half else [("a", "real")])]
    rows += [(*pair.video(role, train_manipulation), "validation", 1) for pair in checked for role in ROLES]
    chosen = _halves(frames, per_video)
    tables = {}
    for arm, leaks in leaky.items():
        train = [((pair if role in leaks[half] else twin).video(role, train_manipulation))
                 for pair, twin, half in zip(tested, twins, halves, strict=True) for role in ROLES]
        tables[arm] = _parts([*rows, *((*video, "train", 1) for video in train)], chosen)
    return tables


def closed_pairs(frames: pd.DataFrame, manipulations: Sequence[str], least: int) -> list[Pair]:
    """Return the first closed pair of each identity group: both reals, and both fakes by every manipulation.

    Videos with fewer than `least` kept frames do not count.
    """
    counts = frames.fillna({"source": ""}).groupby(["corpus", "group", "manipulation", "target", "source"]).size()
    videos = counts[counts >= least].reset_index()
    there = set(videos[["corpus", "manipulation", "target", "source"]].itertuples(index=False, name=None))
    found = []
    for (corpus, _), reals in videos[videos["manipulation"] == "real"].groupby(["corpus", "group"]):
        for pair in (Pair(corpus, *ids) for ids in combinations(sorted(reals["target"]), 2)):
            if all(pair.video(role, manipulation) in there for manipulation in manipulations for role in ROLES):
                found.append(pair)
                break
    return found


def _halves(frames: pd.DataFrame, per_video: int) -> pd.DataFrame:
    """Return 2 * per_video kept frames of each video, evenly spaced, `half` 0 and 1 in turn."""
    ordered = frames.fillna({"source": ""}).sort_values([*KEY, "frame"])
    place = ordered.groupby(KEY).cumcount()
    size = ordered.groupby(KEY)["frame"].transform("size")
    taken = place * (2 * per_video) // size  # which of the 2 * per_video bins of the video
    first = taken != taken.groupby([ordered[name] for name in KEY]).shift()
    columns = [*KEY, "target", "source", "frame"]
    return ordered.loc[first, columns].assign(half=taken[first] % 2)


def _parts(rows: list[tuple], chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the splits table of (corpus, manipulation, target, source, split, half) rows."""
    named = pd.DataFrame(rows, columns=["corpus", "manipulation", "target", "source", "split", "half"])
    split_table = named.merge(chosen, on=["corpus", "manipulation", "target", "source", "half"])
    return split_table[[*KEY, "frame", "split"]].sort_values([*KEY, "frame"], ignore_index=True)
