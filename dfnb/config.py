"""A profile: one YAML file in params/ that names a corpus, its crops and the numbers of a study."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from dfnb import UserError, files

NAME = re.compile(r"[a-z0-9-]+")
RENAMED = {"methods": "manipulations", "cells": "combinations", "regime": "protocol",
           "level": "confidence"}  # old names of settings and of notebook parameters -> new names
Scalar = bool | int | float | str | None  # the types of a notebook's parameters
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]  # becomes part of a path
Chapter = Annotated[str, StringConstraints(pattern=r"^\d\d_[a-z0-9_]+$")]  # becomes a run's folder
SweepName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Layout = Literal["ffpp", "ffpp-flat", "celeb-df", "manifest", "dfdc"]  # as in layouts.LAYOUTS
Limit = Literal["pixels", "frames", "seconds", "timeout", "memory"]  # fields of video.Limits
Values = Annotated[list[Scalar], Field(min_length=1)]


class Settings(BaseModel, extra="forbid", strict=True, frozen=True):
    """Refuse unknown keys and silent conversions; every section of a profile inherits this."""


class Corpus(Settings):
    """Name the folder of a corpus or the CSV of a manifest; an absent `layout` is recognised."""

    root: str = Field(min_length=1)
    layout: Layout | None = None
    compression: Literal["raw", "c23", "c40"] = "c23"

    @property
    def index(self) -> dict:
        """Return the options for `corpora.index`."""
        return self.model_dump(exclude={"root", "name", "lists", "identities"})

    @property
    def folder(self) -> Path:
        """Return `root` as a path; a relative one starts at the repository's root."""
        return place(self.root)


class CorpusSettings(Corpus):
    """Choose the videos of a study; `root` is a folder, a CSV, or "demo" for the embedded world.

    `lists` is a folder with the official lists (train.json, val.json, test.json and, if it exists,
    conversion_dict.json). `identities` is a CSV with the columns id and person.
    `videos` limits the number of videos per manipulation, for those that are only tested on.
    """

    manipulations: list[Word] = Field(default=["FaceSwap", "NeuralTextures"], min_length=1)
    videos_per_class: int | None = Field(default=100, ge=1)
    videos: dict[Word, Annotated[int, Field(ge=1)]] = {}
    lists: str | None = Field(default=None, min_length=1)
    identities: str | None = Field(default=None, min_length=1)

    @property
    def known(self) -> tuple[Path | None, ...]:
        """Return the arguments of `identity.read_known`: the paths of `lists` and `identities`."""
        return tuple(path and place(path) for path in (self.lists, self.identities))


class OtherCorpus(Corpus):
    """Name a corpus that is only tested on; without `manipulations`, all of them are used."""

    name: Word | None = None  # in tables; by default the folder's
    manipulations: list[Word] | None = Field(default=None, min_length=1)
    videos_per_class: int | None = Field(default=None, ge=1)


class DemoSettings(Settings):
    """Set the size of the embedded world: `identities` people in pairs, `frames` per video."""

    seed: int = Field(ge=0)
    identities: int = Field(ge=4, multiple_of=2)
    frames: int = Field(ge=1)


class CropSettings(Settings):
    """Set the crops: `frames` per video, `size` in pixels, `margin` times the detector's box.

    `limits` replaces fields of `video.Limits`. `most_lost` is the largest share of its frames that
    a class may lose.
    """

    frames: int = Field(ge=1)
    size: int = Field(ge=16, le=1024)
    margin: float = Field(default=1.3, ge=1, le=3)
    limits: dict[Limit, Annotated[int, Field(ge=1)]] = {}
    most_lost: float = Field(default=0.5, ge=0, lt=1)


class SweepSettings(Settings):
    """Choose the runs of one notebook by one of three kinds, each repeated for all `seeds`.

    The kinds are `grid` (every combination of the values), `combinations` (a list of parameter
    sets), and `one_at_a_time` (the base, then one run per value). `base` overrides the profile's
    chapter in every run. A run fails after `timeout` seconds. It has `retries` more attempts after
    a failure that may pass (kernel died, out of memory, timeout). `chapter` names the chapter that
    reads the runs: `dfnb study` does them before it.
    """

    notebook: Chapter
    chapter: Chapter | None = None
    base: dict[str, Scalar] = {}
    grid: dict[str, Values] | None = Field(default=None, min_length=1)
    combinations: list[dict[str, Scalar]] | None = Field(default=None, min_length=1)
    one_at_a_time: dict[str, Values] | None = Field(default=None, min_length=1)
    seeds: list[int] = []
    timeout: int = Field(default=3600, ge=1)
    retries: int = Field(default=1, ge=0, le=9)

    @model_validator(mode="after")
    def _check_kind(self):
        kinds = ("grid", "combinations", "one_at_a_time")
        given = " and ".join(name for name in kinds if getattr(self, name) is not None)
        if given not in kinds:
            raise ValueError("a sweep has one of grid, combinations and one_at_a_time, "
                             f"not {given or 'none'}")
        if both := set(self.base) & set(self.grid or {}):
            raise ValueError(f"{', '.join(sorted(both))} is in the base and in the grid; "
                             "remove it from one of them")
        return self


class Profile(Settings):
    """Checked settings; `notebooks` maps a chapter to the parameters that differ from its own."""

    name: str
    corpus: CorpusSettings
    demo: DemoSettings | None = None
    test_corpora: list[OtherCorpus] = []
    crops: CropSettings
    clip: str = Field(default="tiny", min_length=1)
    precision: Literal["float32", "bfloat16"] | None = None  # None: float32 on a CPU, else bfloat16
    notebooks: dict[Chapter, dict[str, Scalar]] = {}
    sweeps: dict[SweepName, SweepSettings] = {}

    @model_validator(mode="after")
    def _check_demo(self):
        if (self.corpus.root == "demo") != (self.demo is not None):
            raise ValueError('a section "demo" and corpus.root "demo" go together, '
                             "and one is missing")
        if self.demo and self.crops.frames > self.demo.frames:
            raise ValueError(f"crops.frames must be at most demo.frames = {self.demo.frames}, "
                             f"got {self.crops.frames}")
        return self

    @property
    def folder(self) -> Path:
        """Return the folder of the corpus."""
        return files.data() / self.name if self.demo else self.corpus.folder

    @property
    def settings(self) -> dict:
        """Return what every chapter depends on, in JSON types; only one reads `test_corpora`."""
        included = {"corpus", "demo", "crops", "clip", "precision"}
        return self.model_dump(mode="json", include=included)


def place(path: str) -> Path:
    """Return a path of a profile; a relative one starts at the repository's root."""
    return files.ROOT / Path(path).expanduser()


def folder() -> Path:
    """Return the folder of the profiles (`DFNB_PARAMS`, else `params/` in the repository)."""
    return Path(os.environ.get("DFNB_PARAMS") or files.repository_folder("params"))


def names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in folder().glob("*.yaml") if NAME.fullmatch(path.stem))


def load(name: str) -> Profile:
    """Read and check params/<name>.yaml.

    Raises UserError for an unknown name, broken YAML, and a wrong key or value.
    """
    if name not in names():  # before `name` becomes part of a path
        raise UserError(f"there is no profile {name!r}; "
                        f"the profiles in params/ are {', '.join(names())}")
    path = folder() / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date like 99 May
        reason = " ".join(str(error).split())
        raise UserError(f"params/{path.name} is no readable YAML: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"params/{path.name} must hold the sections corpus and crops, "
                        f"not {content!r}")
    if "name" in content:  # it becomes part of paths
        raise UserError(f"params/{path.name}: there is no setting name; "
                        "a profile is called as its file is")
    try:
        return Profile.model_validate(content | {"name": name})
    except ValidationError as error:
        raise UserError(_sentence(path.name, error)) from None


def _sentence(file: str, error: ValidationError) -> str:
    """Return the first mistake in a profile as one sentence that names file and key."""
    first = error.errors(include_url=False)[0]
    types = {"bool", "int", "float", "str"}  # pydantic names the branches of a union in the key
    key = ".".join(str(part) for part in first["loc"] if part not in types)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        remedy = new_name(str(first["loc"][-1])) or "remove it or correct its name"
        return f"params/{file}: there is no setting {key}; {remedy}"
    if first["type"] == "missing":
        return f"params/{file}: the setting {key} is missing"
    if not key:
        return f"params/{file}: {message}"
    return f"params/{file}: {key} is {first['input']!r}, but {message[0].lower()}{message[1:]}"


def new_name(old: str) -> str:
    """Return "it is called ... now" for an old name of a setting or parameter, else nothing."""
    return f"it is called {RENAMED[old]} now" if old in RENAMED else ""
