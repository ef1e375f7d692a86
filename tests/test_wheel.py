"""What works when the package is installed as a wheel, outside of a clone, and what the rest
answers.
"""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from dfnb import files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the unpacked wheel, as pip would lay it among the installed packages."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(files.ROOT / name, source)
    shutil.copytree(files.ROOT / "dfnb", source / "dfnb",
                    ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", made]
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    subprocess.run(command, check=True)
    [wheel] = made.glob("dfnb-*.whl")
    zipfile.ZipFile(wheel).extractall(made / "site")
    return made / "site"


@pytest.fixture
def installed(site, tmp_path):
    """A function that calls `dfnb` from the wheel in an empty folder: exit code, and what it
    printed.
    """

    def call(*arguments) -> tuple[int, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DFNB_")}
        environment = kept | {"PYTHONPATH": str(site), "HOME": str(tmp_path / "home")}
        command = [
            sys.executable, "-c",
            "import sys, dfnb.cli; assert sys.argv.pop(1) in dfnb.cli.__file__; "
            "sys.exit(dfnb.cli.main())",
            str(site), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True,
                              text=True)
        return done.returncode, done.stdout + done.stderr

    return call


def test_a_corpus_is_listed_scored_and_evaluated_and_a_detector_exported(
        installed, corpus, finished, tmp_path):
    code, words = installed("corpus", corpus)
    assert code == 0 and "FaceSwap" in words
    code, words = installed("score", corpus / "original_sequences", "--run", finished[0], "--out",
                           tmp_path / "scores")
    assert code == 0 and "probability of fake" in words, words
    assert (tmp_path / "home" / ".cache" / "dfnb").is_dir()  # not among the installed packages
    code, words = installed("evaluate", finished[0] / "scores.parquet", "--out",
                            tmp_path / "report")
    assert code == 0 and "AUC" in words, words
    code, words = installed("demo", tmp_path / "world", "--identities", "2", "--frames", "2",
                           "--workers", "1")
    assert code == 0 and len(list((tmp_path / "world").rglob("*.mp4"))) >= 4, words


@pytest.mark.parametrize("command",
                         [["study"], ["status"], ["run", "03"], ["sweep"], ["book"], ["pair"]])
def test_what_needs_a_clone_says_so_and_how_to_get_one(installed, command):
    code, words = installed(*command)
    assert code == 2 and "Traceback" not in words
    assert "needs a clone of the repository" in words
    assert "`git clone` it and call `make study` there" in words
