"""Find who is in a video: identity groups, the leakage audit, and files that join ids.

The target of a fake is the scene that it shows. A swap shows the source's face in that scene. A
reenactment keeps the target's face and takes only the motion of the source.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dfnb import KEY, SPLITS, DataError, UserError
from dfnb.data.layouts import KINDS, first_names, read_json

# Every manipulation that no layout calls a reenactment counts as a swap, to be careful.
REENACTMENTS = {name for name, kind in KINDS.items() if kind == "reenactment"}
LEAKS = ("frame", "scene", "face", "pair", "group")
LISTS = {"train": "train.json", "validation": "val.json", "test": "test.json"}  # as in FF++


def identity_groups(videos: pd.DataFrame, *, youtube: Mapping[str, str] | None = None,
                    persons: Mapping[str, str] | None = None) -> pd.Series:
    """Return the identity group (int) of each row: connected components of joined ids.

    Ids are joined when a fake has them as target and source, when they are parts of one YouTube
    video (`youtube`: id -> video), or when they show one person (`persons`: id -> person; or a
    column `person` of the videos, whose targets are joined). The order of rows does not matter.
    """
    target = _nodes(videos, "target")
    source = _nodes(videos, "source").where(videos["source"].notna(), target)
    nodes = pd.concat([target, source]).drop_duplicates()
    edges = [pd.DataFrame({"a": target, "b": source})]
    edges += [_same(nodes, mapping) for mapping in (youtube, persons) if mapping]
    if "person" in videos:
        named = videos[videos["person"].notna()]
        person = "\0" + _nodes(named, "person")
        edges.append(pd.DataFrame({"a": target.loc[named.index], "b": person}))
    names, ends = np.unique(pd.concat(edges).to_numpy(dtype=str).ravel(), return_inverse=True)
    a, b = ends.reshape(-1, 2).T
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    return pd.Series(component[a[: len(videos)]].astype(int), index=videos.index, name="group")


def shown(videos: pd.DataFrame) -> pd.Series:
    """Return the id whose face each video shows: the source in swaps, else the target."""
    keeps_face = videos["source"].isna() | videos["manipulation"].isin(REENACTMENTS)
    return videos["target"].where(keeps_face, videos["source"])


def audit(split_table: pd.DataFrame, videos: pd.DataFrame, *,
          groups: pd.Series | None = None) -> pd.DataFrame:
    """Return the share of test videos that were seen in training, by manipulation and leak.

    Leaks are frame (the same video), scene (its target's scene), face (the face it shows), pair
    (its target or source in any role) and group (its identity group; `groups` has one value per row
    of `videos` and follows from the pairs where it is not given). Columns: manipulation, leak,
    videos (number of test videos), seen, seen_as_real, seen_as_fake (shares in [0, 1], by the label
    of the training videos).
    """
    table = _joined(split_table, videos, groups)
    test, train = table[table["split"] == "test"], table[table["split"] == "train"]
    rows = []
    for leak in LEAKS:
        seen = _seen(_tokens(test, leak), _tokens(train, leak), train["label"])
        shares = seen.reindex(test.index, fill_value=False).groupby(test["manipulation"]).mean()
        sizes = test.groupby("manipulation").size()
        rows.append(shares.assign(leak=leak, videos=sizes).reset_index())
    result = pd.concat(rows, ignore_index=True)
    result["leak"] = pd.Categorical(result["leak"], LEAKS)
    order = ["manipulation", "leak", "videos", "seen", "seen_as_real", "seen_as_fake"]
    result = result[order].sort_values(["manipulation", "leak"], ignore_index=True)
    return result.astype({"leak": str})


def describe(audit: pd.DataFrame, leak: str) -> str:
    """Word as a list, for each class of the test, how many videos had a leak, by the label seen."""
    lines = []
    for row in audit[audit["leak"] == leak].itertuples():
        lines.append(f"- Of {row.videos:.0f} test videos of {row.manipulation}, "
                     f"{row.seen_as_real:.0%} share their {leak} with a training video labelled "
                     f"real, and {row.seen_as_fake:.0%} with one labelled fake.")
    return "\n".join(lines)


def check_disjoint(split_table: pd.DataFrame, videos: pd.DataFrame, *,
                   groups: pd.Series | None = None, between: Sequence[str] = SPLITS) -> None:
    """Raise UserError that names the ids where an identity group stands in two splits."""
    table = _joined(split_table[split_table["split"].isin(between)], videos, groups)
    spread = table.groupby("group")["split"].nunique()
    guilty = table[table["group"].isin(spread.index[spread > 1])]
    if guilty.empty:
        return
    ids = guilty.melt("split", ["target", "source"]).dropna().groupby("split")["value"].unique()
    where = ids.map(sorted)
    named = "; ".join(f"{split}: {first_names(where[split], 8)}"
                      for split in between if split in where)
    raise UserError(f"{guilty['group'].nunique()} identity groups stand in more than one split "
                    f"({named}); use the protocol 'identity' or leave these ids out")


def read_known(folder: Path | None, persons: Path | None = None) -> dict[str, dict]:
    """Read the data set's own files in `folder`, as options for `splits.split`.

    train.json, val.json and test.json become `lists` (split -> pairs of ids), conversion_dict.json
    becomes `youtube` (id -> YouTube video), and identities.csv (or the file `persons`) with the
    columns id and person becomes `persons`. DataError where one of the three lists, a named folder
    or a named file is missing.
    """
    known = {}
    if folder is not None:
        known = _of_folder(Path(folder))
        own = Path(folder) / "identities.csv"
        persons = own if persons is None and own.is_file() else persons
    if persons is not None:
        known["persons"] = _read_persons(Path(persons))
    return known


def _of_folder(folder: Path) -> dict[str, dict]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of lists (corpus.lists); it should hold "
                        f"{', '.join(LISTS.values())}")
    known, lacking = {}, [name for name in LISTS.values() if not (folder / name).is_file()]
    if lacking and len(lacking) < len(LISTS):
        raise DataError(f"{folder} lacks {' and '.join(lacking)}; the official split needs all "
                        "three lists")
    if not lacking:
        known["lists"] = {split: _read_pairs(folder / name) for split, name in LISTS.items()}
    if (folder / "conversion_dict.json").is_file():
        entries = read_json(folder / "conversion_dict.json")
        known["youtube"] = {name: entry.rsplit(" ", 1)[0] for name, entry in entries.items()}
    return known


def _read_persons(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise DataError(f"there is no file {path} of persons (corpus.identities); it needs the "
                        "columns id and person")
    table = pd.read_csv(path, dtype=str)
    if not {"id", "person"} <= set(table):
        raise DataError(f"{path} needs the columns id and person, has {list(table)}")
    return dict(zip(table["id"], table["person"], strict=True))


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        return [(str(a), str(b)) for a, b in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise DataError(f'{path} must be a list of pairs of ids such as [["071", "054"], ...]: '
                        f"{error}") from None


def _nodes(videos: pd.DataFrame, column: str) -> pd.Series:
    """Name ids per corpus, since two corpora may both have an id 000."""
    return videos["corpus"].astype(str) + "\0" + videos[column].astype(str)


def _same(nodes: pd.Series, mapping: Mapping[str, str]) -> pd.DataFrame:
    """Return edges from each id to the first id of its corpus that the mapping calls the same."""
    table = nodes.str.split("\0", expand=True).set_axis(["corpus", "id"], axis=1).assign(a=nodes)
    table["same"] = table["id"].map(dict(mapping))
    table = table.dropna(subset=["same"]).sort_values("a")
    return table.assign(b=table.groupby(["corpus", "same"])["a"].transform("first"))[["a", "b"]]


def _joined(split_table: pd.DataFrame, videos: pd.DataFrame,
            groups: pd.Series | None) -> pd.DataFrame:
    """Return one row per video and split with ids, label and group; frames become their video."""
    groups = identity_groups(videos) if groups is None else groups
    known = videos[[*KEY, "label", "target", "source"]].assign(group=groups.to_numpy())
    table = split_table[[*KEY, "split"]].drop_duplicates()
    table = table.merge(known, on=KEY, how="left", validate="many_to_one")
    if (unknown := table["target"].isna()).any():
        name = table.loc[unknown, "video"].iloc[0]
        raise UserError(f"video {name} has a split but is not in the videos table")
    return table


def _tokens(table: pd.DataFrame, leak: str) -> pd.Series:
    """Return what each video is recognised by, one row per (video, token), indexed as the table."""
    if leak == "frame":
        return table[KEY].astype(str).agg("\0".join, axis=1)
    if leak == "group":
        return table["group"].astype(str)
    if leak == "pair":
        source = table[table["source"].notna()]
        return pd.concat([_nodes(table, "target"), _nodes(source, "source")])
    return _nodes(table.assign(face=shown(table)), "target" if leak == "scene" else "face")


def _seen(test: pd.Series, train: pd.Series, label: pd.Series) -> pd.DataFrame:
    """Return for each test video whether a token is that of a training video, a real, a fake."""
    labels = label.reindex(train.index)
    flags = pd.DataFrame({
        "seen": test.isin(set(train)),
        "seen_as_real": test.isin(set(train[(labels == 0).to_numpy()])),
        "seen_as_fake": test.isin(set(train[(labels == 1).to_numpy()]))})
    return flags.groupby(level=0).any()
