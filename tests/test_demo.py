"""The demo's way from data to picture and page, with its trainings cut to an epoch."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from macer.experiments import demo
from macer.recipes import read_recipe


def test_demo_leaves_records_pictures_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_epoch(name: str) -> dict:
        tables = read_recipe(name)
        tables["training"]["epochs"] = 1
        return tables

    monkeypatch.setattr(demo, "read_recipe", one_epoch)
    monkeypatch.setattr(demo, "CERTIFICATION", {"n": 100, "skip": 25, "mode": "both"})
    baseline, ours = demo.run_demo(tmp_path, seed=0, console=Console(file=io.StringIO()))
    assert len(baseline) == len(ours) == 20
    assert baseline.sigma == ours.sigma
    assert baseline.idx is not None
    np.testing.assert_array_equal(baseline.idx, ours.idx)
    for file in ("radius-accuracy.png", "radius-accuracy.svg", "macer/certificates/hard.tsv", "report.html"):
        assert (tmp_path / file).stat().st_size > 0
    assert (tmp_path / "cohen" / "certificates" / "certificates.mat").is_file()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Read this first" not in page  # no warnings: pictures, votes and training curves are all there


def test_both_methods_get_the_same_budget() -> None:
    """The same sigma, noisy images, network and data: what differs is the method and how it steps."""
    cohen, macer = (read_recipe(name) for name in demo.RECIPES)
    for key in ("sigma", "gauss_num"):
        assert cohen["objective"][key] == macer["objective"][key]
    for key in ("dataset", "network", "epochs", "batch_size"):
        assert cohen["training"][key] == macer["training"][key]
