"""Design splits that train on equally many videos and differ in what they leak of the test videos.

Every design consists of closed pairs (a, b): the reals a and b, the fakes a_b and b_a. A test pair
gives one test video, its real a or its fake a_b, and has a twin: a pair that is not tested. The
reference design trains on the whole twins. A leaky design replaces some videos of a twin by the
same videos of the test pair. All designs therefore agree in their test videos, their validation and
the number of videos and frames per class. Half of a video's frames train and the other half test,
so that no tested frame trains.
"""

from collections.abc import Sequence
from itertools import combinations, islice
from typing import NamedTuple

import numpy as np
import pandas as pd

from dfnb import KEY, DataError, UserError

REFERENCE = "identity"
ROLES = ("a", "b", "ab", "ba")  # the videos of a pair: two reals, then fakes named by their target
DESIGNS = {  # name -> the roles that leak where the real a is tested, and the fake ab
    "frame": (("a",), ("ab",)),  # other frames of the tested video
    "video": (("ab", "b", "ba"), ("a", "b", "ba")),  # the tested scene, with the other label
    "target": (("b", "ba"), ("b", "ba")),  # nothing of the tested scene: only the source
    "identity": ((), ()),
}


class Pair(NamedTuple):
    """A closed pair of ids of one corpus."""

    corpus: str
    a: str
    b: str

    def video(self, role: str, manipulation: str) -> tuple[str, str, str, str]:
        """Return (corpus, manipulation, target, source) of a video; a real has the source ""."""
        target, *source = (getattr(self, name) for name in role)
        return self.corpus, manipulation if source else "real", target, "".join(source)


def design(frames: pd.DataFrame, *, train_manipulation: str = "FaceSwap",
           test_manipulations: Sequence[str] = ("NeuralTextures",), pairs: int = 16,
           validation: int = 6, per_video: int = 4, fold: int = 0,
           seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return the split table of each of `DESIGNS`: corpus, manipulation, video, frame, split.

    `frames` is the table of kept frames. There are `pairs` test pairs and as many twins. Half of
    the test pairs test their real, half their fake by the training and by each test manipulation.
    `validation` pairs validate in all designs. `per_video` frames of a video train, as many test.
    The folds of one seed walk through the pairs: no pair is tested twice until all were. Raises
    UserError for impossible sizes, DataError where the corpus has too few pairs.
    """
    if pairs < 2 or pairs % 2 or validation < 1 or per_video < 1:
        raise UserError("pairs must be an even number of at least 2, validation and per_video at "
                        f"least 1; got {pairs}, {validation} and {per_video}")
    fakes = [train_manipulation, *test_manipulations]
    closed = closed_pairs(frames, fakes, 2 * per_video)
    if len(closed) < (needed := 2 * pairs + validation):
        raise DataError(f"the leak splits need {needed} closed pairs with {2 * per_video} kept "
                        f"frames a video (2 x {pairs} and {validation} for validation), the corpus "
                        f"has {len(closed)}; lower pairs or use more videos")
    rng = np.random.default_rng(seed)
    closed = [Pair(pair.corpus, *rng.permutation(pair[1:])) for pair in closed]
    closed = [closed[at] for at in np.roll(rng.permutation(len(closed)), -fold * pairs)]
    tested, twins, checked = closed[:pairs], closed[pairs : 2 * pairs], closed[2 * pairs : needed]
    rows = [(*pair.video("a", "real"), "test", 0) for pair in tested[: pairs // 2]]
    rows += [(*pair.video("ab", name), "test", 0)
             for pair in tested[pairs // 2 :] for name in fakes]
    rows += [(*pair.video(role, train_manipulation), "validation", 1)
             for pair in checked for role in ROLES]
    chosen = _halves(frames, per_video)
    return {name: _table(rows + _training(tested, twins, leaks, train_manipulation), chosen)
            for name, leaks in DESIGNS.items()}


def closed_pairs(frames: pd.DataFrame, manipulations: Sequence[str], least: int) -> list[Pair]:
    """Return the first closed pair of each identity group.

    A closed pair has both reals, and both fakes by every manipulation. Videos with fewer than
    `least` kept frames do not count.
    """
    names = ["corpus", "manipulation", "target", "source"]
    counts = frames.fillna({"source": ""}).groupby([*names, "group"]).size()
    videos = counts[counts >= least].reset_index()
    there = set(videos[names].itertuples(index=False, name=None))
    wanted = [(role, name) for role in ROLES for name in manipulations]
    first = []
    for (corpus, _), reals in videos[videos["manipulation"] == "real"].groupby(["corpus", "group"]):
        pairs = (Pair(corpus, *ids) for ids in combinations(sorted(reals["target"]), 2))
        whole = (pair for pair in pairs if all(pair.video(*video) in there for video in wanted))
        first.extend(islice(whole, 1))
    return first


def _training(tested: list[Pair], twins: list[Pair], leaks: tuple[tuple, tuple],
              manipulation: str) -> list[tuple]:
    """Return the training rows: all videos of each twin, leaking ones from the test pair."""
    rows = []
    for at, (pair, twin) in enumerate(zip(tested, twins, strict=True)):
        leaking = leaks[at >= len(tested) // 2]  # in the first half of the pairs the real is tested
        rows += [(*(pair if role in leaking else twin).video(role, manipulation), "train", 1)
                 for role in ROLES]
    return rows


def _halves(frames: pd.DataFrame, per_video: int) -> pd.DataFrame:
    """Return 2 * per_video kept frames of each video, evenly spaced, `half` 0 and 1 in turn."""
    ordered = frames.fillna({"source": ""}).sort_values([*KEY, "frame"])
    place = ordered.groupby(KEY).cumcount()
    size = ordered.groupby(KEY)["frame"].transform("size")
    taken = place * (2 * per_video) // size  # which of the 2 * per_video bins of the video
    first = taken != taken.groupby([ordered[name] for name in KEY]).shift()
    columns = [*KEY, "target", "source", "frame"]
    return ordered.loc[first, columns].assign(half=taken[first] % 2)


def _table(rows: list[tuple], chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the split table of (corpus, manipulation, target, source, split, half) rows."""
    video = ["corpus", "manipulation", "target", "source"]
    named = pd.DataFrame(rows, columns=[*video, "split", "half"])
    split_table = named.merge(chosen, on=[*video, "half"])
    return split_table[[*KEY, "frame", "split"]].sort_values([*KEY, "frame"], ignore_index=True)
