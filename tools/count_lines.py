"""Count code lines, without docstrings, comments and blanks: `python tools/count_lines.py`."""

import ast
import io
import sys
import tokenize
from pathlib import Path

SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
          tokenize.ENCODING, tokenize.ENDMARKER}


def code_lines(path: Path) -> int:
    """Return the number of lines of a Python file that hold code."""
    source = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def main(folders: list[str]) -> None:
    """Print one row a file and the sum; `dfnb/demo` is left out of `dfnb`."""
    total = 0
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        if not str(path).startswith("dfnb/demo/"):
            total += (count := code_lines(path))
            print(f"{count:6}{len(path.read_text().splitlines()):6}  {path}")
    print(f"{total:6} lines of code")


if __name__ == "__main__":
    main(sys.argv[1:] or ["dfnb"])
