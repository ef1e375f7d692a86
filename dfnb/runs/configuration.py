"""What the result of a run depends on, as plain JSON, and the folder that follows from it."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfnb import UserError, files
from dfnb.config import OtherCorpus, Profile
from dfnb.runs.notebooks import NAME, code_cells
from dfnb.runs.parameters import chapter_parameters, check_parameters


def of_run(notebook: Path, profile: Profile, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the result depends on, as plain JSON: equal configurations give equal metrics."""
    full = chapter_parameters(notebook, profile) | check_parameters(notebook, parameters)
    for name in {"train_on", "test_on"} & set(full):
        if full[name] not in profile.corpus.manipulations:
            raise UserError(f"{name} is {full[name]!r}, but the manipulations of params/{profile.name}.yaml are "
                            f"{', '.join(profile.corpus.manipulations)}")
    settings, others = profile.settings, []
    if profile.test_corpora and any("experiment.across(" in source for source, _ in code_cells(notebook)):
        others = profile.test_corpora  # no other chapter must be repeated when one is added
        settings |= {"test_corpora": [other.model_dump(mode="json") for other in others]}
    return {"notebook": notebook.stem, "profile": profile.name, "settings": settings,
            "parameters": {name: value for name, value in full.items() if name != "profile"},
            "code": code_fingerprint(notebook), "sources": sources_fingerprint(profile, others)}


def code_fingerprint(notebook: Path) -> str:
    """Hash of the notebook's code cells, of the package (but for its demo world) and of the weights in it."""
    package = files.ROOT / "dfnb"
    paths = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != "demo"]
    digest = hashlib.sha256(json.dumps([source for source, _ in code_cells(notebook)]).encode())
    for path in sorted([*paths, *package.rglob("*.safetensors")]):
        digest.update(f"\n{path.relative_to(package)} {files.sha256(path)}".encode())
    return digest.hexdigest()[:16]


def sources_fingerprint(profile: Profile, others: Sequence[OtherCorpus] = ()) -> str | None:
    """Hash over name, size and time of change of the files of the corpus, its lists and `others`; None without them."""
    from dfnb.data import corpora

    lists, identities = profile.corpus.known
    try:
        paths = [Path(path) for path in corpora.index(profile.folder, **profile.corpus.index).path]
        paths += [Path(path) for other in others for path in corpora.index(other.folder, **other.index).path]
        paths += sorted(path for path in lists.iterdir() if path.suffix in (".json", ".csv")) if lists else []
        paths += [identities] if identities else []
    except (UserError, OSError):
        return None
    stats = [(path.name, *_size_and_time(path)) for path in paths]
    return hashlib.sha256(json.dumps(sorted(stats)).encode()).hexdigest()[:16]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, or it vanished
        return -1, -1
    return status.st_size, status.st_mtime_ns


def run_id(config: dict[str, Any], chapter: dict[str, Any]) -> str:
    """What differs from the chapter, then 12 hex digits over notebook, profile and parameters."""
    own = {key: config[key] for key in ("notebook", "profile", "parameters")}
    other = [f"{name}{value}" for name, value in config["parameters"].items() if value != chapter[name]]
    slug = re.sub(r"([^a-z0-9.]|(?<!\d)\.|\.(?!\d))+", "-", "-".join(other).lower())[:40].strip("-.")
    return f"{slug or config['notebook']}-{hashlib.sha256(files.canonical(own).encode()).hexdigest()[:12]}"


def place(notebook: Path, profile: Profile, config: dict[str, Any]) -> Path:
    """Folder of a run: the chapter's own when the parameters are the profile's, else one below sweep/."""
    if not NAME.fullmatch(notebook.stem):
        raise UserError(f"{notebook.stem!r} is not the name of a chapter, such as 03_lora_training")
    chapter = chapter_parameters(notebook, profile)
    own = files.runs() / profile.name / notebook.stem
    if all(value == chapter[name] for name, value in config["parameters"].items()):
        return own
    return own / "sweep" / run_id(config, chapter)
