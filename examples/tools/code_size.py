"""Count code lines, modules and functions of a package, by subpackage.

    python examples/tools/code_size.py [FOLDER]

A code line is neither blank nor a comment, and not part of a docstring. A function of a single statement has one
statement beside its docstring.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
LONG = 60


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a string by itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def code_lines(text: str) -> int:
    """The number of code lines of a module."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and is_docstring(node):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def main() -> None:
    """Print a table with a row per subpackage, and the longest functions."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src/imgsubset"
    names = ("code lines", "modules", "functions", "single statement")
    rows: dict[str, Counter[str]] = {}
    long = []
    for path in sorted(folder.rglob("*.py")):
        text, relative = path.read_text(), path.relative_to(folder)
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, FUNCTIONS)]
        bodies = [[node for node in function.body if not is_docstring(node)] for function in functions]
        counts = (code_lines(text), 1, len(functions), sum(len(body) == 1 for body in bodies))
        room = relative.parts[0] if len(relative.parts) > 1 else "(root)"
        for key in (room, "all"):
            rows.setdefault(key, Counter()).update(dict(zip(names, counts, strict=True)))
        for function in functions:
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > LONG:
                long.append(f"{relative}: {function.name} has {length} lines")
    for room in sorted(rows, key=lambda room: (room == "all", room)):
        print(f"{room:<14}" + "".join(f"{rows[room][name]:>8,} {name}" for name in names))
    print(f"{len(long)} functions above {LONG} lines", *long, sep="\n")


if __name__ == "__main__":
    main()
