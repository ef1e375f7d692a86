"""The report: the executed chapters of a profile, printed by jupyter-book."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from dfnb import UserError, files
from dfnb.runs.notebooks import KERNELSPEC
from dfnb.runs.state import StudyFailed


def build(profile: str, rows: list[dict[str, str]], source: Path | None = None) -> Path:
    """Print the executed chapters of a profile as a book; returns its index.html.

    `rows` are those of `study.status`. The demo's chapters are copied into book/chapters (they are tracked); for any
    other profile the book is built in a copy below book/_build. Raises UserError where a chapter is not done, or the
    builder complains.
    """
    for row in rows:
        if row["state"] != "done":
            raise UserError(f"{row['notebook']} is {row['state']} ({row['why']}), so there is no book to "
                            f"print; run `dfnb study --profile {profile}`")
    original = target = source or files.ROOT / "book"
    if profile != "demo":
        target = original / "_build" / profile
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(original, target, ignore=shutil.ignore_patterns("_build", "chapters"))
    for row in rows:
        page = files.runs() / profile / row["notebook"] / "notebook.ipynb"
        files.atomic_write(target / "chapters" / f"{row['notebook']}.ipynb", _printable(page))
    return _build(target)


def _printable(page: Path) -> str:
    """An executed notebook without what changes at every execution: timings, random ids, absolute paths."""
    import nbformat

    notebook = nbformat.read(page, as_version=4)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = nbformat.from_dict(json.loads(_without_paths(json.dumps(cell.outputs))))
    return nbformat.writes(notebook) + "\n"


def _without_paths(text: str) -> str:
    for folder, name in ((files.runs(), "runs"), (files.cache(), "cache"), (files.data(), "data")):
        text = text.replace(json.dumps(str(folder))[1:-1], name)
    return text.replace(json.dumps(str(files.ROOT))[1:-1] + "/", "").replace(str(Path.home()) + "/", "~/")


def _build(folder: Path) -> Path:
    builder = "from dfnb.runs.kernels import die_with_parent as die; die(); from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", builder, "build", str(folder), "-W", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=files.ROOT, env=os.environ | {"NO_COLOR": "1"})
    log, page = folder / "_build" / "build.log", folder / "_build" / "html" / "index.html"
    files.atomic_write(log, done.stdout + done.stderr)
    if done.returncode or not page.is_file():
        lines = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
        first = lines[0] if lines else "no page was written"
        raise StudyFailed(f"the book could not be built: {first} (see {log})")
    return page
