"""A profile: one YAML file in params/ that says which corpus, which crops and which numbers a study uses."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from dfnb import UserError, files

NAME = re.compile(r"[a-z0-9-]+")
Scalar = bool | int | float | str | None  # what a notebook's parameter may be
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]  # becomes part of a path
Chapter = Annotated[str, StringConstraints(pattern=r"^\d\d_[a-z0-9_]+$")]  # becomes a run's folder
SweepName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Layout = Literal["ffpp", "ffpp-flat", "celeb-df", "manifest", "dfdc"]  # as in layouts.LAYOUTS
Limit = Literal["pixels", "frames", "seconds", "timeout", "memory"]  # fields of video.Limits
Values = Annotated[list[Scalar], Field(min_length=1)]


class Settings(BaseModel):
    """Base of every section: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CorpusSettings(Settings):
    """Which videos: `root` is a folder in a known layout, the CSV of a manifest, or "demo" for the embedded world.

    `layout` is recognised where it is not given. `lists` is a folder of the official lists (train.json, val.json,
    test.json, and conversion_dict.json where it is there), `identities` a CSV of id and person.
    `videos` says of which manipulations only so many are wanted: such as are tested on, and not trained on.
    """

    root: str = Field(min_length=1)
    layout: Layout | None = None
    compression: Literal["raw", "c23", "c40"] = "c23"
    manipulations: list[Word] = Field(default=["FaceSwap", "NeuralTextures"], min_length=1)
    videos_per_class: int | None = Field(default=100, ge=1)
    videos: dict[Word, Annotated[int, Field(ge=1)]] = {}
    lists: str | None = Field(default=None, min_length=1)
    identities: str | None = Field(default=None, min_length=1)

    @property
    def index(self) -> dict:
        """The options for `corpora.index`."""
        return self.model_dump(exclude={"root", "lists", "identities"})

    @property
    def known(self) -> tuple[Path | None, Path | None]:
        """The arguments of `identity.read_known`; relative paths count from the repository's root."""
        return tuple(given and place(given) for given in (self.lists, self.identities))


class OtherCorpus(Settings):
    """Another corpus, for testing alone; all its manipulations where `manipulations` is not given."""

    root: str = Field(min_length=1)
    name: Word | None = None  # in tables; by default the folder's
    layout: Layout | None = None
    compression: Literal["raw", "c23", "c40"] = "c23"
    manipulations: list[Word] | None = Field(default=None, min_length=1)
    videos_per_class: int | None = Field(default=None, ge=1)

    @property
    def index(self) -> dict:
        """The options for `corpora.index`."""
        return self.model_dump(exclude={"root", "name"})

    @property
    def folder(self) -> Path:
        return place(self.root)


class DemoSettings(Settings):
    """The embedded world: `identities` people come in pairs; `frames` a video."""

    seed: int = Field(ge=0)
    identities: int = Field(ge=4, multiple_of=2)
    frames: int = Field(ge=1)


class CropSettings(Settings):
    """Faces: `frames` a video, evenly spaced; crops of `size` pixels; `margin` times the detector's box.

    `limits`: what one video may cost, where `video.Limits` is too narrow; a class may lose the share `most_lost`.
    """

    frames: int = Field(ge=1)
    size: int = Field(ge=16, le=1024)
    margin: float = Field(default=1.3, ge=1, le=3)
    limits: dict[Limit, Annotated[int, Field(ge=1)]] = {}
    most_lost: float = Field(default=0.5, ge=0, lt=1)


class SweepSettings(Settings):
    """Runs of one notebook: cells of a grid, of a list, or one factor at a time around the base; times seeds.

    `base` holds what differs from the profile's chapter in every cell. A run fails after `timeout` seconds
    and has `retries` more attempts where another one can end otherwise (kernel died, out of memory, timeout).
    `chapter` reads the runs: `study` does them before it.
    """

    notebook: Chapter
    chapter: Chapter | None = None
    base: dict[str, Scalar] = {}
    grid: dict[str, Values] | None = Field(default=None, min_length=1)
    cells: list[dict[str, Scalar]] | None = Field(default=None, min_length=1)
    one_at_a_time: dict[str, Values] | None = Field(default=None, min_length=1)
    seeds: list[int] = []
    timeout: int = Field(default=3600, ge=1)
    retries: int = Field(default=1, ge=0, le=9)

    @model_validator(mode="after")
    def _check_kind(self):
        given = [name for name in ("grid", "cells", "one_at_a_time") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a sweep has one of grid, cells and one_at_a_time, not {' and '.join(given) or 'none'}")
        if both := set(self.base) & set(self.grid or {}):
            raise ValueError(f"{', '.join(sorted(both))} is in the base and in the grid; remove it from one of them")
        return self


def place(path: str) -> Path:
    """A path of a profile; a relative one counts from the repository's root."""
    return files.ROOT / Path(path).expanduser()


class Profile(Settings):
    """Checked settings; `notebooks` maps a chapter to those parameters that differ from its own defaults."""

    name: str
    corpus: CorpusSettings
    demo: DemoSettings | None = None
    test_corpora: list[OtherCorpus] = []
    crops: CropSettings
    clip: str = Field(default="tiny", min_length=1)
    notebooks: dict[Chapter, dict[str, Scalar]] = {}
    sweeps: dict[SweepName, SweepSettings] = {}

    @model_validator(mode="after")
    def _check_demo(self):
        if (self.corpus.root == "demo") != (self.demo is not None):
            raise ValueError('a section "demo" and corpus.root "demo" go together, and one is missing')
        if self.demo and self.crops.frames > self.demo.frames:
            limit = self.demo.frames
            raise ValueError(f"crops.frames must be at most demo.frames = {limit}, got {self.crops.frames}")
        return self

    @property
    def folder(self) -> Path:
        """Folder of the corpus; a relative root counts from the repository's root."""
        if self.demo:
            return files.data() / self.name
        return place(self.corpus.root)

    @property
    def settings(self) -> dict:
        """What every chapter of the profile depends on, as plain JSON types; `test_corpora` concern one alone."""
        return self.model_dump(mode="json", include={"corpus", "demo", "crops", "clip"})


def folder() -> Path:
    """Folder of the profiles (`DFNB_PARAMS`, else `params/` in the repository)."""
    return Path(os.environ.get("DFNB_PARAMS") or files.of_clone("params"))


def names() -> list[str]:
    """Names of the profiles there are."""
    return sorted(path.stem for path in folder().glob("*.yaml") if NAME.fullmatch(path.stem))


def load(name: str) -> Profile:
    """Read and check params/<name>.yaml. UserError for an unknown name, broken YAML, a wrong key or value."""
    if name not in names():  # a name is looked up, never joined to a path unseen
        raise UserError(f"there is no profile {name!r}; the profiles in params/ are {', '.join(names())}")
    path = folder() / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:  # ValueError: the 99th of May
        raise UserError(f"params/{path.name} is no readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"params/{path.name} must hold the sections corpus and crops, not {content!r}")
    if "name" in content:  # it becomes part of paths
        raise UserError(f"params/{path.name}: there is no setting name; a profile is called as its file is")
    try:
        return Profile.model_validate(content | {"name": name})
    except ValidationError as error:
        raise UserError(_sentence(path.name, error)) from None


def _sentence(file: str, error: ValidationError) -> str:
    """The first thing wrong with a profile, as one sentence naming file and key."""
    first = error.errors(include_url=False)[0]
    types = {"bool", "int", "float", "str"}  # pydantic names the branches of a union in the key
    key = ".".join(str(part) for part in first["loc"] if part not in types)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"params/{file}: there is no setting {key}; remove it or correct its name"
    if first["type"] == "missing":
        return f"params/{file}: the setting {key} is missing"
    if not key:
        return f"params/{file}: {message}"
    return f"params/{file}: {key} is {first['input']!r}, but {message[0].lower()}{message[1:]}"
