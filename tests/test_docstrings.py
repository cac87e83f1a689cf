"""Examples in docstrings do what they say, and the API reference is built from docstrings without a warning."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest
from api_reference import write_reference

import macer

SOURCE = Path(macer.__file__).parent
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def examples(file: Path) -> list[tuple[str, str]]:
    """The docstrings of a file that have examples, each with the name of what it documents."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, DOCUMENTED)]
    documented = [(getattr(node, "name", file.stem), ast.get_docstring(node) or "") for node in nodes]
    return [(name, text) for name, text in documented if ">>>" in text]


EXAMPLES = [
    pytest.param(file, text, id=f"{file.relative_to(SOURCE)}-{name}")
    for file in sorted(SOURCE.rglob("*.py"))
    for name, text in examples(file)
]


@pytest.mark.parametrize(("file", "text"), EXAMPLES)
def test_examples_do_what_they_say(file, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    test = doctest.DocTestParser().get_doctest(text, {**vars(module)}, file.name, str(file), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


def test_the_reference_is_built(tmp_path):
    write_reference(tmp_path)
    page = (tmp_path / "macer.html").read_text()
    assert all(name in page for name in macer.__all__)
