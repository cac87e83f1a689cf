"""The ablation: one number varied at a time, no run trained twice, the same end however often it was stopped."""

import csv
import io
import signal
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import torchrun
from PIL import Image

from macer.certification.during_training import FewImages
from macer.errors import SettingsError
from macer.experiments.ablation import (
    RECIPE,
    VALUES,
    ablation_points,
    describe_budget,
    write_table,
)
from macer.experiments.ablation_plot import ablation_figure
from macer.results import Records, average_certified_radius, certified_accuracy, read_records
from macer.results.plots import save_figure
from macer.training import TrainingSettings, resolve

pytest_plugins = ["command"]

# Three runs instead of thirteen; the recipe is in each panel.
FEW = (
    "import macer.experiments.ablation\n"
    "macer.experiments.ablation.VALUES = {'gauss_num': (1, 2), 'lbd': (0.0, 1.0), 'gamma': (8.0,), 'beta': (16.0,)}"
)
RUNS = ["gauss_num-1", RECIPE, "lbd-0"]
WORDS = ("--gauss-num", 2, "--lbd", 1, "--epochs", 3, "--lr", 0.05, "--n", 300, "--skip", 25, "--out", "out")


def around(**objective: float) -> TrainingSettings:
    return resolve({}, "macer", {"dataset": "digits", "network": "convnet", **objective}, where="test")


def test_the_points_are_those_of_figure_3():
    """Zhai et al. 2020, figure 3: k, lambda, gamma and beta, four values each, around k 16, gamma 8, beta 16."""
    points = ablation_points(around(lbd=12.0))
    assert [(point.parameter, point.value) for point in points] == [
        *(("gauss_num", value) for value in (1, 2, 8, 16)),
        *(("lbd", value) for value in (0, 1, 4, 16)),
        *(("gamma", value) for value in (4, 8, 12, 16)),
        *(("beta", value) for value in (2, 4, 8, 16)),
    ]
    assert [point.run for point in points if point.settings == around(lbd=12.0)] == [RECIPE] * 3
    assert len({point.run for point in points}) == 14


@given(st.sampled_from(VALUES["gauss_num"]), st.sampled_from((0.0, 4.0, 12.0)), st.sampled_from((4.0, 9.0, 16.0)))
def test_one_number_varies_and_equal_settings_share_a_run(gauss_num, lbd, gamma):
    base = around(gauss_num=gauss_num, lbd=lbd, gamma=gamma)
    points = ablation_points(base)
    for point in points:
        tables = point.settings.tables()
        assert tables["objective"].pop(point.parameter) == point.value
        expected = base.tables()
        del expected["objective"][point.parameter]
        assert tables == expected
    runs = {(point.run, point.settings) for point in points}
    assert len(runs) == len({point.run for point in points}) == len({point.settings for point in points})


def test_only_macer_has_these_numbers():
    with pytest.raises(SettingsError, match="not of cohen"):
        ablation_points(resolve({}, "cohen", {"dataset": "digits"}, where="test"))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ","))


@pytest.fixture(scope="module")
def whole(macer, digits, tmp_path_factory) -> tuple[Path, str]:
    """An ablation that nobody disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("ablation")
    words = [*WORDS[:-1], folder / "out"]
    result = macer("ablate", *digits.options, *words, before=FEW)
    assert (result.code, result.err) == (0, "")
    return folder / "out", result.out


def test_the_budget_that_is_told_is_what_it_takes(whole):
    directory, said = whole
    trained = sum(float(row["noisy_images"]) for run in RUNS for row in rows(directory / run / "metrics.tsv"))
    certified = [row for run in RUNS for row in rows(directory / run / "certificates" / "hard.tsv")]
    assert len(certified) == 60
    assert trained == 3 * 1297 * (1 + 2 + 2)
    assert said.splitlines()[0] == (
        f"3 runs of 3 epochs: {trained:,.0f} noisy images to train; each certified on 20 test images, n = 300: "
        f"{sum(100 + int(row['n']) for row in certified):,} noisy images; done: 0 runs"
    )


def test_each_value_is_trained_with_and_reported(whole):
    directory, _ = whole
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == sorted(RUNS)
    table = rows(directory / "ablation.csv")
    assert [(row["parameter"], row["value"], row["run"]) for row in table] == [
        *(("gauss_num", "1", "gauss_num-1"), ("gauss_num", "2", RECIPE), ("lbd", "0", "lbd-0")),
        *(("lbd", "1", RECIPE), ("gamma", "8", RECIPE), ("beta", "16", RECIPE)),
    ]
    for row in table:
        records = read_records(directory / row["run"])[0]
        acr = average_certified_radius(records)
        assert (row["acr"], row["acr_low"], row["acr_high"]) == tuple(f"{each:.4f}" for each in asdict(acr).values())
        assert row["0.00"] == f"{certified_accuracy(records, 0.0):.4f}"
        assert row["images"] == "every 25th from 0 to 475 (20 of 500)"
    assert len({row["acr"] for row in table}) == 3, "these runs are to differ"
    for name in ("ablation.png", "ablation.svg"):
        assert (directory / name).stat().st_size > 1000


def test_killed_twice_it_ends_the_same(macer, digits, whole, tmp_path, monkeypatch):
    """Once in training, once in certification: what stands is not done again, and table and picture are the same."""
    monkeypatch.chdir(tmp_path)
    words = ("ablate", *digits.options, *WORDS)
    for file in ("gauss_num-1/metrics.tsv", f"{RECIPE}/certificates/hard.tsv"):
        process = macer.start(*words, before=FEW)
        deadline = time.monotonic() + 60
        while not Path("out", file).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.signal(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
    checkpoint = Path("out/gauss_num-1/checkpoints/last.pt")
    before = checkpoint.stat().st_mtime_ns
    result = macer(*words, before=FEW)
    assert result.code == 0
    assert "done: 1 runs" in result.out.splitlines()[0]
    assert checkpoint.stat().st_mtime_ns == before
    for name in ("ablation.csv", "ablation.png", "ablation.svg"):
        assert Path("out", name).read_bytes() == (whole[0] / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--recipe", "digits/cohen-0.25"), "not of cohen"),
        (("--recipe", "digits/cohen-0.25", "--precision", "auto"), "not of cohen"),  # and so no unknown precision
        (("--recipe", "magic"), "no recipe is named 'magic'"),
        (("--dataset", "mnist"), "give --root"),
        (("--dataset", "digits", "--num-img", "100"), "reach image 1980"),
        (("--dataset", "digits", "--start-img", "500"), "has images 0 to 499"),
        (("--dataset", "digits", "--skip", "0"), "skip must be at least 1"),
        (("--dataset", "digits", "--n", "5"), "hard certificates need n of at least 10"),
        (("--dataset", "digits", "--sigma", "0"), "sigma"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(macer, tmp_path, words, says):
    assert says in macer.refuses("ablate", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["teacher", "classifier", "devices", "num-nodes"])
def test_options_that_an_ablation_has_no_use_for_are_not_offered(macer, option):
    """A teacher's votes and a classifier are for other methods than MACER, and the runs follow one another."""
    assert f"--{option} " in macer("train", "--help").out
    assert f"--{option} " not in macer("ablate", "--help").out
    assert f"No such option: --{option}" in macer.refuses("ablate", f"--{option}", "1")


def test_an_ablation_that_torchrun_starts_is_refused(macer, tmp_path, monkeypatch):
    for name, value in torchrun(1, 2, 29_500).items():
        monkeypatch.setenv(name, value)
    words = ("--dataset", "digits", "--network", "convnet", "--device", "cpu", "--out", tmp_path / "out")
    assert "runs in one process: start it without torchrun or srun" in macer.refuses("ablate", *words)


def records(chance: np.random.Generator, name: str) -> Records:
    radius = chance.uniform(0, 1, 40)
    return Records(run=name, idx=np.arange(40), radius=radius, correct=chance.random(40) < 0.7, total=500)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_a_panel_a_number_and_a_curve_a_value(seed):
    points = ablation_points(around())
    chance = np.random.default_rng(seed)
    all_records = [records(chance, point.run) for point in points]
    figure = ablation_figure(points, all_records, "title")
    assert [axes.get_title() for axes in figure.axes] == ["k", "lambda", "gamma", "beta"]
    lines = [line for axes in figure.axes for line in axes.lines]
    for point, each, line in zip(points, all_records, lines, strict=True):
        acr = each.certified_radius.mean()
        assert str(line.get_label()).endswith(f" = {point.value:g}; ACR {acr:.3f}")
        radii, heights = (np.asarray(values) for values in line.get_data())
        for radius, height in zip(radii, heights, strict=True):
            assert height == certified_accuracy(each, radius)
        assert set(each.radius[each.correct]) <= set(radii)  # every step is drawn
    for axes in figure.axes:
        assert len({(line.get_linestyle(), str(line.get_color())) for line in axes.lines}) == 4
        assert len({line.get_linestyle() for line in axes.lines}) == 4, "told apart without colour"


def test_a_network_that_certifies_nothing_is_drawn_and_listed(tmp_path):
    points = ablation_points(around())
    nothing = Records(run="x", idx=np.arange(3), radius=np.zeros(3), correct=np.zeros(3, dtype=bool))
    picture = io.BytesIO()
    ablation_figure(points, [nothing] * 16, r"100$\frac").savefig(picture)
    assert Image.open(picture).size[0] > 500
    save_figure(ablation_figure(points, [nothing] * 16, "x"), [tmp_path / "a.svg"])
    write_table(points, [nothing] * 16, tmp_path / "a.csv")
    assert {row["acr"] for row in rows(tmp_path / "a.csv")} == {"0.0000"}


def test_on_mnist_it_would_take_this(shared, tmp_path):
    base = resolve(
        {},
        "macer",
        {"dataset": "mnist", "network": "lenet", "root": str(shared / "data" / "mnist"), "epochs": 3},
        where="",
    )
    said = describe_budget(ablation_points(base), FewImages(), tmp_path)
    images = 3 * 60_000 * (16 * 11 + 1 + 2 + 8)  # 14 runs: all but three with k 16
    assert said.startswith(f"14 runs of 3 epochs: {images:,} noisy images to train; each certified on 500 test images")
