"""The README agrees with the tracked chapters, the commands and the targets."""

import base64
import re

import nbformat
import typer.main

from dfnb import cli, files
from dfnb.predict import export

README = (files.ROOT / "README.md").read_text()
SUMMARY = files.ROOT / "book" / "chapters" / "08_summary.ipynb"


def cells() -> list:
    """Return the cells of the tracked chapter 8."""
    return nbformat.read(SUMMARY, as_version=4).cells


def chapter_table() -> dict[tuple[str, str], list[str]]:
    """Return the cross-fitted table as chapter 8 printed it: (unit, model) -> cells."""
    cell = next(cell for cell in cells() if "pd.concat(headline" in cell.source)
    unit, rows = "", {}
    for row in re.findall(r"<tr>(.*?)</tr>", cell.outputs[0].data["text/html"], re.S):
        names = re.findall(r"<th[^>]*>(.*?)</th>", row)
        if values := re.findall(r"<td>(.*?)</td>", row):
            unit = names[0] if len(names) == 2 else unit
            rows[unit, names[-1]] = values
    return rows


def test_the_headline_table_is_that_of_chapter_8():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines()
            if re.match(r"\| (frame|video) \|", line)]
    assert {(unit, model): values for unit, model, *values in rows} == chapter_table()


def test_the_headline_is_the_answer_of_chapter_8():
    cell = next(cell for cell in cells() if cell.source == "run.answer()")
    answer = cell.outputs[0].data["text/markdown"].removeprefix("**Answer** ")
    assert " ".join(answer.split()) in " ".join(README.replace("\n> ", "\n").split())


def test_every_path_that_it_names_is_there():
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (files.ROOT / path).exists(), path


def test_it_lists_every_target_and_every_command_once():
    makefile = (files.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M)) - {"help"}
    rows = re.findall(r"^\| `make ([a-z-]+)` \|", README, re.M)
    assert sorted(rows) == sorted(targets)
    commands = set(typer.main.get_command(cli.app).commands)
    assert set(re.findall(r"^\| `dfnb ([a-z]+)", README, re.M)) == commands


def test_every_notebook_and_profile_is_in_it():
    for path in [*(files.ROOT / "notebooks").glob("*.py"), *(files.ROOT / "params").glob("*.yaml")]:
        assert f"`{path.stem}`" in README


def test_its_lines_of_python_are_those_of_an_exported_detector():
    shown = re.search(r"```python\n(.*?)```", README, re.S)[1].strip()
    metadata = {"detector": "lora", "threshold": float(re.search(r">= ([\d.]+) else", shown)[1])}
    assert shown == export.snippet(metadata, {"pretrained_model_name_or_path": "clip"}).strip()


def test_its_figure_is_that_of_chapter_8():
    shown = [output.data["image/png"] for cell in cells()
             if "plots.by_split" in cell.source
             for output in cell.outputs if "image/png" in output.get("data", {})]
    tracked = (files.ROOT / "book" / "_static" / "splits.png").read_bytes()
    assert [base64.b64decode(picture) for picture in shown] == [tracked]
