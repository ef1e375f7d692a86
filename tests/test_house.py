"""The house's own rules, held by reading the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dfnb import paths

ROOMS = """
    machine paths arrays profiles metrics stats compare power reported layouts corpora identity splits arms video
    decoding encoding inventory faces cropping crops perturb pointing controls hardware pixels checkpoints
    tower clip cards training footage endpoint methods domain relevance chapters ledger runs workbench dials leakage
    related kernels study executors cells sweeps plots sweep_plots scoring panel scorefile evaluate tables
    ablations exporting cli
""".split()  # noqa: SIM905
ONLY_IN = {  # a library that must be replaceable lives in one room
    "transformers": {"clip", "demo"}, "papermill": {"study"}, "jupytext": {"study"}, "dlib": {"faces"},
    "peft": {"methods"}, "av": {"decoding", "encoding", "demo"}, "typer": {"cli"}, "seaborn": {"plots"},
    "openai": {"endpoint"},
}
PACKAGE = paths.ROOT / "dfnb"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all modules that a syntax tree imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path) -> set[str]:
    """Rooms of dfnb that a file imports; the root package (UserError) is no room."""
    parts = [name.split(".") for name in imports(ast.parse(path.read_text())) if name.startswith("dfnb.")]
    return {name[1] for name in parts if name[1] in ROOMS or name[1] == "demo"}


def test_every_file_belongs_to_a_room():
    assert {room(path) for path in FILES} <= {*ROOMS, "demo"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_above_it(path):
    here = room(path)
    if here == "demo":
        assert rooms_imported(path) <= {"demo", "machine"}
    else:
        above = set(ROOMS[: ROOMS.index(here)]) | {here}
        above |= {"demo"} if here in {"cli", "dials", "workbench"} else set()
        assert rooms_imported(path) <= above


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("methods/*.py")), ids=lambda path: path.stem)
def test_methods_never_import_each_other(path):
    others = {other.stem for other in PACKAGE.glob("methods/*.py")} - {"__init__"}
    found = {name.split(".")[2] for name in imports(ast.parse(path.read_text()))
             if name.startswith("dfnb.methods.")}
    assert path.stem == "__init__" or not found & others


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_known_to_its_room_alone(library):
    users = {room(path) for path in FILES
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
