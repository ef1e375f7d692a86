"""The parameters of a chapter: what its notebook declares, which values are allowed, and what a profile sets."""

import ast
import contextlib
import math
import sys
from pathlib import Path
from typing import Any

from dfnb import UserError
from dfnb.config import Profile, new_name
from dfnb.runs.notebooks import code_cells

KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
CHOICES = {
    "protocol": ("study", "frame", "video", "target", "pair", "identity", "official", "official-strict"),
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
    "confidence": ("more than 0 and less than 1", lambda value: 0 < value < 1),
    "correlation": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "planted_people": ("an even number of at least 4", lambda value: value >= 4 and value % 2 == 0),
}


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
            remedy = new_name(name) or f"it declares {names}"
            raise UserError(f"{notebook.stem} has no parameter {name!r}{origin}; {remedy}")
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
    out of their range, before anything is computed. UserError with the names that there are.
    """
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
            remedy = new_name(name) or f"it declares {', '.join(known)}"
            raise UserError(f"this notebook has no parameter {name!r}; {remedy}")
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


def chapter_parameters(notebook: Path, profile: Profile) -> dict[str, Any]:
    """All parameters of a chapter's run: the notebook's defaults, overridden by the profile."""
    where = f"params/{profile.name}.yaml, {notebook.stem}"
    given = check_parameters(notebook, profile.notebooks.get(notebook.stem, {}), where)
    defaults = {name: default for name, (default, _, _) in declared(notebook).items()}
    return defaults | given | {"profile": profile.name}
