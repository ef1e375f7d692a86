"""A chapter: what its notebook declares, what its result depends on, and where its runs lie."""

import ast
import contextlib
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfnb import UserError, paths, profiles

NAME = re.compile(r"\d\d_[a-z0-9_]+")
KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
CHOICES = {
    "regime": ("study", "frame", "video", "target", "pair", "identity", "official", "official-strict"),
    "features": ("projected", "pooled"),
}
AT_LEAST_0, AT_LEAST_1 = ("at least 0", lambda value: value >= 0), ("at least 1", lambda value: value >= 1)
POSITIVE = ("more than 0", lambda value: value > 0)
RANGES = {  # of every number that a notebook declares: in words, and as a test
    **dict.fromkeys(["split_seed", "seed", "control_seed", "shown", "blocks", "steps", "planted", "looked", "most_calls"],
                    AT_LEAST_0),
    **dict.fromkeys(["repeats", "rank", "batch", "epochs", "draws", "folds", "pairs", "validation_pairs", "frames",
                     "few_draws", "few_steps", "few_frames", "few_batch", "robust_frames", "planted_seeds"], AT_LEAST_1),
    **dict.fromkeys(["alpha", "learning_rate", "lora_rate", "full_rate", "layernorm_rate", "components_rate"], POSITIVE),
    "dropout": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "fraction": ("more than 0 and at most 1", lambda value: 0 < value <= 1),
    "level": ("more than 0 and less than 1", lambda value: 0 < value < 1),
    "correlation": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "planted_people": ("an even number of at least 4", lambda value: value >= 4 and value % 2 == 0),
}


def folder() -> Path:
    """Folder of the notebooks (`DFNB_NOTEBOOKS`, else `notebooks/` in the repository)."""
    return Path(os.environ.get("DFNB_NOTEBOOKS") or paths.of_clone("notebooks"))


def code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """Source and tags of every code cell of an .ipynb."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [("".join(cell["source"]), cell["metadata"].get("tags", []))
                for cell in cells if cell["cell_type"] == "code"]
    except FileNotFoundError:
        raise UserError(f"there is no notebook {notebook.name} in {notebook.parent}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{notebook} is not a Jupyter notebook") from None


def declared(notebook: Path) -> dict[str, tuple[Any, type, str]]:
    """Name -> (default, type, help) of the cell tagged `parameters`: flat literals, each with a comment."""
    cells = [source for source, tags in code_cells(notebook) if "parameters" in tags]
    if len(cells) != 1:
        raise UserError(f"{notebook.name} must have one cell tagged parameters, it has {len(cells)}")
    found = {}
    for node in ast.parse(cells[0]).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            raise UserError(f"the parameters cell of {notebook.name} may only hold lines such as rank = 8")
        default = ast.literal_eval(node.value)
        comment = cells[0].splitlines()[node.end_lineno - 1][node.value.end_col_offset :].strip()
        found[node.targets[0].id] = (default, type(default), comment.removeprefix("#").strip())
    return found


def check_parameters(notebook: Path, given: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Return `given` in the declared types; UserError for an unknown name, another type, or a value out of its range
    (`where`: origin).

    papermill warns of an unknown name and pastes it into code: nothing reaches it that did not pass here.
    """
    known = declared(notebook)
    origin = f" ({where})" if where else ""
    for name in given:
        if name not in known:
            names = ", ".join(f"{name} ({kind.__name__})" for name, (_, kind, _) in known.items())
            raise UserError(f"{notebook.stem} has no parameter {name!r}{origin}; it declares {names}")
    return {name: _typed(name, value, known[name][1], origin) for name, value in given.items()}


def _typed(name: str, value: Any, kind: type, origin: str) -> Any:
    value = value.item() if hasattr(value, "item") else value  # a NumPy scalar
    if kind is float and type(value) is int:
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}{origin}")
    if kind is type(None) or type(value) is kind:
        _check_range(name, value, origin)
        return value
    hint = "; write 1.0e-3, not 1e-3, in YAML" if kind is float and isinstance(value, str) else ""
    raise UserError(f"{name} must be {KINDS.get(kind, kind.__name__)}, got {value!r}{origin}{hint}")


def _check_range(name: str, value: Any, origin: str = "") -> None:
    words, holds = RANGES.get(name, ("", None))
    if holds and type(value) in (int, float) and not holds(value):
        raise UserError(f"{name} must be {words}, got {value!r}{origin}")
    if name in CHOICES and value not in CHOICES[name]:
        raise UserError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}{origin}")


def check_kernel() -> None:
    """In a notebook: refuse names that plain papermill injected and the parameters cell does not declare, and values
    out of their range, before anything is computed. UserError with the names that there are."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    injected = next((at for at, source in enumerate(cells) if at and source.startswith("# Parameters\n")), 0)
    if not injected:
        return
    known, given = (_assigned(source) for source in cells[injected - 1 : injected + 1])
    if "profile" not in known:  # another order of cells, by hand: every parameters cell declares the profile
        return
    for name in given:
        if name not in known:
            raise UserError(f"this notebook has no parameter {name!r}; it declares {', '.join(known)}")
        _check_range(name, shell.user_ns.get(name))


def _assigned(source: str) -> list[str]:
    """Names that a cell of plain assignments sets; of any other cell, such as one with a magic, none."""
    with contextlib.suppress(SyntaxError, AttributeError):
        return [node.targets[0].id for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return []


def parse(notebook: Path, given: list[str]) -> dict[str, Any]:
    """Parameters from texts such as "rank=16", read in the declared types; UserError where that cannot be."""
    known, found = declared(notebook), {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"a parameter is given as NAME VALUE or NAME=VALUE, got {text!r}")
        found[name] = _read_as(known[name][1], value) if name in known else value
    return check_parameters(notebook, found)


def _read_as(kind: type, text: str) -> Any:
    """`text` as `kind`, or as it is where it cannot be read so."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    with contextlib.suppress(ValueError):
        return kind(text) if kind in (int, float) else text
    return text


def chapter_parameters(notebook: Path, profile: profiles.Profile) -> dict[str, Any]:
    """All parameters of a chapter's run: the notebook's defaults, overridden by the profile."""
    where = f"params/{profile.name}.yaml, {notebook.stem}"
    given = check_parameters(notebook, profile.notebooks.get(notebook.stem, {}), where)
    defaults = {name: default for name, (default, _, _) in declared(notebook).items()}
    return defaults | given | {"profile": profile.name}


def reads(notebook: Path) -> set[str]:
    """The other chapters that a notebook's code names: it reads what they saved, so they must be done before it."""
    named = re.compile(rf"""["']({NAME.pattern})["']""")
    return {name for source, _ in code_cells(notebook) for name in named.findall(source)} - {notebook.stem}


def configuration(notebook: Path, profile: profiles.Profile, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the result depends on, as plain JSON: equal configurations give equal metrics."""
    full = chapter_parameters(notebook, profile) | check_parameters(notebook, parameters)
    for name in {"train_on", "test_on"} & set(full):
        if full[name] not in profile.corpus.methods:
            raise UserError(f"{name} is {full[name]!r}, but the manipulations of params/{profile.name}.yaml are "
                            f"{', '.join(profile.corpus.methods)}")
    settings, others = profile.settings, []
    if profile.test_corpora and any("workbench.across(" in source for source, _ in code_cells(notebook)):
        others = profile.test_corpora  # no other chapter must be repeated when one is added
        settings |= {"test_corpora": [other.model_dump(mode="json") for other in others]}
    return {"notebook": notebook.stem, "profile": profile.name, "settings": settings,
            "parameters": {name: value for name, value in full.items() if name != "profile"},
            "code": code_fingerprint(notebook), "sources": sources_fingerprint(profile, others)}


def code_fingerprint(notebook: Path) -> str:
    """Hash of the notebook's code cells, of the package (but for its demo world) and of the weights in it."""
    package = paths.ROOT / "dfnb"
    files = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != "demo"]
    digest = hashlib.sha256(json.dumps([source for source, _ in code_cells(notebook)]).encode())
    for path in sorted([*files, *package.rglob("*.safetensors")]):
        digest.update(f"\n{path.relative_to(package)} {sha256(path)}".encode())
    return digest.hexdigest()[:16]


def sources_fingerprint(profile: profiles.Profile, others: Sequence[profiles.OtherCorpus] = ()) -> str | None:
    """Hash over name, size and time of change of the files of the corpus, its lists and `others`; None without them."""
    from dfnb import corpora

    lists, identities = profile.corpus.known
    try:
        files = [Path(path) for path in corpora.index(profile.folder, **profile.corpus.index).path]
        files += [Path(path) for other in others for path in corpora.index(other.folder, **other.index).path]
        files += sorted(path for path in lists.iterdir() if path.suffix in (".json", ".csv")) if lists else []
        files += [identities] if identities else []
    except (UserError, OSError):
        return None
    stats = [(path.name, *_size_and_time(path)) for path in files]
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
    return f"{slug or config['notebook']}-{hashlib.sha256(canonical(own).encode()).hexdigest()[:12]}"


def place(notebook: Path, profile: profiles.Profile, config: dict[str, Any]) -> Path:
    """Folder of a run: the chapter's own when the parameters are the profile's, else one below sweep/."""
    if not NAME.fullmatch(notebook.stem):
        raise UserError(f"{notebook.stem!r} is not the name of a chapter, such as 03_lora_training")
    chapter = chapter_parameters(notebook, profile)
    own = paths.runs() / profile.name / notebook.stem
    if all(value == chapter[name] for name, value in config["parameters"].items()):
        return own
    return own / "sweep" / run_id(config, chapter)


def canonical(value: Any) -> str:
    """JSON with sorted keys, floats by repr, and null for what is no finite number."""
    return json.dumps(_plain(value), sort_keys=True, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
