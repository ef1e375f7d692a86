"""A change of code makes stale what depends on it, and nothing else."""

import pytest

from dfnb import files
from dfnb.runs import fingerprint, notebooks

MODULES = {
    "__init__": "",
    "direct": '"""Document."""\nfrom dfnb import indirect\ndef f():\n    """Do."""\n    return 1\n',
    "indirect": "X = 1  # a comment\n",
    "other": "Y = 1\n",
    "lazy": "Z = 1\n",
    "detectors/__init__": "",
    "detectors/probe": "W = 1\n",
    "demo/__init__": ""}
NOTEBOOK = """# %% tags=["parameters"]
rank = 8  # the rank

# %%
%matplotlib inline

# %%
from dfnb.direct import f
def g():
    from dfnb import detectors, lazy
    import dfnb.demo
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    for name, source in MODULES.items():
        files.atomic_write(tmp_path / "dfnb" / f"{name}.py", source)
    (tmp_path / "03_x.py").write_text(NOTEBOOK)
    notebooks.pair(tmp_path)
    return tmp_path


def code(home) -> str:
    return fingerprint.code_fingerprint(home / "03_x.ipynb")


@pytest.mark.parametrize(("module", "old", "new", "counts"), [
    ("direct", "return 1", "return 2", True),
    ("indirect", "X = 1", "X = 2", True),
    ("lazy", "Z = 1", "Z = 2", True),
    ("detectors/probe", "W = 1", "W = 2", True),  # detectors are imported by name
    ("other", "Y = 1", "Y = 2", False),
    ("direct", "Document", "Explain", False),
    ("direct", "Do.", "Return one.", False),
    ("indirect", "a comment", "another", False),
    ("demo/__init__", "", "V = 1", False)])
def test_only_code_that_a_notebook_imports_counts(home, module, old, new, counts):
    before, path = code(home), home / "dfnb" / f"{module}.py"
    path.write_text(path.read_text().replace(old, new, 1))
    fingerprint._read.cache_clear()  # two writes within the clock's resolution
    assert (code(home) != before) == counts


@pytest.mark.parametrize(("old", "new", "counts"), [
    ("rank = 8", "rank = 9", True), ("the rank", "its rank", False), ("inline", "agg", False)])
def test_a_notebooks_comments_do_not_count(home, old, new, counts):
    before = code(home)
    (home / "03_x.py").write_text(NOTEBOOK.replace(old, new))
    notebooks.pair(home)
    assert (code(home) != before) == counts


def test_names_are_found_however_they_are_imported(home):
    names = fingerprint.imported(fingerprint.code_of(home / "03_x.ipynb"))
    assert names == {"dfnb.direct.f", "dfnb.detectors", "dfnb.lazy", "dfnb.demo"}
