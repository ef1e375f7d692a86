"""The README says what the tracked chapters say."""

import base64
import re

import nbformat

from dfnb import files
from dfnb.predict import export

README = (files.ROOT / "README.md").read_text()


def chapter_table() -> dict[tuple[str, str], list[str]]:
    """The study's table as chapter 8 printed it: (level, model) -> cells."""
    notebook = nbformat.read(files.ROOT / "book" / "chapters" / "08_summary.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if cell.source.endswith("tables.over_splits(per_split)"))
    level, rows = "", {}
    for row in re.findall(r"<tr>(.*?)</tr>", cell.outputs[0].data["text/html"], re.S):
        names, values = re.findall(r"<th[^>]*>(.*?)</th>", row), re.findall(r"<td>(.*?)</td>", row)
        if values:
            level = names[0] if len(names) == 2 else level
            rows[level, names[-1].replace("&quot;", '"')] = values
    return rows


def test_the_headline_table_is_that_of_chapter_8():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines()
            if re.match(r"\| (frame|video) \|", line)]
    assert len(rows) >= 6
    table = chapter_table()
    for level, model, *values in rows:
        printed = [float(value) for value in table[level, model] if value != "NaN"]
        assert [float(value) for value in values if value != "-"] == printed[:-1], (level, model)  # last: splits


def test_every_path_and_command_that_it_names_is_there():
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (files.ROOT / path).exists(), path
    targets = re.findall(r"^([a-z]+):", (files.ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) <= set(targets)


def test_every_notebook_and_profile_is_in_it():
    for path in [*(files.ROOT / "notebooks").glob("*.py"), *(files.ROOT / "params").glob("*.yaml")]:
        assert f"`{path.stem}`" in README


def test_its_ten_lines_are_those_of_an_exported_detector():
    shown = re.search(r"```python\n(.*?)```", README, re.S)[1].strip()
    card = {"detector": "lora", "threshold": float(re.search(r">= ([\d.]+) else", shown)[1])}
    assert shown == export.snippet(card, {"pretrained_model_name_or_path": "clip"}).strip()


def test_its_figure_is_that_of_chapter_8():
    notebook = nbformat.read(files.ROOT / "book" / "chapters" / "08_summary.ipynb", as_version=4)
    shown = [output.data["image/png"] for cell in notebook.cells if "level, one line a split" in cell.source
             for output in cell.outputs if "image/png" in output.get("data", {})]
    tracked = (files.ROOT / "book" / "_static" / "splits.png").read_bytes()
    assert [base64.b64decode(picture) for picture in shown] == [tracked]
