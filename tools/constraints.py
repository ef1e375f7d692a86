"""Resolve pyproject.toml with several Pythons, wheels alone; print one constraints file for all.

    python tools/constraints.py python3.11 python3.12 python3.13 [-c FILE] > constraints.txt

`-c` keeps the versions that a file names already. CUDA's own packages are left out: torch itself
pins them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = re.compile(r"dfnb|pip|triton|(nvidia|cuda)-.*")  # ours, the installer, CUDA's


def resolve(python: str, kept: str | None) -> dict[str, str]:
    """Return name -> version of all that `.[dev,cluster]` needs under an interpreter.

    Nothing is installed.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [
            python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run",
            "--ignore-installed", "--only-binary", ":all:", "--report", report.name,
            *(["-c", kept] if kept else []), ".[dev,cluster]"
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        found = [item["metadata"] for item in json.load(report)["install"]]
    return {
        item["name"]: item["version"].partition("+")[0]
        for item in found
        if not OWN.fullmatch(item["name"])
    }


def lines(resolved: dict[str, dict[str, str]]) -> list[str]:
    """Return lines of a constraints file from minor version of Python -> name -> version.

    A marker where versions differ.
    """
    wanted = defaultdict(lambda: defaultdict(list))  # name -> version -> Pythons
    for python, packages in resolved.items():
        for name, version in packages.items():
            wanted[name][version].append(python)
    found = []
    for name in sorted(wanted, key=str.lower):
        for version, pythons in wanted[name].items():
            marker = " or ".join(f'python_version == "{python}"' for python in pythons)
            found.append(f"{name}=={version}" + (f" ; {marker}" if len(wanted[name]) > 1 else ""))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", help="interpreters, such as python3.12")
    parser.add_argument("-c", dest="kept", help="constraints file whose versions are kept")
    given = parser.parse_args()
    resolved = {}
    for python in given.pythons:
        code = "import sys; print('{}.{}'.format(*sys.version_info))"
        minor = subprocess.run([python, "-c", code], check=True, capture_output=True,
                               text=True).stdout.strip()
        resolved[minor] = resolve(python, given.kept)
    print("\n".join(lines(resolved)))


if __name__ == "__main__":
    main()
