"""The house's own rules, held by reading the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dfnb import files

ONLY_IN = {  # a library that must be replaceable is imported by one module
    "transformers": {"models/clip"}, "papermill": {"runs/study"}, "jupytext": {"runs/notebooks"}, "dlib": {"data/faces"},
    "peft": {"detectors/lora", "detectors/layernorm"}, "av": {"data/decoder", "data/encoding", "demo/corpus"}, "typer": {"cli"},
    "seaborn": {"evaluation/plots"}, "openai": {"detectors/endpoint"},
}
PACKAGE = files.ROOT / "dfnb"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def module(path: Path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix(""))


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all modules that a syntax tree imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("detectors/*.py")), ids=lambda path: path.stem)
def test_detectors_never_import_each_other(path):
    others = {other.stem for other in PACKAGE.glob("detectors/*.py")} - {"__init__", "base", "training", "endpoint"}
    found = {name.split(".")[2] for name in imports(ast.parse(path.read_text()))
             if name.startswith("dfnb.detectors.")}
    assert path.stem == "__init__" or not found & others


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_by_its_module_alone(library):
    users = {module(path) for path in FILES
             if library in {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}}
    assert users <= ONLY_IN[library]
    assert users, f"nothing imports {library}: drop the rule or the dependency"


def test_the_command_line_starts_without_heavy_libraries():
    code = "import sys, dfnb.cli; print(*sorted(set(sys.modules) & {'numpy', 'pandas', 'torch', 'scipy', 'cv2'}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_functions_and_files_stay_readable():
    lengths = [node.end_lineno - node.lineno + 1 for path in FILES for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.FunctionDef)]
    assert sum(length <= 35 for length in lengths) / len(lengths) >= 0.9
    assert {path.name for path in FILES if len(path.read_text().splitlines()) > 320} == set()
