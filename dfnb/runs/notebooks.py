"""The notebooks of the chapters: where they are, what their code names, and their pairs of script and .ipynb."""

import json
import os
import re
from pathlib import Path

from dfnb import UserError, files

NAME = re.compile(r"\d\d_[a-z0-9_]+")
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def folder() -> Path:
    """Folder of the notebooks (`DFNB_NOTEBOOKS`, else `notebooks/` in the repository)."""
    return Path(os.environ.get("DFNB_NOTEBOOKS") or files.repository_folder("notebooks"))


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


def reads(notebook: Path) -> set[str]:
    """The other chapters that a notebook's code names: it reads what they saved, so they must be done before it."""
    named = re.compile(rf"""["']({NAME.pattern})["']""")
    return {name for source, _ in code_cells(notebook) for name in named.findall(source)} - {notebook.stem}


def chapters(notebooks: Path | None = None) -> list[Path]:
    """Return the notebooks of all chapters in order; UserError where a script and its notebook differ."""
    notebooks = notebooks or folder()
    if different := differs(notebooks, exactly=False):
        raise UserError(f"{', '.join(different)}: script and notebook differ; `dfnb pair` makes notebooks "
                        "anew from the scripts, `jupytext --sync` takes whichever was saved last")
    found = [path for path in sorted(notebooks.glob("*.ipynb")) if NAME.fullmatch(path.stem)]
    if not found:
        raise UserError(f"there are no notebooks such as 01_data_split.ipynb in {notebooks}")
    return found


def find(name: str, every: list[Path] | None = None) -> Path:
    """The notebook of a chapter, by its name, number or file; UserError naming the chapters there are."""
    every, wanted = every or chapters(), Path(name).stem.zfill(2)
    for path in every:
        if wanted in (path.stem, path.stem[:2]):
            return path
    names = ", ".join(path.stem for path in every)
    raise UserError(f"there is no chapter {name!r}; the chapters are {names}")


# ------------------------------------------------------------------- pairs of script and notebook
def pair(notebooks: Path | None = None) -> list[str]:
    """Write the .ipynb of every script that differs from it, without outputs; returns the names written."""
    notebooks = notebooks or folder()
    written = differs(notebooks)
    for stem in written:
        script = notebooks / f"{stem}.py"
        if not script.exists():
            raise UserError(f"{stem}.ipynb has no script; jupytext --to py:percent {stem}.ipynb makes it")
        files.atomic_write(notebooks / f"{stem}.ipynb", _converted(script))
    return written


def differs(notebooks: Path | None = None, *, exactly: bool = True) -> list[str]:
    """Names of notebooks that are not what their script gives, or that lack one of the two.

    `exactly` compares every byte, as the tracked pairs must be equal; else outputs, ids and metadata that an
    editor leaves are forgiven, and only cells and their tags count.
    """
    notebooks = notebooks or folder()
    stems = sorted({path.stem for pattern in ("*.py", "*.ipynb") for path in notebooks.glob(pattern)})
    return [stem for stem in stems if not _is_pair(notebooks / f"{stem}.py", notebooks / f"{stem}.ipynb", exactly)]


def _is_pair(script: Path, notebook: Path, exactly: bool) -> bool:
    if not (script.exists() and notebook.exists()):
        return False
    text, wanted = notebook.read_text(encoding="utf-8"), _converted(script)
    return text == wanted or (not exactly and _cells(text) == _cells(wanted))


def _cells(text: str) -> list[tuple[str, str, list[str]]]:
    cells = json.loads(text)["cells"]
    return [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]


def _converted(script: Path) -> str:
    """The .ipynb of a percent script; ids from stem and cell index, so equal scripts give equal bytes."""
    import jupytext
    import nbformat

    notebook = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{script.stem}-{index:02d}".replace("_", "-")
    return nbformat.writes(notebook) + "\n"


