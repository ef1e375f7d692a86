"""Fingerprints of what a result depends on: the code of a notebook and the files of a corpus."""

import ast
import contextlib
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dfnb import UserError, files
from dfnb.config import OtherCorpus, Profile
from dfnb.runs.notebooks import code_cells


def code_fingerprint(notebook: Path) -> str:
    """Return a hash of a notebook's code and of the modules that it imports, directly or not.

    Docstrings and comments do not count, and neither does the code of the demo world, which its
    corpus records. The weights of the embedded CLIP count.
    """
    tree, code = code_of(notebook), {}
    left = set(_modules(tree))
    while left:
        module = left.pop()
        path = _path(module)
        code[module], modules = _read(path, path.stat().st_mtime_ns)
        left |= modules - code.keys()
    digest = hashlib.sha256(ast.dump(tree).encode())
    for module in sorted(code):
        digest.update(f"\n{module} {code[module]}".encode())
    for path in sorted((files.ROOT / "dfnb").rglob("*.safetensors")):
        digest.update(f"\n{path.name} {files.sha256(path)}".encode())
    return digest.hexdigest()[:16]


@cache
def _read(path: Path, changed: int) -> tuple[str, frozenset[str]]:
    """Return a module's code without docstrings, and the modules that it imports."""
    tree = _without_docstrings(path.read_text(encoding="utf-8"))
    return ast.dump(tree), _modules(tree)


def code_of(notebook: Path) -> ast.Module:
    """Return the syntax tree of a notebook's code, without cells that only IPython can read."""
    body = []
    for source, _ in code_cells(notebook):
        with contextlib.suppress(SyntaxError):
            body += ast.parse(source).body
    return ast.Module(body, [])


def _without_docstrings(source: str) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def imported(tree: ast.AST) -> set[str]:
    """Return the dotted names of all that a syntax tree imports, also inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _modules(tree: ast.AST) -> frozenset[str]:
    """Return the modules of dfnb, but for its demo world, that a syntax tree imports.

    `dfnb.detectors` imports its modules by name, and `dfnb.data.video` starts the decoder by name,
    so these count where the importing module does.
    """
    found = set()
    for name in imported(tree):
        parts = name.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1) if parts[0] == "dfnb"}
    if "dfnb.data.video" in found:
        found.add("dfnb.data.decoder")
    if "dfnb.detectors" in found:
        paths = _path("dfnb.detectors").parent.glob("*.py")
        found |= {f"dfnb.detectors.{path.stem}" for path in paths}
    return frozenset(name for name in found
                     if _path(name).is_file() and not name.startswith("dfnb.demo"))


def _path(module: str) -> Path:
    path = files.ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def sources_fingerprint(profile: Profile, others: Sequence[OtherCorpus] = ()) -> str | None:
    """Return a hash over name, size and time of change of all files of the corpora.

    Its lists and `others` count too. None where a corpus cannot be read.
    """
    from dfnb.data import corpora

    lists, identities = profile.corpus.known
    try:
        indices = [corpora.index(profile.folder, **profile.corpus.index),
                   *(corpora.index(other.folder, **other.index) for other in others)]
        paths = [Path(path) for index in indices for path in index.path]
        paths += sorted(path for path in lists.iterdir()
                        if path.suffix in (".json", ".csv")) if lists else []
        paths += [identities] if identities else []
        stats = [(path.name, *_size_and_time(path)) for path in paths]
    except (UserError, OSError):
        return None
    return hashlib.sha256(json.dumps(sorted(stats)).encode()).hexdigest()[:16]


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat() if path.exists() else path.lstat()  # of the link, where it leads nowhere
    return status.st_size, status.st_mtime_ns
