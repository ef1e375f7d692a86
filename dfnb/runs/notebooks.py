"""The notebooks of the chapters: where they are, what their code names, and their scripts."""

import json
import os
import re
from pathlib import Path

from dfnb import UserError, files

NAME = re.compile(r"\d\d_[a-z0-9_]+")
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def folder() -> Path:
    """Return the folder of the notebooks: `DFNB_NOTEBOOKS`, else notebooks/ in the repository."""
    return Path(os.environ.get("DFNB_NOTEBOOKS") or files.repository_folder("notebooks"))


def code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """Return source and tags of every code cell of an .ipynb; UserError where it is none."""
    try:
        cells = _cells(notebook.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no notebook {notebook.name} in {notebook.parent}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{notebook} is not a Jupyter notebook") from None
    return [(source, tags) for kind, source, tags in cells if kind == "code"]


def _cells(text: str) -> list[tuple[str, str, list[str]]]:
    """Return type, source and tags of every cell in the text of an .ipynb."""
    return [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", []))
            for cell in json.loads(text)["cells"]]


def reads(notebook: Path) -> set[str]:
    """Return the other chapters that a notebook's code names, since it reads their results."""
    text = "\n".join(source for source, _ in code_cells(notebook))
    return set(re.findall(rf"""["']({NAME.pattern})["']""", text)) - {notebook.stem}


def chapters() -> list[Path]:
    """Return all chapters' notebooks in order; UserError where one differs from its script."""
    if different := differs(exactly=False):
        raise UserError(f"{', '.join(different)}: script and notebook differ; `dfnb pair` writes "
                        "the notebook again from the script, `jupytext --sync` takes the one "
                        "that was saved last")
    paths = [path for path in sorted(folder().glob("*.ipynb")) if NAME.fullmatch(path.stem)]
    if not paths:
        raise UserError(f"there are no notebooks such as 01_data_split.ipynb in {folder()}")
    return paths


def find(name: str, every: list[Path] | None = None) -> Path:
    """Return the notebook of a chapter by its name, number or file; UserError that lists all."""
    every, wanted = every or chapters(), Path(name).stem.zfill(2)
    for path in every:
        if wanted in (path.stem, path.stem[:2]):
            return path
    names = ", ".join(path.stem for path in every)
    raise UserError(f"there is no chapter {name!r}; the chapters are {names}")


# ------------------------------------------------------------------- pairs of script and notebook
def pair(notebooks: Path | None = None) -> list[str]:
    """Write the .ipynb, without outputs, of every script that differs from it; return the names."""
    notebooks = notebooks or folder()
    written = differs(notebooks)
    for stem in written:
        script = notebooks / f"{stem}.py"
        if not script.exists():
            raise UserError(f"{stem}.ipynb has no script; "
                            f"`jupytext --to py:percent {stem}.ipynb` writes it")
        files.atomic_write(notebooks / f"{stem}.ipynb", _converted(script))
    return written


def differs(notebooks: Path | None = None, *, exactly: bool = True) -> list[str]:
    """Return the names of notebooks that differ from their script, or that lack one of the two.

    `exactly` compares every byte, as tracked pairs must be equal. Else only cells and their tags
    count, since an editor leaves outputs, ids and metadata.
    """
    notebooks = notebooks or folder()
    stems = {path.stem for pattern in ("*.py", "*.ipynb") for path in notebooks.glob(pattern)}
    return [stem for stem in sorted(stems) if not _is_pair(notebooks / stem, exactly)]


def _is_pair(stem: Path, exactly: bool) -> bool:
    script, notebook = stem.with_suffix(".py"), stem.with_suffix(".ipynb")
    if not (script.exists() and notebook.exists()):
        return False
    text, wanted = notebook.read_text(encoding="utf-8"), _converted(script)
    return text == wanted or (not exactly and _cells(text) == _cells(wanted))


def _converted(script: Path) -> str:
    """Return the .ipynb of a percent script; ids follow from its name and the cell's index."""
    import jupytext
    import nbformat

    notebook = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    notebook.metadata = nbformat.from_dict(metadata)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{script.stem}-{index:02d}".replace("_", "-")
    return nbformat.writes(notebook) + "\n"
