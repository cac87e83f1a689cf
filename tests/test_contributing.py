"""What CONTRIBUTING says of the code is true: the order of the layout, and the length of functions."""

import ast
import re
from pathlib import Path

import macer

SOURCE = Path(macer.__file__).parent
PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
ORDER = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", PAGE, re.MULTILINE)
TREES = {file.relative_to(SOURCE): ast.parse(file.read_text(encoding="utf-8")) for file in SOURCE.rglob("*.py")}


def directory(file):
    return file.parts[0].removesuffix(".py")


def imported(tree):
    """Yield the dotted names that a module imports, and what it takes from `macer` itself but the version."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) != "macer.__version__":
            yield ast.unparse(node)


def test_a_module_imports_only_from_its_own_row_and_those_above_it():
    rooms = {file: tree for file, tree in TREES.items() if directory(file) not in ("__init__", "__main__")}
    assert {directory(file) for file in rooms} == set(ORDER)
    for file, tree in rooms.items():
        allowed = ORDER[: ORDER.index(directory(file)) + 1]
        found = {name for name in imported(tree) if name.startswith("macer.") and name.split(".")[1] not in allowed}
        assert not found, f"{file}: {found}"


def lines(node):
    return node.end_lineno + 1 - node.lineno


def test_a_function_has_at_most_60_lines_without_its_docstring():
    for file, tree in TREES.items():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            count = lines(function) - (lines(function.body[0]) if ast.get_docstring(function) is not None else 0)
            assert count <= 60, f"{file}: {function.name} has {count} lines"
