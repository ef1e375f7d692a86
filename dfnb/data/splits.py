"""Decide which video (or frame) is for training, validation and test: leaky to strict protocols.

A protocol is a pure function from the videos to the split table. It depends on its seed and not on
the order of rows. No protocol is the default, and a leaky one is marked (`mark`) wherever its
result is shown. A protocol that promises disjoint people is checked before its result is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dfnb import KEY, SPLITS, DataError, UserError
from dfnb.data import folds as grouped
from dfnb.data.identity import check_disjoint, identity_groups

SHARES = (0.7, 0.2, 0.1)  # of training, validation and test in the study's real videos
LEAKY = {  # protocol -> the part of a test video that training may have seen
    "study": "scene and person of the fakes",
    "frame": "frames of the same video",
    "video": "scene and face",
    "target": "face of the source",
    "official": "YouTube video of a few ids",
}


@dataclass(frozen=True)
class Given:
    """What a protocol may use beside the videos.

    `frames` is the frames table, for the protocol "frame"; `youtube` (id -> YouTube video) and
    `persons` (id -> person) join ids to identity groups; `lists` (split -> pairs of ids) is for the
    official protocols; `fold` of `folds` is the test split of the protocol "cross".
    """

    seed: int = 0
    train_manipulation: str = "FaceSwap"
    test_manipulations: Sequence[str] = ("NeuralTextures",)
    frames: pd.DataFrame | None = None
    youtube: Mapping[str, str] | None = None
    persons: Mapping[str, str] | None = None
    lists: Mapping[str, Sequence[Sequence[str]]] | None = None
    folds: int = 5
    fold: int = 0


def split(videos: pd.DataFrame, protocol: str, *, seed: int = 0, **given) -> pd.DataFrame:
    """Return the split table: corpus, manipulation, video (frame in the protocol "frame"), split.

    `given` holds fields of `Given`. Raises UserError for an unknown protocol, where a split lacks a
    class, and where a protocol that promises disjoint people does not keep them apart.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    options = Given(seed=seed, **given)
    split_table = PROTOCOLS[protocol](videos, options)
    _check_complete(split_table, protocol)
    if protocol in DISJOINT:
        groups = identity_groups(videos) if protocol == "pair" else _groups(videos, options)
        check_disjoint(split_table, videos, groups=groups)
    order = [name for name in [*KEY, "frame"] if name in split_table]
    return split_table.sort_values(order, ignore_index=True)[[*order, "split"]]


def fraction(split_table: pd.DataFrame, videos: pd.DataFrame, share: float,
             seed: int) -> pd.DataFrame:
    """Return the split table with a share in (0, 1] of the training videos.

    Validation and test stay the same. Whole identity groups are kept, the first of one random
    order, until they hold the share and both classes. A smaller fraction of the same seed is part
    of a larger one.
    """
    if not 0 < share <= 1:
        raise UserError("fraction is a share of the training videos and must lie in (0, 1], "
                        f"got {share}")
    group = videos["group"] if "group" in videos else identity_groups(videos)
    train = split_table.loc[split_table["split"] == "train", KEY].drop_duplicates()
    train = train.merge(videos[[*KEY, "label"]].assign(group=group), on=KEY)
    train = train.sort_values(KEY, ignore_index=True)
    names = train["group"].drop_duplicates().to_numpy()  # in the order of their first videos
    order = pd.Series(np.random.default_rng(seed).permutation(len(names)), index=names)
    train = train.assign(place=train["group"].map(order)).sort_values("place", kind="stable")
    enough = np.arange(1, len(train) + 1) >= share * len(train) - 1e-9
    both = (train["label"].cummax() > train["label"].cummin()).to_numpy()
    stop = enough & both
    last = train["place"].iloc[np.argmax(stop)] if stop.any() else len(names)
    dropped = _among(split_table, train.loc[train["place"] > last, KEY])
    return split_table[(split_table["split"] != "train") | ~dropped].reset_index(drop=True)


def keep_manipulations(split_table: pd.DataFrame, train_manipulation: str,
                       test_manipulations: Sequence[str]) -> pd.DataFrame:
    """Return the split table with one manipulation in training and validation, others in the test.

    A protocol that places every video (official, identity) then asks the study's question: is an
    unseen manipulation detected?
    """
    fakes = dict.fromkeys(SPLITS, [train_manipulation]) | {"test": list(test_manipulations)}
    placed = zip(split_table["manipulation"], split_table["split"], strict=True)
    wanted = [name == "real" or name in fakes[split] for name, split in placed]
    kept = split_table[wanted].reset_index(drop=True)
    if missing := sorted({train_manipulation, *test_manipulations} - set(kept["manipulation"])):
        found = ", ".join(sorted(set(split_table["manipulation"])))
        raise UserError(f"no video of {', '.join(missing)} is in the split that needs it; "
                        f"the split table has the manipulations {found}")
    for split in ("train", "validation"):
        if train_manipulation not in set(kept.loc[kept["split"] == split, "manipulation"]):
            raise UserError(f"the split {split!r} has no videos of {train_manipulation}; "
                            "use another seed")
    return kept


def complete_scenes(split_table: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Return the split table with only those scenes in training that train with both labels.

    Validation and test stay the same. Raises UserError where training holds no such scene.
    """
    train = split_table.loc[split_table["split"] == "train", KEY].drop_duplicates()
    train = train.merge(videos, on=KEY)
    whole = train.groupby(["corpus", "target"])["label"].transform("nunique") == 2
    if not whole.any():
        raise UserError("no scene of the training split has both a real and a fake video there; "
                        "use another seed or more videos")
    kept = _among(split_table, train.loc[whole, KEY])
    return split_table[(split_table["split"] != "train") | kept].reset_index(drop=True)


def training_pairs(split_table: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of the training split, a real and the fake of which it is the target.

    The fake's columns end in _fake. Of several fakes of a real the first by name is taken. Raises
    UserError for fakes of several manipulations.
    """
    train = split_table.loc[split_table["split"] == "train", KEY].drop_duplicates()
    train = train.merge(videos, on=KEY)
    fakes, reals = train[train["label"] == 1], train[train["label"] == 0]
    if fakes["manipulation"].nunique() > 1:
        raise UserError("pairs need one training manipulation, the training split has "
                        f"{', '.join(fakes['manipulation'].unique())}; leave the others out")
    first = fakes.sort_values(KEY).drop_duplicates(["corpus", "target"])
    pairs = reals.merge(first, on=["corpus", "target"], suffixes=("", "_fake"))
    return pairs.sort_values(KEY, ignore_index=True)


def few_pairs(split_table: pd.DataFrame, videos: pd.DataFrame, pairs: int,
              seed: int) -> pd.DataFrame:
    """Return the split table with only some of the `training_pairs` in training.

    Validation and test stay the same. The pairs are the first of one random order, so that fewer of
    one seed are part of more. Raises UserError where there are fewer.
    """
    known = training_pairs(split_table, videos)
    if not 1 <= pairs <= len(known):
        raise UserError(f"pairs must lie between 1 and {len(known)}, the reals of the training "
                        f"split whose fake trains too; got {pairs}")
    drawn = known.iloc[np.random.default_rng(seed).permutation(len(known))[:pairs]]
    fakes = drawn[["corpus", "manipulation_fake", "video_fake"]].set_axis(KEY, axis=1)
    kept = _among(split_table, pd.concat([drawn[KEY], fakes]))
    return split_table[(split_table["split"] != "train") | kept].reset_index(drop=True)


def _among(split_table: pd.DataFrame, keys: pd.DataFrame) -> np.ndarray:
    """Return for each row whether its video is one of `keys`."""
    return pd.MultiIndex.from_frame(split_table[KEY]).isin(pd.MultiIndex.from_frame(keys))


def mark(protocol: str) -> str:
    """Return the protocol's name for a table or figure, with what it leaks where it is leaky."""
    return f"{protocol} (leaky: {LEAKY[protocol]})" if protocol in LEAKY else protocol


def repeated(protocol: str) -> str:
    """Return what changes from fit to fit: the draw of the split, or the training seed alone."""
    return "training seed" if protocol.startswith("official") else "draw of the split"


def study(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Split each class as the study does.

    Real videos go 70/20/10 % to training, validation and test, those of the training manipulation
    90/10 % to training and validation, and all of the test manipulations to the test.
    """
    shares = {"real": SHARES, given.train_manipulation: (0.9, 0.1, 0.0)}
    shares |= dict.fromkeys(given.test_manipulations, (0.0, 0.0, 1.0))
    return _cut_classes(videos, shares, given.seed)


def frame(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Spread the kept frames of each class over the splits: siblings of a test frame train."""
    if given.frames is None:
        raise UserError("protocol 'frame' splits frames: give the frames table, "
                        "split(..., frames=crops.frames)")
    frames = given.frames
    if "status" in frames:
        frames = frames[frames["status"] == "kept"]
    frames = frames[[*KEY, "frame"]].merge(videos[KEY], on=KEY)
    return _cut_classes(frames, _same_shares(frames), given.seed)


def video(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Spread the videos of each class at random: scene and face of a test fake train elsewhere."""
    return _cut_classes(videos, _same_shares(videos), given.seed)


def target(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep the videos of one scene together; the source's face of a test swap may train."""
    ids = videos["corpus"].astype(str) + "\0" + videos["target"].astype(str)
    groups = pd.Series(pd.factorize(ids, sort=True)[0], index=videos.index)
    return _by_group(videos, groups, given.seed)


def pair(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep target and source together, with open pairs the whole chain; not YouTube siblings."""
    return _by_group(videos, identity_groups(videos), given.seed)


def identity(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep identity groups together: pairs, and YouTube videos and persons where they are given."""
    return _by_group(videos, _groups(videos, given), given.seed)


def cross(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Test one fold of whole identity groups, validate on the next, train on the others.

    The folds depend on the seed alone, so that the `folds` splits test every video once.
    """
    ordered = videos.assign(group=_groups(videos, given)).sort_values(KEY)
    fold = grouped.grouped_folds(ordered["label"], ordered["group"], given.folds, seed=given.seed)
    return ordered[KEY].assign(split=grouped.roles(fold, given.fold, given.folds))


def official(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Follow the lists of the data set; a fake needs target and source in the same split."""
    if given.lists is None:
        raise UserError("the official protocols need the lists train.json, val.json and test.json: "
                        "set corpus.lists in the profile to the folder that holds them, or call "
                        "split(..., lists=...)")
    place = {name: split for split, pairs in given.lists.items() for ids in pairs for name in ids}
    by_target, by_source = videos["target"].map(place), videos["source"].map(place)
    agreed = by_target.notna() & (videos["source"].isna() | (by_target == by_source))
    return videos.loc[agreed, KEY].assign(split=by_target[agreed])


def official_strict(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Follow the lists without ids whose identity group reaches into another split.

    Linked test ids are left out first, then validation ids that are linked to training.
    """
    split_table = official(videos, given)
    group = _groups(videos, given).loc[split_table.index]
    for split in ("test", "validation"):
        own = split_table["split"] == split
        linked = group.isin(set(group[~own]))
        split_table, group = split_table[~own | ~linked], group[~own | ~linked]
    return split_table


PROTOCOLS: dict[str, Callable[[pd.DataFrame, Given], pd.DataFrame]] = {
    "study": study, "frame": frame, "video": video, "target": target, "pair": pair,
    "identity": identity, "cross": cross, "official": official,
    "official-strict": official_strict,
}
DISJOINT = ("pair", "identity", "cross", "official-strict")  # they promise disjoint groups


def apportion(count: int, shares: Sequence[float]) -> np.ndarray:
    """Divide `count` by shares by Adams's method: each gets one before any gets two."""
    seats = [(seat / share, place) for place, share in enumerate(shares) if share
             for seat in range(count)]
    return np.bincount([place for _, place in sorted(seats)[:count]], minlength=len(shares))


def _same_shares(table: pd.DataFrame) -> dict[str, Sequence[float]]:
    return dict.fromkeys(sorted(set(table["manipulation"])), SHARES)


def _groups(videos: pd.DataFrame, given: Given) -> pd.Series:
    return identity_groups(videos, youtube=given.youtube, persons=given.persons)


def _cut_classes(table: pd.DataFrame, shares: Mapping[str, Sequence[float]],
                 seed: int) -> pd.DataFrame:
    """Shuffle and cut the rows of each manipulation by its shares.

    Each manipulation has a random stream for its name, so that others do not change its cut.
    """
    columns, cut = [name for name in [*KEY, "frame"] if name in table], []
    for name, share in shares.items():
        rows = table.loc[table["manipulation"] == name, columns]
        if rows.empty:
            there = ", ".join(sorted(set(table["manipulation"]))) or "nothing"
            raise DataError(f"the split needs videos of {name}, the corpus has {there}; "
                            "set corpus.manipulations in the profile")
        if len(rows) < (wanted := np.count_nonzero(share)):
            raise DataError(f"{name} needs at least {wanted} videos, one for each split, "
                            f"found {len(rows)}")
        stream = np.random.default_rng([seed, *name.encode()])
        split = stream.permutation(np.repeat(SPLITS, apportion(len(rows), share)))
        cut.append(rows.sort_values(columns, ignore_index=True).assign(split=split))
    return pd.concat(cut)


def _by_group(videos: pd.DataFrame, group: pd.Series, seed: int) -> pd.DataFrame:
    """Give whole groups, in random order, to the split that lacks most of its share.

    Groups larger than the smallest split come first, the largest first, so that they train.
    """
    counts = pd.crosstab(group, videos["manipulation"])  # (groups, manipulations)
    if len(counts) < len(SPLITS):
        raise DataError(f"the videos form {len(counts)} groups that must stay whole, too few for "
                        "three splits; use more videos")
    sizes = counts.to_numpy(dtype=float)
    quota = np.outer(SHARES, sizes.sum(axis=0))  # (splits, manipulations)
    order = np.random.default_rng(seed).permutation(len(sizes))
    total = sizes.sum(axis=1)[order]
    order = order[np.argsort(-np.where(total > quota.sum(axis=1).min(), total, 0), kind="stable")]
    place, filled = {}, np.zeros_like(quota)
    for index in order:
        best = int(np.argmax((1 - filled / quota) @ sizes[index]))
        filled[best] += sizes[index]
        place[counts.index[index]] = SPLITS[best]
    return videos[KEY].assign(split=group.map(place))


def _check_complete(split_table: pd.DataFrame, protocol: str) -> None:
    """Raise UserError where a split has no real or no fake: no metric would be defined there."""
    for split in SPLITS:
        found = set(split_table.loc[split_table["split"] == split, "manipulation"])
        missing = "real" if "real" not in found else "fake" if found == {"real"} else None
        if missing:
            raise DataError(f"protocol {protocol!r} leaves the split {split!r} without {missing} "
                            "videos; use more videos or another seed")
