"""Which video (or frame) trains, validates and tests: protocols from leaky to strict.

A protocol is a pure function from `videos` to `splits`, deterministic in its seed and blind to row order. None
is the default: a protocol is asked for by name, and a leaky one is marked (`mark`) wherever it was used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dfnb import KEY, SPLITS, UserError
from dfnb.data.identity import (
    identity_groups,
)

SHARES = (0.7, 0.2, 0.1)  # train, validation, test: the study's split of its real videos
LEAKY = {  # protocol -> what of a test video may have been seen in training
    "study": "scene and person of the fakes",
    "frame": "frames of the same video",
    "video": "scene and face",
    "target": "face of the source",
}


@dataclass(frozen=True)
class Given:
    """What a protocol may use beside the videos.

    The study's manipulations (train_manipulation, test_manipulations); the frames table for the protocol "frame"; youtube (id ->
    YouTube video) and persons (id -> person) for identity groups; lists (split -> pairs of ids) for
    "official".
    """

    seed: int = 0
    train_manipulation: str = "FaceSwap"
    test_manipulations: Sequence[str] = ("NeuralTextures",)
    frames: pd.DataFrame | None = None
    youtube: Mapping[str, str] | None = None
    persons: Mapping[str, str] | None = None
    lists: Mapping[str, Sequence[Sequence[str]]] | None = None


def split(videos: pd.DataFrame, protocol: str, *, seed: int = 0, **given) -> pd.DataFrame:
    """Return `splits`: corpus, manipulation, video (and frame for the protocol "frame") with their split.

    `given` holds fields of `Given`. Raises UserError for an unknown protocol and where a split lacks a class.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    split_table = PROTOCOLS[protocol](videos, Given(seed=seed, **given))
    _check_complete(split_table, protocol)
    order = [name for name in [*KEY, "frame"] if name in split_table]
    return split_table.sort_values(order, ignore_index=True)[[*order, "split"]]


def fraction(split_table: pd.DataFrame, videos: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Return `splits` with only a share in (0, 1] of the training videos; validation and test stay as they are.

    Whole identity groups are kept, the first of one random order, until they hold the share and both classes:
    so a smaller fraction of the same seed lies inside a larger one.
    """
    if not 0 < share <= 1:
        raise UserError(f"fraction is a share of the training videos and must lie in (0, 1], got {share}")
    group = videos["group"] if "group" in videos else identity_groups(videos)
    train = split_table.loc[split_table["split"] == "train", KEY].drop_duplicates()
    train = train.merge(videos[[*KEY, "label"]].assign(group=group), on=KEY).sort_values(KEY, ignore_index=True)
    names = train["group"].drop_duplicates().to_numpy()  # by the first video of each, whatever its number
    order = pd.Series(np.random.default_rng(seed).permutation(len(names)), index=names)
    train = train.assign(place=train["group"].map(order)).sort_values("place", kind="stable")
    enough = np.arange(1, len(train) + 1) >= share * len(train) - 1e-9
    both = (train["label"].cummax() > train["label"].cummin()).to_numpy()
    last = train["place"].iloc[np.argmax(enough & both)] if (enough & both).any() else len(names)
    dropped = split_table[KEY].merge(train.loc[train["place"] > last, KEY], on=KEY, how="left", indicator=True)
    gone = dropped["_merge"].eq("both").to_numpy() & split_table["split"].eq("train").to_numpy()
    return split_table[~gone].reset_index(drop=True)


def keep(split_table: pd.DataFrame, train_manipulation: str, test_manipulations: Sequence[str]) -> pd.DataFrame:
    """Return `splits` with reals everywhere, one manipulation in training and validation, others in the test alone.

    So a protocol that places every video (official, identity) asks what the study asks: is an unseen one detected?
    """
    fakes = {"train": [train_manipulation], "validation": [train_manipulation], "test": list(test_manipulations)}
    placed = zip(split_table["manipulation"], split_table["split"], strict=True)
    kept = split_table[[manipulation == "real" or manipulation in fakes[split] for manipulation, split in placed]].reset_index(drop=True)
    if missing := sorted({train_manipulation, *test_manipulations} - set(kept["manipulation"])):
        found = ", ".join(sorted(set(split_table["manipulation"])))
        raise UserError(f"no video of {', '.join(missing)} is where it is needed; the split has the manipulations {found}")
    for split in ("train", "validation"):
        if train_manipulation not in set(kept.loc[kept["split"] == split, "manipulation"]):
            raise UserError(f"the split leaves the split {split!r} without videos of {train_manipulation}; use another seed")
    return kept


def training_pairs(split_table: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of the training split, a real and its fake (that of which it is the target): KEY, fake, manipulation.

    Of several fakes of a real the first by name is taken. Raises UserError for fakes of several manipulations.
    """
    train = split_table.loc[split_table["split"] == "train", KEY].drop_duplicates().merge(videos, on=KEY)
    fakes, reals = train[train["label"] == 1], train[train["label"] == 0]
    if fakes["manipulation"].nunique() > 1:
        raise UserError(f"pairs need one training manipulation, the training split has {', '.join(fakes['manipulation'].unique())}; "
                        "leave the others out of the splits")
    first = fakes.sort_values(KEY).drop_duplicates(["corpus", "target"])
    return reals.merge(first, on=["corpus", "target"], suffixes=("", "_fake")).sort_values(KEY, ignore_index=True)


def few(split_table: pd.DataFrame, videos: pd.DataFrame, pairs: int = 10, seed: int = 0) -> pd.DataFrame:
    """Return `splits` with only so many of the `training_pairs` in training; validation and test stay as they are.

    They are the first of one random order, so the fewer of one seed lie inside the more. Raises UserError where
    there are fewer.
    """
    there = training_pairs(split_table, videos)
    if not 1 <= pairs <= len(there):
        raise UserError(f"pairs must lie between 1 and {len(there)}, the reals of the training split whose fake trains "
                        f"too; got {pairs}")
    drawn = there.iloc[np.random.default_rng(seed).permutation(len(there))[:pairs]]
    kept = pd.concat([drawn[KEY], drawn[["corpus", "manipulation_fake", "video_fake"]].set_axis(KEY, axis=1)])
    chosen = pd.MultiIndex.from_frame(split_table[KEY]).isin(pd.MultiIndex.from_frame(kept))
    return split_table[(split_table["split"] != "train") | chosen].reset_index(drop=True)


def mark(protocol: str) -> str:
    """Return the protocol's name for a table or figure, with what it leaks where it is leaky."""
    return f"{protocol} (leaky: {LEAKY[protocol]})" if protocol in LEAKY else protocol


def study(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Split as the study's table: real 70/20/10 %, training manipulation 90/10 %, every test manipulation all test."""
    shares = {"real": SHARES, given.train_manipulation: (0.9, 0.1, 0.0)}
    shares |= dict.fromkeys(given.test_manipulations, (0.0, 0.0, 1.0))
    return pd.concat([_cut(_of(videos, manipulation), share, given.seed) for manipulation, share in shares.items()])


def frame(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Spread the kept frames over the splits, manipulation by manipulation: siblings of a test frame train."""
    if given.frames is None:
        raise UserError(
            "protocol 'frame' splits frames: give the frames table, split(..., frames=crops.frames)"
        )
    frames = given.frames
    if "status" in frames:
        frames = frames[frames["status"] == "kept"]
    return _cut_each(frames[[*KEY, "frame"]].merge(videos[KEY], on=KEY), given.seed)


def video(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Spread whole videos at random, manipulation by manipulation: a test fake's scene and face train in other videos."""
    return _cut_each(videos, given.seed)


def target(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep the videos of one scene together; the source's face of a test swap may train."""
    ids = videos["corpus"].astype(str) + "\0" + videos["target"].astype(str)
    return _by_group(videos, pd.Series(pd.factorize(ids, sort=True)[0], index=videos.index), given.seed)


def pair(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep target and source together, and with open pairs the whole chain; YouTube siblings may split."""
    return _by_group(videos, identity_groups(videos), given.seed)


def identity(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Keep identity groups together: pairs, and YouTube videos and persons where they are given."""
    return _by_group(videos, _groups(videos, given), given.seed)


def official(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Follow the data set's own lists; a fake is taken where target and source stand in the same split."""
    if given.lists is None:
        raise UserError(
            "the official protocols need the lists train.json, val.json, test.json: set corpus.lists in the profile "
            "to the folder that holds them, or call split(..., lists=...)"
        )
    place = {name: split for split, pairs in given.lists.items() for ids in pairs for name in ids}
    by_target, by_source = videos["target"].map(place), videos["source"].map(place)
    agreed = by_target.notna() & (videos["source"].isna() | (by_target == by_source))
    return videos.loc[agreed, KEY].assign(split=by_target[agreed])


def official_strict(videos: pd.DataFrame, given: Given) -> pd.DataFrame:
    """Follow the official lists without the test ids whose identity group reaches into another split."""
    split_table = official(videos, given)
    group = _groups(videos, given).loc[split_table.index]
    elsewhere = set(group[split_table["split"] != "test"])
    return split_table[(split_table["split"] != "test") | ~group.isin(elsewhere)]


PROTOCOLS: dict[str, Callable[[pd.DataFrame, Given], pd.DataFrame]] = {
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
    """Divide `count` by shares (Adams's manipulation: every split with a share gets one before any gets two)."""
    seats = [(seat / share, place) for place, share in enumerate(shares) if share for seat in range(count)]
    return np.bincount([place for _, place in sorted(seats)[:count]], minlength=len(shares))


def _groups(videos: pd.DataFrame, given: Given) -> pd.Series:
    return identity_groups(videos, youtube=given.youtube, persons=given.persons)


def _of(table: pd.DataFrame, manipulation: str) -> pd.DataFrame:
    """Return the sorted keys of one manipulation."""
    chosen = table.loc[table["manipulation"] == manipulation, [name for name in [*KEY, "frame"] if name in table]]
    if chosen.empty:
        found = ", ".join(sorted(set(table["manipulation"]))) or "nothing"
        raise UserError(f"the split needs videos of the manipulation {manipulation}, the corpus has {found}")
    return chosen.sort_values(list(chosen), ignore_index=True)


def _cut_each(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cut every manipulation by the study's shares."""
    return pd.concat([_cut(_of(table, manipulation), SHARES, seed) for manipulation in sorted(set(table["manipulation"]))])


def _cut(rows: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Shuffle the rows of one manipulation in a random stream of its own, so that others do not matter, and cut."""
    manipulation, wanted = rows["manipulation"].iloc[0], sum(share > 0 for share in shares)
    if len(rows) < wanted:
        raise UserError(f"{manipulation} needs at least {wanted} videos, one for each split, found {len(rows)}")
    split = np.repeat(SPLITS, apportion(len(rows), shares))
    return rows.assign(split=np.random.default_rng([seed, *manipulation.encode()]).permutation(split))


def _by_group(videos: pd.DataFrame, group: pd.Series, seed: int) -> pd.DataFrame:
    """Give whole groups, in random order, to the split that lacks most of its share of the group's manipulations.

    Groups larger than the smallest split come first, the largest first, so that they land in training.
    """
    counts = pd.crosstab(group, videos["manipulation"])  # (groups, manipulations)
    if len(counts) < len(SPLITS):
        raise UserError(f"the videos form {len(counts)} groups that must stay whole, too few for three splits")
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
    """Raise where a split has no real or no fake: every metric there would be undefined."""
    for split in SPLITS:
        manipulations = set(split_table.loc[split_table["split"] == split, "manipulation"])
        missing = "real" if "real" not in manipulations else "fake" if manipulations == {"real"} else None
        if missing:
            raise UserError(
                f"protocol {protocol!r} leaves the split {split!r} without {missing} videos; "
                "use more videos or another seed"
            )
