"""What the result of a run depends on, as plain JSON, and the folder that follows from it."""

import hashlib
import re
from pathlib import Path
from typing import Any

from dfnb import UserError, files
from dfnb.config import Profile
from dfnb.runs.fingerprint import code_fingerprint, code_of, imported, sources_fingerprint
from dfnb.runs.notebooks import NAME
from dfnb.runs.parameters import chapter_parameters, check_parameters
from dfnb.runs.state import SWEEP


def of_run(notebook: Path, profile: Profile, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what the result of a run depends on: equal configurations give equal metrics."""
    full = chapter_parameters(notebook, profile) | check_parameters(notebook, parameters)
    for name in {"train_on", "test_on"} & set(full):
        if full[name] not in profile.corpus.manipulations:
            raise UserError(f"{name} is {full[name]!r}, but the manipulations of "
                            f"params/{profile.name}.yaml are "
                            f"{', '.join(profile.corpus.manipulations)}")
    settings, others = profile.settings, []
    if profile.test_corpora and "dfnb.experiment.across" in imported(code_of(notebook)):
        others = profile.test_corpora  # only chapters that use them are repeated when one is added
        settings |= {"test_corpora": [other.model_dump(mode="json") for other in others]}
    return {"notebook": notebook.stem, "profile": profile.name, "settings": settings,
            "parameters": {name: value for name, value in full.items() if name != "profile"},
            "code": code_fingerprint(notebook), "sources": sources_fingerprint(profile, others)}


def run_id(config: dict[str, Any], chapter: dict[str, Any]) -> str:
    """Return the parameters that differ from the chapter's, then 12 hex digits over all."""
    own = {key: config[key] for key in ("notebook", "profile", "parameters")}
    other = [f"{name}{value}" for name, value in config["parameters"].items()
             if value != chapter[name]]
    plain = re.sub(r"([^a-z0-9.]|(?<!\d)\.|\.(?!\d))+", "-", "-".join(other).lower())
    slug = plain[:40].strip("-.")
    digest = hashlib.sha256(files.canonical(own).encode()).hexdigest()[:12]
    return f"{slug or config['notebook']}-{digest}"


def place(notebook: Path, profile: Profile, config: dict[str, Any]) -> Path:
    """Return the folder of a run: the chapter's, or one below sweep/ for other parameters."""
    if not NAME.fullmatch(notebook.stem):
        raise UserError(f"{notebook.stem!r} is not the name of a chapter, such as 03_lora_training")
    chapter = chapter_parameters(notebook, profile)
    own = files.runs() / profile.name / notebook.stem
    if all(value == chapter[name] for name, value in config["parameters"].items()):
        return own
    return own / SWEEP / run_id(config, chapter)
