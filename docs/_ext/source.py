"""Pieces of a Python file by name, without importing it: the code, and what its docstring says."""

import ast
import textwrap
from dataclasses import dataclass
from pathlib import Path

Piece = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Code:
    """A function, method, class or constant of a file.

    summary: the docstring's first paragraph. details: the rest of it. text: the code without its
    docstring, not indented. first, last: its lines in the file.
    """

    name: str
    summary: str
    details: str
    text: str
    first: int
    last: int


def read_code(path: Path, name: str) -> Code:
    """A piece of a file; LookupError where the file has none of that name.

    >>> read_code(Path("cavl/method.py"), "CAVL.update").text.split("(")[0]
    'def update'

    Args:
        name: as it is written in the file, `CLASS.METHOD` for a method.
    """
    text = path.read_text(encoding="utf-8")
    node = _find(ast.parse(text), name, path)
    first = node.lineno
    for decorator in getattr(node, "decorator_list", []):
        first = min(first, decorator.lineno)
    last = node.end_lineno or first

    docstring = ""
    left_out = range(0)
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        docstring = ast.get_docstring(node) or ""
    if docstring:
        statement = node.body[0]
        left_out = range(statement.lineno, (statement.end_lineno or 0) + 1)

    lines = text.splitlines()
    kept = [lines[number - 1] for number in range(first, last + 1) if number not in left_out]
    summary, _, details = docstring.partition("\n\n")
    return Code(
        name=name,
        summary=" ".join(summary.split()),
        details=details.strip("\n"),
        text=textwrap.dedent("\n".join(kept)).strip("\n"),
        first=first,
        last=last,
    )


def _find(tree: ast.Module, name: str, path: Path) -> Piece:
    body: list[ast.stmt] = tree.body
    found: Piece | None = None
    for part in name.split("."):
        found = None
        for node in body:
            if part in _names_of(node):
                found = node
        if found is None:
            raise LookupError(f"{path}: there is no {name}")
        body = getattr(found, "body", [])
    if found is None:
        raise LookupError(f"{path}: a name is missing")
    return found


def _names_of(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []
