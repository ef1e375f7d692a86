"""Notebook conventions, then the notebooks themselves: executed, repeated and printed with the
smoke profile.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from dfnb import files
from dfnb.runs import notebooks

NOTEBOOKS = sorted((files.ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = sorted((files.ROOT / "book" / "chapters").glob("*.ipynb"))
SECTIONS = ["## Data", "## Method", "## Result", "## Limits", "## Try it"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_each_has_its_script():
    assert NOTEBOOKS
    assert {path.stem
            for path in NOTEBOOKS} == {path.stem
                  for path in (files.ROOT / "notebooks").glob("*.py")}


def test_pairs_are_equal():
    assert notebooks.differs(files.ROOT / "notebooks") == []


def test_title_cell_asks_and_the_answer_is_computed(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \d+\. \S", first.source)
    assert "**Question**" in first.source
    assert "**Answer**" not in first.source
    place, *computed = [source for source in code(notebook) if "run.answer(" in source]
    assert place == "run.answer()" and len(computed) == 1


def test_one_parameters_cell_of_commented_literals(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.match(r"\w+ = .+  # \S", line), line
        ast.literal_eval(line.split(" = ", 1)[1].split("  # ")[0])


def test_sections_come_in_order_and_the_last_cell_saves(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    places = [
        prose.index(section + "\n") if section + "\n" in prose else -1 for section in SECTIONS]
    assert -1 not in places
    assert places == sorted(places)
    assert notebook.cells[-1].cell_type == "code"
    assert ".save(" in notebook.cells[-1].source


def test_code_is_short_and_defines_nothing(notebook):
    tree = ast.parse("\n".join(code(notebook)))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert sum(len(source.splitlines()) for source in code(notebook)) <= 200


def test_no_line_of_code_is_cut_off_on_the_page(notebook):
    lines = [line for source in code(notebook) for line in source.splitlines()]
    assert [line for line in lines if len(line) > 96] == []


def test_every_code_cell_is_introduced(notebook):
    for before, cell in zip(notebook.cells[3:], notebook.cells[4:],
                            strict=False):  # after the configuration
        if cell.cell_type == "code" and cell.source != "run.answer()":
            assert before.cell_type == "markdown", cell.source


def test_no_result_is_typed_into_prose(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\b0\.\d{2,}|\d+(\.\d+)? ?%", cell.source), cell.source


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_tracked_chapters_are_the_notebooks_executed(chapter):
    source = nbformat.read(files.ROOT / "notebooks" / chapter.name, as_version=4)
    ours = [cell.source for cell in nbformat.read(chapter, as_version=4).cells
            if "injected-parameters" not in cell.metadata.get("tags", [])]
    assert ours == [cell.source for cell in source.cells]


def test_tracked_chapters_are_complete_and_light():
    assert {path.stem for path in CHAPTERS} == {path.stem for path in NOTEBOOKS}
    assert sum(path.stat().st_size for path in CHAPTERS) < 6 * 2**20


def dfnb(*arguments, env):
    done = subprocess.run([sys.executable, "-m", "dfnb.cli", *arguments], env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke profile, executed once in separate folders."""
    home = tmp_path_factory.mktemp("smoke")
    env = os.environ | {"DFNB_DATA": str(home / "data"), "DFNB_CACHE": str(home / "cache"),
                        "DFNB_RUNS": str(home / "runs"), "TQDM_DISABLE": "1"}
    output = dfnb("study", "--profile", "smoke", env=env)
    return home / "runs" / "smoke", env, output


@pytest.mark.slow
def test_the_smoke_study_ends_with_a_book(smoke):
    runs, _, output = smoke
    assert all((runs / path.stem / "DONE.json").is_file() for path in NOTEBOOKS)
    page = Path(output.split()[-1])
    assert page.name == "index.html"
    assert "Limits" in (page.parent / "chapters" / "03_lora_training.html").read_text()


@pytest.mark.slow
def test_a_second_study_repeats_nothing_and_a_forced_chapter_gives_the_same_numbers(smoke):
    runs, env, _ = smoke
    done = {path: path.stat().st_mtime_ns for path in runs.rglob("DONE.json")}
    metrics = (runs / "03_lora_training" / "metrics.json").read_bytes()
    dfnb("study", "--profile", "smoke", env=env)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("DONE.json")} == done
    dfnb("study", "--profile", "smoke", "--only", "03", "--force", env=env)
    assert (runs / "03_lora_training" / "metrics.json").read_bytes() == metrics
    assert json.loads(metrics)


@pytest.mark.slow
def test_executed_notebooks_print_the_same_again_and_give_the_same_numbers(smoke, tmp_path):
    runs, env, _ = smoke
    for path in NOTEBOOKS:
        (tmp_path / path.name).write_bytes((runs / path.stem / "notebook.ipynb").read_bytes())
    for sweep in runs.glob("*/sweep"):  # is read, never repeated, by a notebook
        shutil.copytree(sweep, tmp_path / "runs" / "smoke" / sweep.parent.name / "sweep")
    again = env | {"DFNB_RUNS": str(tmp_path / "runs")}
    command = [
        sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-c", os.devnull]
    command += [str(tmp_path / path.name) for path in NOTEBOOKS]
    done = subprocess.run(command, env=again, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    for path in NOTEBOOKS:
        first, second = (home / path.stem / "metrics.json"
                         for home in (runs, tmp_path / "runs" / "smoke"))
        assert first.read_bytes() == second.read_bytes(), path.stem
