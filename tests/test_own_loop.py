"""docs/your-own-loop.md and examples/own_classifier.py run as they stand, and what they train is certified."""

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-own-loop.md").read_text(encoding="utf-8")
SECTIONS = {
    section.split("\n", 1)[0]: "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    for section in PAGE.split("\n## ")[1:]
}


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's first section leaves behind, run in an empty directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found: dict[str, Any] = {"__name__": "your_own_loop"}
    exec(compile(SECTIONS["A plain loop"], "docs/your-own-loop.md", "exec"), found)
    return found


def test_the_page_has_a_section_per_loop() -> None:
    assert list(SECTIONS) == [
        "A plain loop",
        "A Lightning module",
        "A Hugging Face Trainer",
        "What macer's own loop adds",
    ]
    assert all(SECTIONS.values())


def accuracy(results: Any) -> float:
    (records,) = results
    assert len(records) == 20
    return records.correct.mean()


def test_a_plain_loop(namespace: dict[str, Any]) -> None:
    assert accuracy(namespace["results"]) > 0.5


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("title", "package"),
    [
        ("A Lightning module", "lightning"),
        ("A Hugging Face Trainer", "accelerate"),
        ("What macer's own loop adds", "macer"),
    ],
)
def test_other_loops(namespace: dict[str, Any], title: str, package: str) -> None:
    pytest.importorskip(package)
    before = namespace.pop("results")
    exec(compile(SECTIONS[title], "docs/your-own-loop.md", "exec"), namespace)
    assert namespace["results"] is not before
    right = accuracy(namespace["results"])
    if package == "accelerate":  # a transformer learns little in one epoch, but something
        images, labels = next(iter(namespace["DataLoader"](namespace["digits"], batch_size=512)))
        trained, fresh = namespace["model"].eval(), namespace["NormalisingViT"](namespace["config"]).eval()
        losses = [namespace["objective"](each, images, labels).terms["classification"] for each in (trained, fresh)]
        assert losses[0] < losses[1] - 0.1
    else:
        assert right > 0.5


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    file = ROOT / "examples" / "own_classifier.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    statements = [each for each in ast.walk(tree) if isinstance(each, ast.stmt) and not isinstance(each, ast.Import)]
    assert len(statements) <= 16  # with its docstring: a notebook user's path reads in 15 lines
    found = runpy.run_path(str(file))
    assert accuracy(found["results"]) > 0.5
    assert (tmp_path / "own-classifier.png").stat().st_size > 1000
