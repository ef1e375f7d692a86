"""The conventions of the package, checked by reading its source."""

import ast
import re
from pathlib import Path

import pytest

from dfnb import files

ROOMS = ["data", "demo", "detectors", "evaluation", "models", "predict", "runs"]
ONLY_IN = {  # a library that must be replaceable is imported by one module
    "transformers": {"models/clip"}, "papermill": {"runs/study"}, "jupytext": {"runs/notebooks"},
    "dlib": {"data/faces"}, "peft": {"detectors/lora", "detectors/layernorm", "detectors/tuning"},
    "av": {"data/decoder", "data/perturbations", "demo/corpus"}, "typer": {"cli"},
    "seaborn": {"evaluation/plots", "evaluation/sweep_plots"}, "openai": {"detectors/endpoint"}}
PACKAGE = files.ROOT / "dfnb"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {str(path.relative_to(PACKAGE).with_suffix("")): ast.parse(path.read_text())
         for path in FILES}
PROSE = [*FILES, *(path for folder in ("notebooks", "tests", "tools")
                   for path in (files.ROOT / folder).rglob("*.py")),
         *files.ROOT.glob("*.md"), *(files.ROOT / "book").glob("*.md"), files.ROOT / "Makefile",
         *(files.ROOT / "params").glob("*.yaml")]
FORBIDDEN = re.compile(  # words of a private dialect; each has a plain one
    r"\b(told(?! apart)|mend(s|ed|ing)?|ledgers?|workbench(es)?|dials?|so many|such as are|"
    r"in how far|what of|talks nonsense|means well|costs itself|of (its|their) own)\b",
    re.IGNORECASE)


def imported(tree: ast.AST) -> set[str]:
    """Return the dotted names of all that a syntax tree imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def defined(tree: ast.Module) -> set[str]:
    """Return the names that a module binds without importing them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_the_package_has_seven_rooms_that_introduce_themselves():
    folders = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert sorted(path.name for path in folders) == ROOMS
    for room in ROOMS:
        lines = ast.get_docstring(TREES[f"{room}/__init__"]).splitlines()
        assert 3 <= len(lines) <= 8, room


@pytest.mark.parametrize("module", TREES)
def test_a_name_is_imported_from_the_module_that_defines_it(module):
    for name in imported(TREES[module]):
        parts = name.split(".")
        owner = "/".join(parts[1:-1])
        if parts[0] == "dfnb" and owner in TREES:
            assert parts[-1] in defined(TREES[owner]), name


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_by_its_module_alone(library):
    users = {module for module, tree in TREES.items()
             if library in {name.split(".")[0] for name in imported(tree)}}
    assert users == ONLY_IN[library]


def test_functions_and_modules_stay_readable():
    lengths = [node.end_lineno - node.lineno + 1 for tree in TREES.values()
               for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert sum(length <= 35 for length in lengths) / len(lengths) >= 0.9
    assert {path.name for path in FILES if len(path.read_text().splitlines()) > 350} == set()


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(files.ROOT)))
def test_the_text_is_plain(path: Path):
    if path != Path(__file__):
        assert [line for line in path.read_text().splitlines() if FORBIDDEN.search(line)] == []
