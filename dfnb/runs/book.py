"""The report: the executed chapters of a profile, printed by jupyter-book."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from dfnb import UserError, files
from dfnb.runs.notebooks import KERNELSPEC
from dfnb.runs.state import StudyFailed

PUBLISHED = "demo"  # the profile whose executed chapters are tracked
FIGURE = ("08_summary", "plots.by_split", "splits.png")  # chapter, code, file in _static
BUILDER = ("from dfnb.runs.kernels import die_with_parent; die_with_parent(); "
           "from jupyter_book.cli.main import main; main()")


def build(profile: str, rows: list[dict[str, str]], source: Path | None = None) -> Path:
    """Print the executed chapters of a profile as a book; return its index.html.

    `rows` are those of `study.status`; `source` is the folder of the book, by default book/.
    The book is built in a copy below book/_build, so that no tracked file changes. Raises UserError
    where a chapter is not done, and StudyFailed where jupyter-book fails or warns.
    """
    _check_done(profile, rows)
    original = source or files.ROOT / "book"
    target = original / "_build" / profile
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(original, target, ignore=shutil.ignore_patterns("_build", "chapters"))
    _write_chapters(profile, rows, target)
    return _build(target)


def publish(profile: str, rows: list[dict[str, str]], source: Path | None = None) -> list[Path]:
    """Write the demo's executed chapters into book/chapters, which is tracked; return the files.

    The README's figure follows chapter 8. Raises UserError for another profile, whose corpus may
    not be redistributed, and where a chapter is not done.
    """
    if profile != PUBLISHED:
        raise UserError(f"the profile {profile} is not published: tracked chapters are those of "
                        f"{PUBLISHED}, which show no person; use --profile {PUBLISHED}")
    _check_done(profile, rows)
    target = source or files.ROOT / "book"
    written = _write_chapters(profile, rows, target)
    chapter, code, name = FIGURE
    if (page := target / "chapters" / f"{chapter}.ipynb") in written:
        cells = json.loads(page.read_text())["cells"]
        pictures = [output["data"]["image/png"] for cell in cells if code in "".join(cell["source"])
                    for output in cell["outputs"] if "image/png" in output.get("data", {})]
        files.atomic_write(target / "_static" / name, base64.b64decode("".join(pictures[0])))
        written.append(target / "_static" / name)
    return written


def _check_done(profile: str, rows: list[dict[str, str]]) -> None:
    for row in rows:
        if row["state"] != "done":
            raise UserError(f"{row['notebook']} is {row['state']} ({row['why']}), so there is no "
                            f"book to print; run `dfnb study --profile {profile}`")


def _write_chapters(profile: str, rows: list[dict[str, str]], target: Path) -> list[Path]:
    pages = {target / "chapters" / f"{row['notebook']}.ipynb":
             files.runs() / profile / row["notebook"] / "notebook.ipynb" for row in rows}
    for path, page in pages.items():
        files.atomic_write(path, _printable(page))
    return list(pages)


def _printable(page: Path) -> str:
    """Return an executed notebook without what each execution changes: random ids, local paths."""
    import nbformat

    notebook = nbformat.read(page, as_version=4)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            outputs = json.loads(_without_paths(json.dumps(cell.outputs)))
            cell.outputs = nbformat.from_dict(outputs)
    return nbformat.writes(notebook) + "\n"


def _without_paths(text: str) -> str:
    folders = {files.runs(): "runs", files.cache(): "cache", files.data(): "data"}
    for folder, name in folders.items():
        text = text.replace(json.dumps(str(folder))[1:-1], name)
    text = text.replace(json.dumps(str(files.ROOT))[1:-1] + "/", "")
    return text.replace(str(Path.home()) + "/", "~/")


def _build(folder: Path) -> Path:
    command = [sys.executable, "-c", BUILDER, "build", str(folder), "-W", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=files.ROOT,
                          env=os.environ | {"NO_COLOR": "1"})
    log, page = folder / "_build" / "build.log", folder / "_build" / "html" / "index.html"
    files.atomic_write(log, done.stdout + done.stderr)
    if done.returncode or not page.is_file():
        lines = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
        first = lines[0] if lines else "no page was written"
        raise StudyFailed(f"the book could not be built: {first} (see {log})")
    return page
