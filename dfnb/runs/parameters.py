"""The parameters of a chapter: what its notebook declares, what is allowed, what a profile sets."""

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
    "protocol": ("study", "frame", "video", "target", "pair", "identity", "cross", "official",
                 "official-strict"),
    "features": ("projected", "pooled"),
}
AT_LEAST_0 = ("at least 0", lambda value: value >= 0)
AT_LEAST_1 = ("at least 1", lambda value: value >= 1)
POSITIVE = ("more than 0", lambda value: value > 0)
RANGES = {  # of every number that a notebook declares: in words, and as a test
    **dict.fromkeys(["split_seed", "seed", "control_seed", "shown", "blocks", "steps", "planted",
                     "looked", "most_calls", "fold_draws",
                     "patience"], AT_LEAST_0),
    **dict.fromkeys(["repeats", "rank", "batch", "epochs", "draws", "folds", "pairs",
                     "validation_pairs", "frames", "few_draws", "few_steps", "few_frames",
                     "few_batch", "robust_frames", "planted_seeds", "training_seeds"], AT_LEAST_1),
    **dict.fromkeys(["alpha", "learning_rate", "lora_rate", "full_rate", "layernorm_rate",
                     "components_rate", "prompt_rate", "reprogramming_rate"], POSITIVE),
    "dropout": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "fraction": ("more than 0 and at most 1", lambda value: 0 < value <= 1),
    "confidence": ("more than 0 and less than 1", lambda value: 0 < value < 1),
    "planted_people": ("an even number of at least 4",
                       lambda value: value >= 4 and value % 2 == 0),
}


def declared(notebook: Path) -> dict[str, Any]:
    """Return name -> default of the cell tagged `parameters`, which may only hold literals."""
    cells = [source for source, tags in code_cells(notebook) if "parameters" in tags]
    if len(cells) != 1:
        raise UserError(f"{notebook.name} must have one cell tagged parameters, "
                        f"it has {len(cells)}")
    defaults = {}
    for node in ast.parse(cells[0]).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            raise UserError(f"the parameters cell of {notebook.name} may only hold lines such as "
                            "rank = 8")
        defaults[node.targets[0].id] = ast.literal_eval(node.value)
    return defaults


def check_parameters(notebook: Path, given: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Return `given` in the declared types.

    UserError that names the origin `where` for an unknown name, another type, or a value out of its
    range. papermill only warns of an unknown name, and pastes it into code; so every name passes
    this check first.
    """
    defaults = declared(notebook)
    origin = f" ({where})" if where else ""
    for name in given:
        if name not in defaults:
            names = ", ".join(f"{name} ({type(default).__name__})"
                              for name, default in defaults.items())
            remedy = new_name(name) or f"it declares {names}"
            raise UserError(f"{notebook.stem} has no parameter {name!r}{origin}; {remedy}")
    return {name: _typed(name, value, type(defaults[name]), origin)
            for name, value in given.items()}


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
    """Check, inside a notebook, what plain papermill has injected, before anything is computed.

    UserError for a name that the parameters cell does not declare and for a value out of its range.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    injected = next((at for at, source in enumerate(cells)
                     if at and source.startswith("# Parameters\n")), 0)
    if not injected:
        return
    known, given = (_assigned(source) for source in cells[injected - 1 : injected + 1])
    if "profile" not in known:  # no parameters cell: a person ran the cells in another order
        return
    for name in given:
        if name not in known:
            remedy = new_name(name) or f"it declares {', '.join(known)}"
            raise UserError(f"this notebook has no parameter {name!r}; {remedy}")
        _check_range(name, shell.user_ns.get(name))


def _assigned(source: str) -> list[str]:
    """Return the names that a cell of assignments sets; none for a cell with a magic."""
    with contextlib.suppress(SyntaxError, AttributeError):
        return [node.targets[0].id for node in ast.parse(source).body
                if isinstance(node, ast.Assign)]
    return []


def parse(notebook: Path, given: list[str]) -> dict[str, Any]:
    """Return parameters from texts such as "rank=16" in the declared types; UserError else."""
    defaults, values = declared(notebook), {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"a parameter is given as NAME VALUE or NAME=VALUE, got {text!r}")
        values[name] = _read_as(type(defaults.get(name)), value)
    return check_parameters(notebook, values)


def _read_as(kind: type, text: str) -> Any:
    """Return `text` as `kind`; unchanged where it cannot be read as such."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    with contextlib.suppress(ValueError):
        return kind(text) if kind in (int, float) else text
    return text


def chapter_parameters(notebook: Path, profile: Profile) -> dict[str, Any]:
    """Return all parameters of a chapter: the notebook's defaults, overridden by the profile."""
    where = f"params/{profile.name}.yaml, {notebook.stem}"
    given = check_parameters(notebook, profile.notebooks.get(notebook.stem, {}), where)
    return declared(notebook) | given | {"profile": profile.name}
