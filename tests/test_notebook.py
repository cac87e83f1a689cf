"""The notebook of the documentation: its cells run, in order, as they are."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from-model-to-results.ipynb"


def run_cells(notebook: Path) -> dict[str, Any]:
    """Run a notebook's code cells in one name space, and return that."""
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
    return names


def test_the_notebook_goes_from_a_model_to_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_cells(NOTEBOOK)
    results = names["results"]
    assert list(results.frame().groupby("run").size()) == [100, 100]
    acr = results.metrics([]).value
    assert (acr > 0.1).all()  # they have learned: a network that knows nothing has about 0
    assert names["certificates"].radius.shape == (8,)
    shown = capsys.readouterr().out
    assert "macer and fewer cannot be compared: the images are" in shown
    assert r"\begin{tabular}" in shown
    assert (tmp_path / "results.parquet").read_bytes().startswith(b"PAR1")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "cohen" in page
    assert page.rstrip().endswith("</html>")


def test_the_notebook_is_shown_as_it_ran() -> None:
    """Each code cell was run, one after the other, and none of them failed."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
