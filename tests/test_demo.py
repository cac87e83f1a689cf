"""The demo's way from data to picture, page and sentence, with its trainings cut to an epoch."""

import html
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from macer.experiments import demo
from macer.recipes import read_recipe
from macer.results import Records
from macer.results.metrics import difference_in_words, paired_difference

pytest_plugins = ["command"]


def test_demo_leaves_records_pictures_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_epoch(name: str) -> dict:
        tables = read_recipe(name)
        tables["training"]["epochs"] = 1
        return tables

    monkeypatch.setattr(demo, "read_recipe", one_epoch)
    monkeypatch.setattr(demo, "CERTIFICATION", {"n": 100, "skip": 27, "mode": "both"})
    baseline, ours = demo.run_demo(tmp_path, seed=0, console=Console(file=io.StringIO()))
    assert len(baseline) == len(ours) == 19  # too few for a note that all answers are the same, as after one epoch
    assert baseline.sigma == ours.sigma
    assert baseline.idx is not None
    np.testing.assert_array_equal(baseline.idx, ours.idx)
    for file in (
        "radius-accuracy.png",
        "radius-accuracy.svg",
        "macer-consistency/certificates/hard.tsv",
        "report.html",
    ):
        assert (tmp_path / file).stat().st_size > 0
    assert (tmp_path / "cohen" / "certificates" / "certificates.mat").is_file()
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Read this first" not in page  # no warnings: pictures, votes and training curves are all there
    one, other = sorted((baseline, ours), key=lambda records: -records.certified_radius.mean())
    assert difference_in_words(one.name, other.name, paired_difference(one, other)) in page


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.02, "macer-consistency's ACR is significantly larger than cohen's by 0.02"),
        (0.0, "No significant difference in ACR between macer-consistency and cohen: "),
        (-0.02, "macer-consistency's ACR is significantly smaller than cohen's by 0.02"),
    ],
)
def test_the_command_says_what_was_measured(macer, monkeypatch, tmp_path: Path, shift: float, words: str) -> None:
    """On radii of 500 images whose differences have mean `shift`, and standard error 0.02 / sqrt(500) = 0.0009."""
    noise = np.random.default_rng(0).normal(0, 0.02, 500)
    radius = np.random.default_rng(1).uniform(0.1, 1.2, 500)
    facts = {"idx": np.arange(500), "label": np.arange(500) % 10, "correct": np.ones(500, bool)}
    cohen = Records(run="cohen", radius=radius, sigma=0.5, n=10_000, alpha=0.001, dataset="digits", **facts)
    ours = replace(cohen, run="macer-consistency", radius=radius + noise - noise.mean() + shift)
    monkeypatch.setattr(demo, "run_demo", lambda directory, *, seed, console: [cohen, ours])
    assert words in macer("demo", "--out", tmp_path).out


def test_both_methods_get_the_same_budget() -> None:
    """The same sigma, noisy images, network and data: what differs is the method and how it steps."""
    cohen, ours = (read_recipe(name) for name in demo.RECIPES)
    for key in ("sigma", "gauss_num"):
        assert cohen["objective"][key] == ours["objective"][key]
    for key in ("dataset", "network", "epochs", "batch_size"):
        assert cohen["training"][key] == ours["training"][key]
    assert "num_images" not in cohen["training"].keys() | ours["training"].keys()
