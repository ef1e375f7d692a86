"""Which video (or frame) trains, validates and tests: regimes from leaky to strict.

A regime is a pure function from `videos` to `parts`, deterministic in its seed and blind to row order. None
is the default: a regime is asked for by name, and a leaky one is marked (`mark`) wherever it was used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dfnb import UserError
from dfnb.data.identity import (
    KEY,
    LISTS,
    PARTS,
    REENACTMENTS,
    SWAPS,
    audit,
    check_disjoint,
    identity_groups,
    read_known,
    shown,
)

__all__ = [
    "KEY",
    "LEAKY",
    "LISTS",
    "PARTS",
    "REENACTMENTS",
    "REGIMES",
    "SWAPS",
    "apportion",
    "audit",
    "check_disjoint",
]
__all__ += ["few", "fraction", "identity_groups", "keep", "mark", "read_known", "shown", "split", "training_pairs"]

SHARES = (0.7, 0.2, 0.1)  # train, validation, test: the study's split of its real videos
LEAKY = {  # regime -> what of a test video may have been seen in training
    "study": "scene and person of the fakes",
    "frame": "frames of the same video",
    "video": "scene and face",
    "target": "face of the source",
}


@dataclass(frozen=True)
class Given:
    """What a regime may use beside the videos.

    The study's methods (train_method, test_methods); the frames table for the regime "frame"; youtube (id ->
    YouTube video) and persons (id -> person) for identity groups; lists (part -> pairs of ids) for
    "official".
    """

    seed: int = 0
    train_method: str = "FaceSwap"
    test_methods: Sequence[str] = ("NeuralTextures",)
    frames: pd.DataFrame | None = None
    youtube: Mapping[str, str] | None = None
    persons: Mapping[str, str] | None = None
    lists: Mapping[str, Sequence[Sequence[str]]] | None = None


def split(videos: pd.DataFrame, regime: str, *, seed: int = 0, **given) -> pd.DataFrame:
    """Return `parts`: corpus, method, video (and frame for the regime "frame") with their part.

    `given` holds fields of `Given`. Raises UserError for an unknown regime and where a part lacks a class.
    """
    if regime not in REGIMES:
        raise UserError(f"regime must be one of {', '.join(REGIMES)}, got {regime!r}")
    parts = REGIMES[regime](videos, Given(seed=seed, **given))
    _check_complete(parts, regime)
    order = [name for name in [*KEY, "frame"] if name in parts]
    return parts.sort_values(order, ignore_index=True)[[*order, "part"]]


def fraction(parts: pd.DataFrame, videos: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Return `parts` with only a share in (0, 1] of the training videos; validation and test stay as they are.

    Whole identity groups are kept, the first of one random order, until they hold the share and both classes:
    so a smaller fraction of the same seed lies inside a larger one.
    """
    if not 0 < share <= 1:
        raise UserError(f"fraction is a share of the training videos and must lie in (0, 1], got {share}")
    group = videos["group"] if "group" in videos else identity_groups(videos)
    train = parts.loc[parts["part"] == "train", KEY].drop_duplicates()
    train = train.merge(videos[[*KEY, "label"]].assign(group=group), on=KEY).sort_values(KEY, ignore_index=True)
    names = train["group"].drop_duplicates().to_numpy()  # by the first video of each, whatever its number
    order = pd.Series(np.random.default_rng(seed).permutation(len(names)), index=names)
    train = train.assign(place=train["group"].map(order)).sort_values("place", kind="stable")
    enough = np.arange(1, len(train) + 1) >= share * len(train) - 1e-9
    both = (train["label"].cummax() > train["label"].cummin()).to_numpy()
    last = train["place"].iloc[np.argmax(enough & both)] if (enough & both).any() else len(names)
    dropped = parts[KEY].merge(train.loc[train["place"] > last, KEY], on=KEY, how="left", indicator=True)
    gone = dropped["_merge"].eq("both").to_numpy() & parts["part"].eq("train").to_numpy()
    return parts[~gone].reset_index(drop=True)


def keep(parts: pd.DataFrame, train_method: str, test_methods: Sequence[str]) -> pd.DataFrame:
    """Return `parts` with reals everywhere, one manipulation in training and validation, others in the test alone.

    So a regime that places every video (official, identity) asks what the study asks: is an unseen one detected?
    """
    fakes = {"train": [train_method], "validation": [train_method], "test": list(test_methods)}
    placed = zip(parts["method"], parts["part"], strict=True)
    kept = parts[[method == "real" or method in fakes[part] for method, part in placed]].reset_index(drop=True)
    if missing := sorted({train_method, *test_methods} - set(kept["method"])):
        found = ", ".join(sorted(set(parts["method"])))
        raise UserError(f"no video of {', '.join(missing)} is where it is needed; the split has the methods {found}")
    for part in ("train", "validation"):
        if train_method not in set(kept.loc[kept["part"] == part, "method"]):
            raise UserError(f"the split leaves the part {part!r} without videos of {train_method}; use another seed")
    return kept


def training_pairs(parts: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of the training part, a real and its fake (that of which it is the target): KEY, fake, method.

    Of several fakes of a real the first by name is taken. Raises UserError for fakes of several methods.
    """
    train = parts.loc[parts["part"] == "train", KEY].drop_duplicates().merge(videos, on=KEY)
    fakes, reals = train[train["label"] == 1], train[train["label"] == 0]
    if fakes["method"].nunique() > 1:
        raise UserError(f"pairs need one training method, the training part has {', '.join(fakes['method'].unique())}; "
                        "leave the others out of the parts")
    first = fakes.sort_values(KEY).drop_duplicates(["corpus", "target"])
    return reals.merge(first, on=["corpus", "target"], suffixes=("", "_fake")).sort_values(KEY, ignore_index=True)


def few(parts: pd.DataFrame, videos: pd.DataFrame, pairs: int = 10, seed: int = 0) -> pd.DataFrame:
    """Return `parts` with only so many of the `training_pairs` in training; validation and test stay as they are.

    They are the first of one random order, so the fewer of one seed lie inside the more. Raises UserError where
    there are fewer.
    """
    there = training_pairs(parts, videos)
    if not 1 <= pairs <= len(there):
        raise UserError(f"pairs must lie between 1 and {len(there)}, the reals of the training part whose fake trains "
                        f"too; got {pairs}")
    drawn = there.iloc[np.random.default_rng(seed).permutation(len(there))[:pairs]]
    kept = pd.concat([drawn[KEY], drawn[["corpus", "method_fake", "video_fake"]].set_axis(KEY, axis=1)])
    chosen = pd.MultiIndex.from_frame(parts[KEY]).isin(pd.MultiIndex.from_frame(kept))
    return parts[(parts["part"] != "train") | chosen].reset_index(drop=True)


def mark(regime: str) -> str:
    """Return the regime's name for a table or figure, with what it leaks where it is leaky."""
    return f"{regime} (leaky: {LEAKY[regime]})" if regime in LEAKY else regime


def study(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Split as the study's table: real 70/20/10 %, training method 90/10 %, every test method all test."""
    shares = {"real": SHARES, given.train_method: (0.9, 0.1, 0.0)}
    shares |= dict.fromkeys(given.test_methods, (0.0, 0.0, 1.0))
    return pd.concat([_cut(_of(videos, method), share, given.seed) for method, share in shares.items()])


def frame(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Spread the kept frames over the parts, method by method: siblings of a test frame train."""
    if given.frames is None:
        raise UserError(
            "regime 'frame' splits frames: give the frames table, split(..., frames=crops.frames)"
        )
    frames = given.frames
    if "status" in frames:
        frames = frames[frames["status"] == "kept"]
    return _cut_each(frames[[*KEY, "frame"]].merge(videos[KEY], on=KEY), given.seed)


def video(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Spread whole videos at random, method by method: a test fake's scene and face train in other videos."""
    return _cut_each(videos, given.seed)


def target(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep the videos of one scene together; the source's face of a test swap may train."""
    ids = videos["corpus"].astype(str) + "\0" + videos["target"].astype(str)
    return _by_group(videos, pd.Series(pd.factorize(ids, sort=True)[0], index=videos.index), given.seed)


def pair(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep target and source together, and with open pairs the whole chain; YouTube siblings may part."""
    return _by_group(videos, identity_groups(videos), given.seed)


def identity(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep identity groups together: pairs, and YouTube videos and persons where they are given."""
    return _by_group(videos, _groups(videos, given), given.seed)


def official(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Follow the data set's own lists; a fake is taken where target and source stand in the same part."""
    if given.lists is None:
        raise UserError(
            "the official regimes need the lists train.json, val.json, test.json: set corpus.lists in the profile "
            "to the folder that holds them, or call split(..., lists=...)"
        )
    place = {name: part for part, pairs in given.lists.items() for ids in pairs for name in ids}
    by_target, by_source = videos["target"].map(place), videos["source"].map(place)
    agreed = by_target.notna() & (videos["source"].isna() | (by_target == by_source))
    return videos.loc[agreed, KEY].assign(part=by_target[agreed])


def official_strict(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Follow the official lists without the test ids whose identity group reaches into another part."""
    parts = official(videos, given)
    group = _groups(videos, given).loc[parts.index]
    elsewhere = set(group[parts["part"] != "test"])
    return parts[(parts["part"] != "test") | ~group.isin(elsewhere)]


REGIMES: dict[str, Callable[[pd.DataFrame, Given], pd.DataFrame]] = {
    "study": study,
    "frame": frame,
    "video": video,
    "target": target,
    "pair": pair,
    "identity": identity,
    "official": official,
    "official-strict": official_strict,
}


def apportion(count: int, shares: Sequence[float]) -> np.ndarray:
    """Divide `count` by shares (Adams's method: every part with a share gets one before any gets two)."""
    seats = [(seat / share, place) for place, share in enumerate(shares) if share for seat in range(count)]
    return np.bincount([place for _, place in sorted(seats)[:count]], minlength=len(shares))


def _groups(videos: pd.DataFrame, given: Given) -> pd.Series:
    return identity_groups(videos, youtube=given.youtube, persons=given.persons)


def _of(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the sorted keys of one method."""
    chosen = table.loc[table["method"] == method, [name for name in [*KEY, "frame"] if name in table]]
    if chosen.empty:
        found = ", ".join(sorted(set(table["method"]))) or "nothing"
        raise UserError(f"the split needs videos of the method {method}, the corpus has {found}")
    return chosen.sort_values(list(chosen), ignore_index=True)


def _cut_each(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cut every method by the study's shares."""
    return pd.concat([_cut(_of(table, method), SHARES, seed) for method in sorted(set(table["method"]))])


def _cut(rows: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Shuffle the rows of one method in a random stream of its own, so that others do not matter, and cut."""
    method, wanted = rows["method"].iloc[0], sum(share > 0 for share in shares)
    if len(rows) < wanted:
        raise UserError(f"{method} needs at least {wanted} videos, one for each part, found {len(rows)}")
    part = np.repeat(PARTS, apportion(len(rows), shares))
    return rows.assign(part=np.random.default_rng([seed, *method.encode()]).permutation(part))


def _by_group(videos: pd.DataFrame, group: pd.Series, seed: int) -> pd.DataFrame:
    """Give whole groups, in random order, to the part that lacks most of its share of the group's methods.

    Groups larger than the smallest part come first, the largest first, so that they land in training.
    """
    counts = pd.crosstab(group, videos["method"])  # (groups, methods)
    if len(counts) < len(PARTS):
        raise UserError(f"the videos form {len(counts)} groups that must stay whole, too few for three parts")
    sizes = counts.to_numpy(dtype=float)
    quota = np.outer(SHARES, sizes.sum(axis=0))  # (parts, methods)
    order = np.random.default_rng(seed).permutation(len(sizes))
    total = sizes.sum(axis=1)[order]
    order = order[np.argsort(-np.where(total > quota.sum(axis=1).min(), total, 0), kind="stable")]
    place, filled = {}, np.zeros_like(quota)
    for index in order:
        best = int(np.argmax((1 - filled / quota) @ sizes[index]))
        filled[best] += sizes[index]
        place[counts.index[index]] = PARTS[best]
    return videos[KEY].assign(part=group.map(place))


def _check_complete(parts: pd.DataFrame, regime: str) -> None:
    """Raise where a part has no real or no fake: every metric there would be undefined."""
    for part in PARTS:
        methods = set(parts.loc[parts["part"] == part, "method"])
        missing = "real" if "real" not in methods else "fake" if methods == {"real"} else None
        if missing:
            raise UserError(
                f"regime {regime!r} leaves the part {part!r} without {missing} videos; "
                "use more videos or another seed"
            )
