"""The report: what stands on the page is what literal loops over the records give, and what files say stays text."""

import base64
import hashlib
import html
import io
import json
import re
import shlex
import shutil
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_runs import QUIET, SAMPLES, make_runs
from scipy.special import ndtr

from macer import certify, data
from macer.certification import certify_images, prepare
from macer.certification.evaluation import smoothed_classifier
from macer.errors import CheckpointError, MacerError
from macer.models.dncnn import DnCNN
from macer.pretrained.denoisers import find_denoiser
from macer.pretrained.find import find_network
from macer.report import figures, parts, write_report
from macer.report import page as page_module
from macer.report.classes import class_results, confusion, proved_bounds
from macer.report.commands import certify_command, train_command
from macer.report.gallery import PICTURE_BYTES, build_gallery
from macer.report.looks import DASHES, run_looks
from macer.report.pictures import choose_images, data_uri
from macer.report.published import gather_published
from macer.report.recount import recount
from macer.report.sources import gather
from macer.results import (
    Records,
    average_certified_radius,
    certified_accuracy,
    certified_accuracy_interval,
    read_records,
)
from macer.results.metrics import paired_accuracy_difference
from macer.results.tables import results_table
from macer.results.times import TIMES
from macer.runs.certificates import Row, read_finished_journal
from macer.runs.mat import read_mat, write_mat
from macer.runs.run import Run
from macer.smoothing import Certificate
from macer.smoothing.bounds import two_class_bounds
from macer.smoothing.radius import certified_radius, largest_radius
from macer.smoothing.words import SCHEME

pytest_plugins = ["command"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Not to be changed."""
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copies(runs, tmp_path):
    """The same, to be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]


def report(paths, file, **options):
    """A page without votes, which take time."""
    warnings = write_report(paths, file, **{"votes": 0, "device": "cpu", "console": QUIET, **options})
    return file.read_text(encoding="utf-8"), warnings


class Elements(HTMLParser):
    """A page's elements, with the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[str] = []
        self.shown = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_endtag(self, tag):
        self.handle_starttag("", [])  # what follows is not in the element that ended

    def handle_data(self, text):
        if not self.found:
            return
        self.texts[-1] += text
        if self.found[-1][0] not in ("script", "style"):
            self.shown += text

    def of(self, tag):
        return [
            (attributes, text) for (name, attributes), text in zip(self.found, self.texts, strict=True) if name == tag
        ]


def embedded(page):
    """The JSON in a page."""
    ((_, text),) = [each for each in Elements(page).of("script") if each[0].get("id") == "data"]
    return json.loads(text)


def make(radius, correct: Any = True, **facts):
    radius = np.asarray(radius, dtype=np.float64)
    correct = np.broadcast_to(np.asarray(correct, dtype=bool), radius.shape)
    return Records(**{"run": "x", "idx": np.arange(len(radius)), "radius": radius, "correct": correct, **facts})


# --- gathering


def test_a_run_gives_its_certificates_its_training_and_its_estimates_between_epochs(runs):
    gathered = gather(runs)
    assert [source.records.name for source in gathered.sources] == ["macer", "macer soft", "cohen", "cohen soft"]
    assert [source.records.name for source in gathered.main] == ["macer", "cohen"]
    assert [training.name for training in gathered.trainings] == ["macer", "cohen"]
    assert {run: [source.epoch for source in each] for run, each in gathered.during_training.items()} == {
        Run(runs[1]): [1, 2, 3]
    }
    assert gathered.warnings == []


@pytest.mark.parametrize("inside", [".", "certificates", "certificates/hard.tsv"])
def test_a_part_of_a_run_knows_its_training(runs, inside):
    gathered = gather([runs[0] / inside])
    assert [training.run.path.resolve() for training in gathered.trainings] == [runs[0].resolve()]


def test_what_is_given_twice_is_shown_once_and_runs_of_one_name_get_two(runs, tmp_path):
    other = Path(shutil.copytree(runs[0], tmp_path / "elsewhere" / "macer"))
    gathered = gather([runs[0], other, runs[0]])
    assert [source.records.name for source in gathered.main] == [f"{runs[0].parent.name}/macer", "elsewhere/macer"]
    first, second = (source.look for source in gathered.main)
    assert first != second


def test_certificates_made_during_training_are_shown_where_there_are_no_others(copies):
    for file in (copies[1] / "certificates").glob("*.[tm]*"):
        if file.name != "settings.toml":
            file.unlink()
    gathered = gather([copies[1]])
    assert [source.epoch for source in gathered.main] == [3]
    assert any("made during training" in warning for warning in gathered.warnings)


def test_damaged_training_curves_are_a_warning_and_no_plot(copies):
    Run(copies[0]).metrics_file.write_text("epoch\tloss\n1\tnan\n")
    gathered = gather([copies[0]])
    assert len(gathered.warnings) == 1
    assert figures.training_figures(gathered) == {}
    assert parts.cost_table(gathered.main) is None


# --- plots


def test_looks_are_those_of_macer_plot_and_never_the_same_for_two_runs():
    looks = run_looks([(1, "cohen"), (2, None), (3, "macer"), (1, "cohen"), *((run, "macer") for run in range(4, 14))])
    assert looks[0] == looks[3]
    assert (looks[2].dash, looks[0].dash) == ("solid", "dash")
    assert len(set(looks)) == len(looks) - 1


@pytest.fixture(scope="module")
def gathered(runs):
    return gather(runs)


def settled(value):
    """A figure with black in place of the page's colours, as plotly's own validation takes it."""
    if isinstance(value, dict):
        return {key: "black" if key.endswith("color") else settled(each) for key, each in value.items()}
    return [settled(each) for each in value] if isinstance(value, list) else value


def test_every_plot_is_one_of_plotlys(gathered):
    every = {
        "curves": figures.radius_accuracy(gathered.sources),
        "differences": figures.accuracy_differences(parts.differences(gathered.main).pairs),
        "p_a": figures.p_a_distribution(gathered.main),
        **figures.training_figures(gathered),
    }
    assert set(every) > {
        "loss",
        "classification",
        "robustness",
        "learning rate",
        "seconds per epoch",
        "ACR between epochs",
    }
    for figure in every.values():
        plotly.graph_objects.Figure(settled(figure))
        colours = re.findall(r'color": "([^"]*)"', json.dumps(figure))
        css = (Path(figures.__file__).parent / "page.css").read_text()
        assert all(f"{colour.split()[0]}:" in css for colour in colours)


def test_the_curves_are_certified_accuracy_with_wilsons_bands(gathered):
    traces = figures.radius_accuracy(gathered.sources)["data"]
    for number, source in enumerate(gathered.sources):
        low, high, line = (trace for trace in traces if trace["legendgroup"] == str(number))
        soft = source.records.name.endswith("soft")
        assert line.get("visible") == ("legendonly" if soft else None)
        assert line["line"]["shape"] == "vh"
        assert max(line["x"]) > source.records.certified_radius.max()
        limit = largest_radius(0.25, SAMPLES, 0.001)
        assert limit - 1e-4 < low["x"][-1] == high["x"][-1] <= limit  # the band ends where no radius is possible
        beyond = [0.0] * (len(line["x"]) - len(low["x"]))
        bands = low["y"] + beyond, high["y"] + beyond
        for radius, value, down, up, text in zip(line["x"], line["y"], *bands, line["text"], strict=True):
            estimate = certified_accuracy_interval(source.records, radius)
            assert (value, down, up) == pytest.approx((estimate.value, estimate.low, estimate.high), abs=1e-4)
            images = round(estimate.value * len(source.records))
            assert text == f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], {images} of 50 images"


def test_a_curve_holds_its_last_value_up_to_the_largest_radius():
    records = make([0.1, 0.95286], [True, True])
    traces = figures.radius_accuracy([replace(gather_one(), records=records)])["data"]
    x, y = np.array(traces[-1]["x"]), np.array(traces[-1]["y"])
    assert y[x <= 0.9528].min() == 0.5
    assert x[y == 0.5].max() == pytest.approx(0.9528)


def gather_one():
    from macer.report.sources import Source

    return Source(records=make([0.1]), file=Path("hard.tsv"), certification={}, environment={})


def test_differences_are_paired_and_of_the_larger_minus_the_smaller(gathered):
    ((one, other),) = parts.differences(gathered.main).pairs
    assert one.records.certified_radius.mean() > other.records.certified_radius.mean()
    figure = figures.accuracy_differences([(one, other)])
    assert figure is not None
    low, high, line = figure["data"]
    for place in range(0, len(line["x"]), 40):
        estimate = paired_accuracy_difference(one.records, other.records, line["x"][place])
        drawn = line["y"][place], low["y"][place], high["y"][place]
        assert drawn == pytest.approx((estimate.value, estimate.low, estimate.high), abs=1e-4)


def test_certificates_of_other_kinds_are_compared_with_a_warning():
    hard = replace(gather_one(), records=make([0.1], sigma=0.25, n=1000, alpha=0.001))
    soft = replace(hard, records=replace(hard.records, run="y", kind="soft", beta=16.0))
    (sentence,) = parts.differences([hard, soft]).sentences
    assert "; certificates are hard for x, soft (beta 16) for y" in sentence
    assert sentence.endswith(": the difference is not that of the networks alone.")


@given(st.lists(st.tuples(st.floats(0.501, 0.9999), st.booleans()), min_size=1, max_size=30), st.floats(0.5, 1))
def test_the_distribution_of_p_a_counts_images_at_or_below(rows, share):
    """Radii are made from bounds by the certification's own function; the plot finds the bounds again."""
    bounds, correct = zip(*rows, strict=True)
    records = make([certified_radius(bound, 0.25) for bound in bounds], correct, sigma=0.25)
    figure = figures.p_a_distribution([replace(gather_one(), records=records)])
    assert figure is not None
    (line,) = figure["data"]
    x = max(each for each in line["x"] if each <= share + 1e-12)
    expected = sum((bound if right else 0.5) <= x for bound, right in rows) / len(rows)
    near = any(abs(bound - x) < 1e-9 for bound in bounds)
    assert near or line["y"][line["x"].index(x)] == pytest.approx(expected, abs=1e-6)


def test_the_bounds_of_two_class_certificates_are_those_that_were_proved(tmp_path):
    """1,000 classes share the votes: at 2,700 of 10,000 the radius follows from the second class, and p_A is 0.259."""
    p_a_lower, p_b_upper = two_class_bounds(2700, 307, 10_000, 1001, 0.001)
    radius = certified_radius(p_a_lower, 0.25, p_b_upper)
    assert (round(p_a_lower, 3), round(float(ndtr(radius / 0.25)), 3)) == (0.256, 0.708)
    certificates = [Certificate(3, radius, p_a_lower, 2700.0, 10_007), Certificate(-1, 0.0, 0.6, 6000.0, 10_007)]
    rows = [Row.of(idx, 3, made, 1.0) for idx, made in enumerate(certificates)]
    records = Records.from_rows("two", "hard", rows, sigma=0.25, alpha=0.001, n=10_007)
    assert proved_bounds(records).tolist() == [p_a_lower, 0.0]  # nothing is claimed where it abstained
    source = replace(gather_one(), records=records)
    (line,) = figures.p_a_distribution([source])["data"]
    assert set(line["y"]) == {1.0}  # no image has a bound above 1/2
    gallery = build_gallery([source], root=None, votes=0, device="cpu", console=QUIET)
    assert gallery.runs[0]["bound"] == [floor(p_a_lower * 1e4) / 1e4, 0.0]
    without = replace(records, p_a_lower=None)  # as in files of other programs, with the one-class bound
    assert proved_bounds(without).tolist() == [pytest.approx(ndtr(radius / 0.25)), 0.0]


def test_without_sigma_there_is_no_p_a():
    assert proved_bounds(make([0.1])) is None
    assert figures.p_a_distribution([gather_one()]) is None


def test_names_in_plots_are_text_for_plotly():
    records = make([0.2], run="<a href='https://x'>$x$</a>&")
    (line,) = [t for t in figures.radius_accuracy([replace(gather_one(), records=records)])["data"] if "name" in t]
    assert line["name"] == "&lt;a href='https://x'&gt;$x$&lt;/a&gt;&amp;"
    assert "name" in line
    assert html.unescape(line["name"]) == records.name


# --- classes

CLASSES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-1, 4), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=40
)


def of_classes(rows):
    label, predict, radius = (np.array(column) for column in zip(*rows, strict=True))
    return make(np.where(predict == -1, 0.0, radius), label == predict, label=label, predict=predict)


@given(CLASSES, st.sampled_from([0.0, 0.25, 0.75]))
def test_classes_and_confusion_are_the_literal_loops(rows, at):
    records = of_classes(rows)
    counts: dict[tuple[int, int], int] = {}
    for label, predict, radius in rows:
        answer = predict if predict != -1 and radius >= at else -1
        counts[label, answer] = counts.get((label, answer), 0) + 1
    assert confusion(records, at) == counts
    results = class_results(records, at)
    assert [result.label for result in results] == sorted({label for label, _, _ in rows})
    for result in results:
        of_class = [row for row in rows if row[0] == result.label]
        right = [radius for label, predict, radius in of_class if predict == label]
        assert result.images == len(of_class)
        assert result.accuracy.value == pytest.approx(sum(radius >= at for radius in right) / len(of_class))
        assert 0 <= result.accuracy.low <= result.accuracy.value <= result.accuracy.high <= 1
        assert result.acr == pytest.approx(sum(right) / len(of_class))
        assert result.abstained == sum(predict == -1 for _, predict, _ in of_class)


def test_class_views_cover_every_radius_and_many_classes_become_a_list():
    source = replace(gather_one(), records=of_classes([(0, 0, 0.5), (1, 0, 0.5), (1, 1, 1.0)]))
    views = parts.class_views([source], [0.0, 0.75])
    assert [(view.run, view.radius) for view in views] == [(0, 0), (0, 1)]
    assert views[0].matrix == {(0, 0): 1, (1, 0): 1, (1, 1): 1}
    assert views[1].matrix == {(0, -1): 1, (1, -1): 1, (1, 1): 1}
    many = replace(gather_one(), records=of_classes([(label, (label + 1) % 30, 0.5) for label in range(30)] * 2))
    (view,) = parts.class_views([many], [0.0])
    assert view.matrix is None
    assert view.mistakes == [(label, (label + 1) % 30, 2) for label in range(30)]
    hostile = replace(gather_one(), records=of_classes([(label, label, 0.5) for label in range(1001)]))
    assert parts.class_views([hostile], [0.0]) == []
    assert parts.left_out([source, hostile]) == ["x: has more than 1,000 classes, which are not shown one by one"]


# --- words and tables


@pytest.mark.parametrize(
    ("largest", "radii"),
    [(3.81, [0.25 * step for step in range(10)]), (0.953, [0.0, 0.25, 0.5, 0.75]), (0.384, [0.0, 0.1, 0.2, 0.3]),
     (0.15, [0.0, 0.05, 0.1, 0.15]), (0.02, [0.0, 0.01, 0.02]), (0.0, [0.0])],
)  # fmt: skip
def test_the_pages_radii_show_something_of_small_ones_too(largest, radii):
    assert parts.page_radii([make([largest])]) == pytest.approx(radii)


def test_pairs_that_cannot_be_compared_are_told_with_the_reason(gathered):
    one = gathered.main[0]
    other = replace(one, records=replace(one.records, run="other", sigma=0.5, n=None))
    comparison = parts.differences([one, other])
    assert comparison.sentences == comparison.pairs == []
    assert comparison.refused == [
        "macer and other are not compared: sigma is 0.25 for macer, 0.5 for other; n is not recorded for other."
    ]


def test_the_table_of_results_begins_with_its_numbers(gathered):
    """Of two sigmas, and one run seen without noise: each cell is the one it was, in its new place."""
    lower = [replace(each.records, sigma=0.12, run=f"{each.records.name} low") for each in gathered.main]
    pairs = zip(gathered.main, lower, strict=True)
    sources = [gathered.sources[2], *(replace(source, records=records) for source, records in pairs)]
    radii = [0.0, 0.25]
    plain = results_table([source.records for source in sources], radii)
    shown = parts.result_table(sources, radii, {"macer low": 0.75})
    numbers = ("0.00", "0.25", "ACR [95%]", "abstained", "seconds", "without noise")
    assert shown.table.header == ("", *numbers, "method", "sigma")
    assert shown.numbers == len(numbers)
    assert [source.records.name for source in shown.sources] == [row[0] for row in shown.table.rows]
    assert [row[0] for row in shown.table.rows] == ["cohen low", "macer low", "cohen"]
    for before, after in zip(plain.rows, shown.table.rows, strict=True):
        cells = dict(zip(shown.table.header, after, strict=True))
        assert cells.pop("without noise") == ("0.750" if after[0] == "macer low" else "")
        assert cells == dict(zip(plain.header, before, strict=True))
    assert plain.best
    assert {(row, shown.table.header[column]) for row, column in shown.table.best} == {
        (row, plain.header[column]) for row, column in plain.best
    }


def test_a_published_file_of_a_runs_name_has_a_row_of_its_own(gathered):
    run = gathered.main[0]
    published = replace(run, records=replace(run.records), published=True)
    shown = parts.result_table([run, published], [0.0], {"macer": 0.5})
    assert [source.published for source in shown.sources] == [False, True]
    column = shown.table.header.index("without noise")
    assert [row[column] for row in shown.table.rows] == ["0.500", ""]


def test_of_many_runs_each_is_compared_with_the_first(gathered):
    one = gathered.main[0]
    sources = [replace(one, records=replace(one.records, run=str(number))) for number in range(7)]
    assert [{source.records.name for source in pair} for pair in parts.differences(sources).pairs] == [
        {"0", str(number)} for number in range(1, 7)
    ]
    assert len(parts.differences(sources[:5]).pairs) == 10


def test_costs_are_sums_over_the_training_curve(gathered):
    cost = parts.cost_table(gathered.main)
    assert cost is not None
    assert cost.table.header[1:8] == TIMES
    assert [row[0] for row in cost.table.rows] == ["cohen", "macer"]
    for row in cost.table.rows:
        cells = dict(zip(cost.table.header, row, strict=True))
        (source,) = (source for source in gathered.main if source.records.name == row[0])
        lines = source.training.run.metrics_file.read_text().splitlines()
        columns = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
        seconds = sum(float(column["seconds"]) for column in columns)
        acr = average_certified_radius(source.records).value
        assert float(cells["hours"]) == pytest.approx(seconds / 3600, rel=0.01)
        assert float(cells["seconds per epoch"]) == pytest.approx(seconds / 3, rel=0.01)
        noisy = sum(float(column["noisy_images"]) for column in columns)
        assert float(cells["million noisy images"]) == pytest.approx(noisy / 1e6, rel=0.01)
        assert float(cells["ACR per hour"].replace(",", "")) == pytest.approx(acr / (seconds / 3600), rel=0.01)
        assert cells["ACR [95%]"].startswith(f"{acr:.3f} [")


def test_the_commands_make_the_same_certificates_again(macer, runs, tmp_path):
    """Both commands as they stand on the page, into a new directory."""
    source = gather([runs[1]]).main[0]
    assert source.training is not None
    again = tmp_path / "again"
    for command in (train_command(source.training), certify_command(source)):
        assert command is not None
        program, *words = [again if word == str(runs[1]) else word for word in shlex.split(command)]
        assert program == "macer"
        result = macer(*words)
        assert result.code == 0, result
    for kind in ("hard.tsv", "soft.tsv"):
        old, new = (
            [line.split("\t")[:5] + line.split("\t")[6:-1] for line in file.read_text().splitlines()]
            for file in (runs[1] / "certificates" / kind, again / "certificates" / kind)
        )
        assert new == old  # but for the time and the checksum, which covers it


def test_certificates_elsewhere_and_on_another_device_have_their_whole_command(gathered):
    source = gathered.main[0]
    table = {**source.certification, "num_img": 3, "batch_size": 400}
    source = replace(
        source,
        training=None,
        file=Path("my certificates/hard.tsv"),
        certification=table,
        environment={"device": "cuda (NVIDIA H100 80GB HBM3)"},
    )
    command = (
        f"macer certify {table['checkpoint']} --out 'my certificates' --dataset digits --network convnet --sigma 0.25 "
        f"--beta 4.0 --device cuda --num-img 3 --skip 10 --mode both --n {SAMPLES} --seed 0 --batch-size 400"
    )
    assert certify_command(source) == command
    shard = replace(source, file=Path("my certificates/shard-1-of-2/hard.tsv"), certification={**table, "shard": "1/2"})
    assert certify_command(shard) == f"{command} --shard 1/2"
    assert certify_command(replace(source, certification={**table, "dataset": "own-0123456789abcdef"})) is None


def test_settings_of_another_version_give_no_command(gathered):
    source = gathered.main[0]
    assert source.training is not None
    strange = replace(source.training, settings={**source.training.settings, "warp": 9})
    assert train_command(strange) is None
    assert train_command(replace(source.training, objective={"name": "alchemy"})) is None
    assert certify_command(replace(source, certification={**source.certification, "warp": 9})) is None
    assert certify_command(replace(source, certification={})) is None


def test_a_hostile_setting_stays_one_word_of_the_command(gathered):
    source = gathered.main[0]
    assert source.training is not None
    evil = "x'; rm -rf ~ #\x1b[2J"
    command = train_command(replace(source.training, settings={**source.training.settings, "dataset": evil}))
    assert command is not None
    assert "x'; rm -rf ~ #\N{REPLACEMENT CHARACTER}[2J" in shlex.split(command)


# --- pictures and votes


def test_the_most_and_least_robust_wrong_and_abstained_images_are_chosen():
    draw = np.random.default_rng(0)
    rows = [(int(draw.integers(10)), int(draw.integers(-1, 10)), float(draw.random())) for _ in range(2000)]
    records = of_classes([(label, label if draw.random() < 0.7 else predict, r) for label, predict, r in rows])
    chosen = choose_images([records], 200)
    assert len(chosen) == len(set(chosen)) == 200
    assert records.label is not None
    assert records.predict is not None
    right = np.flatnonzero(records.correct)
    by_radius = right[np.argsort(records.radius[right])]
    abstained = np.flatnonzero(records.predict == -1)
    wrong = np.flatnonzero(~records.correct & (records.predict != -1))
    for expected in (by_radius[-12:], by_radius[:12], abstained[:12], wrong[np.argsort(-records.radius[wrong])][:12]):
        assert set(expected.tolist()) <= set(chosen)
    for label in range(10):
        of_class = [index for index in chosen if records.label[index] == label]
        assert {"right" if records.correct[index] else "not" for index in of_class} == {"right", "not"}
    assert sorted(choose_images([records], 5000)) == list(range(2000))


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_small_pictures_are_exact_and_large_ones_small():
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(256, (1, 28, 28), generator=generator)
    coloured = torch.randint(256, (3, 32, 32), generator=generator)
    for pixels in (grey, coloured):
        uri = data_uri(pixels / 255)
        assert uri is not None
        assert uri.startswith("data:image/png;base64,")
        picture = decoded(uri)
        np.testing.assert_array_equal(picture if picture.ndim == 3 else picture[:, :, None], pixels.permute(1, 2, 0))
    smooth = torch.linspace(0, 1, 224).expand(3, 224, 224)
    uri = data_uri(smooth)
    assert uri is not None
    assert uri.startswith("data:image/jpeg;base64,")
    assert np.abs(decoded(uri) / 255 - smooth.permute(1, 2, 0).numpy()).max() < 0.05
    assert data_uri(torch.zeros(2, 8, 8)) is None


def test_votes_are_those_that_the_certificates_counted(runs):
    """With as many copies as the certificates had, the votes of the selected class are the journal's `count`."""
    images = data.load("digits", None, "test")
    source = gather([runs[0]]).main[0]
    found = recount(source, images, [0, 10, 250], SAMPLES, device="cpu", console=QUIET)
    lines = [line.split("\t") for line in (runs[0] / "certificates" / "hard.tsv").read_text().splitlines()]
    rows = {int(line[0]): dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    assert list(found.votes) == [0, 10, 250]
    for index, votes in found.votes.items():
        assert sum(votes) == SAMPLES
        assert int(rows[index]["count"]) in votes
        if rows[index]["predict"] != "-1":
            assert votes[int(rows[index]["predict"])] == int(rows[index]["count"])
    assert 0.3 < found.clean <= 1


@pytest.mark.parametrize(
    ("chosen", "denoised"),
    [
        ({}, True),
        ({"size": 8}, True),
        ({"precision": "bf16-true", "bf16_form": "folded"}, False),
        ({"mode": "soft", "sound": False}, False),
    ],
)
def test_votes_are_those_of_the_classifier_that_was_certified(runs, tmp_path, chosen, denoised):
    """Of its denoiser, its size and its precision: the journal's counts are among them.

    For soft certificates, whose sum is of scores, they are those of hard ones from the same seed.
    """
    torch.manual_seed(0)
    denoiser = DnCNN(1)
    torch.nn.init.normal_(denoiser.dncnn[-1].weight, std=30)  # changes pixels by 0.2
    torch.save({"state_dict": denoiser.state_dict()}, tmp_path / "dncnn.pth")
    front = find_denoiser(tmp_path / "dncnn.pth") if denoised else None
    few = {"n0": 10, "n": 100, "num_img": 3} if denoised else {"n": SAMPLES, "num_img": 30}
    chosen = few | {"skip": 10, "sigma": 0.25, "seed": 7} | chosen
    for mode in {"hard", chosen.get("mode", "hard")}:
        plan = prepare(find_network(runs[0]), chosen=chosen | {"mode": mode}, denoiser=front)
        certify_images(plan, tmp_path / mode, console=QUIET)
    images, (source,) = data.load("digits", None, "test"), gather([tmp_path / chosen.get("mode", "hard")]).main
    found = recount(source, images, source.records.idx.tolist(), chosen["n"], device="cpu", console=QUIET)
    rows, _ = read_finished_journal(tmp_path / "hard" / "hard.tsv")
    for row in rows:
        assert row.count in found.votes[row.idx]
        assert row.predict in (-1, int(np.argmax(found.votes[row.idx])))
    pixels = torch.stack([images[row.idx][0] for row in rows])
    with torch.inference_mode():
        answers = smoothed_classifier(plan.settings, plan.network, 10, images.shape).logits(pixels).argmax(1)
    assert found.clean == (answers.numpy() == source.records.label).mean()


def test_a_denoiser_that_is_code_is_not_run_for_a_report(runs, tmp_path):
    plan = prepare(
        find_network(runs[0]),
        chosen={"n": SAMPLES, "num_img": 2, "sigma": 0.25},
        denoiser=find_denoiser(torch.nn.Identity()),
    )
    certify_images(plan, tmp_path, console=QUIET)
    page, warnings = report([tmp_path], tmp_path / "report.html", votes=10)
    (warning,) = warnings
    assert "its denoiser 'torch.nn.modules.linear:Identity' is code" in warning
    assert html.escape(warning, quote=False).replace("'", "&#39;") in page


def test_noise_that_this_version_does_not_draw_gives_no_votes(copies):
    (source,) = gather([copies[0]]).main
    other = source.certification | {"noise": SCHEME + 1}
    with pytest.raises(MacerError, match="has the noise of another version, which this one does not draw"):
        recount(
            replace(source, certification=other),
            data.load("digits", None, "test"),
            [0],
            10,
            device="cpu",
            console=QUIET,
        )


def test_fewer_votes_are_the_first_of_them_and_accuracy_without_noise_is_the_networks(runs):
    images = data.load("digits", None, "test")
    source = gather([runs[0]]).main[0]
    few = recount(source, images, [10], 30, device="cpu", console=QUIET)
    many = recount(source, images, [10], 100, device="cpu", console=QUIET)
    assert sum(few.votes[10]) == 30
    assert all(one <= other for one, other in zip(few.votes[10], many.votes[10], strict=True))
    network = find_network(runs[0]).build(10, images.shape)
    with torch.inference_mode():
        right = [
            int(network(images[index][0].unsqueeze(0)).argmax()) == images[index][1] for index in range(0, 500, 10)
        ]
    assert few.clean == sum(right) / 50


def test_a_checkpoint_that_trained_on_is_not_what_was_certified(copies):
    shutil.copy(copies[1] / "checkpoints" / "last.pt", copies[0] / "checkpoints" / "last.pt")
    gallery = build_gallery(gather([copies[0]]).main, root=None, votes=10, device="cpu", console=QUIET)
    (warning,) = gallery.warnings
    assert "is not of this network or data set (digest: " in warning
    assert gallery.clean == {}
    assert gallery.runs[0]["votes"] == {}
    assert gallery.pictures[0]["pictures"]


def test_no_program_is_run_because_a_record_names_it(copies, monkeypatch):
    """A run from elsewhere may hold any file in the place of its checkpoint; a program must not even be opened."""
    file = copies[0] / "checkpoints" / "last.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; its files will be around for long
        torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), str(file))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("a program was opened"))
    images, source = data.load("digits", None, "test"), gather([copies[0]]).main[0]
    with pytest.raises(CheckpointError):
        recount(source, images, [0], 10, device="cpu", console=QUIET)
    safe = file.with_suffix(".safetensors")
    file.rename(safe)
    source = replace(source, certification={**source.certification, "checkpoint": str(safe)})
    with pytest.raises(CheckpointError):
        recount(source, images, [0], 10, device="cpu", console=QUIET)


def test_data_that_is_not_the_certified_is_not_shown(copies):
    (source,) = gather([copies[0]]).main
    other = replace(source, records=replace(source.records, label=(source.records.label + 1) % 10))
    gallery = build_gallery([other], root=None, votes=10, device="cpu", console=QUIET)
    assert gallery.pictures[0]["pictures"] == {}
    assert any("is not the one that was certified" in warning for warning in gallery.warnings)


@pytest.mark.parametrize("hostile", [{"seed": [1]}, {"split": "x"}, {"dataset": "folder"}])
def test_a_hostile_certification_costs_the_pictures_or_votes_and_says_so(copies, hostile):
    (source,) = gather([copies[0]]).main
    other = replace(source, certification=source.certification | hostile)
    gallery = build_gallery([other], root=None, votes=10, device="cpu", console=QUIET)
    assert len(gallery.warnings) == 1
    assert gallery.runs[0]["votes"] == {}


def test_images_that_the_data_set_does_not_have_are_a_warning(copies):
    (source,) = gather([copies[0]]).main
    idx = source.records.idx.copy()
    idx[-1] = 8000
    other = replace(source, records=replace(source.records, idx=idx))
    gallery = build_gallery([other], root=None, votes=10, device="cpu", console=QUIET)
    assert any("8000" in warning for warning in gallery.warnings)
    with pytest.raises(MacerError, match="does not have the images"):
        recount(other, data.load("digits", None, "test"), [0], 10, device="cpu", console=QUIET)


def test_pictures_keep_to_their_budget(runs, monkeypatch):
    from macer.report import gallery as module

    main = gather(runs).main
    whole = build_gallery(main, root=None, votes=0, device="cpu", console=QUIET)
    assert len(whole.pictures) == 1  # both runs are of one data set, and share them
    assert len(whole.pictures[0]["pictures"]) == 50
    monkeypatch.setattr(module, "PICTURE_BYTES", 3000)
    small = build_gallery(main, root=None, votes=0, device="cpu", console=QUIET)
    assert 0 < sum(map(len, small.pictures[0]["pictures"].values())) <= 3000
    monkeypatch.setattr(module, "PICTURES", 7)
    monkeypatch.setattr(module, "PICTURE_BYTES", 10**6)
    assert len(build_gallery(main, root=None, votes=0, device="cpu", console=QUIET).pictures[0]["pictures"]) == 7


# --- published


def tsv(file: Path, rows=20, first=0, step=1, radius=0.5):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{first + step * number}\t{number % 10}\t{number % 10}\t{radius}\t1\t0.1" for number in range(rows)]
    file.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + "\n".join(lines) + "\n")
    return file


@pytest.fixture
def subject(runs, tmp_path):
    """A run that says it is of fashion-mnist and lenet, at sigma 0.25."""
    gathered = gather([runs[0]])
    table = {**gathered.main[0].certification, "network": "lenet", "dataset": "fashion-mnist"}
    changed = [
        replace(source, certification=table, records=replace(source.records, dataset="fashion-mnist"))
        for source in gathered.sources
    ]
    return replace(gathered, sources=changed)


def test_of_a_directory_only_what_fits_by_name_is_shown(subject, tmp_path):
    folder = tmp_path / "published"
    fitting = tsv(folder / "Fashion_MNIST-lenet" / "stability" / "noise_0.25.tsv", rows=500)
    bare = tsv(folder / "lenet" / "fashion-mnist" / "sigma_0.25", rows=500)
    tsv(folder / "mnist-lenet" / "noise_0.25.tsv")
    tsv(folder / "fashion-mnist-lenet" / "noise_0.50.tsv")
    tsv(folder / "fashion-mnist-resnet20" / "noise_0.25.tsv")
    found, warnings = gather_published([folder], subject)
    assert {source.file for source in found} == {fitting, bare}
    assert all(source.published for source in found)
    assert len({source.look for source in found}) == 2
    assert warnings == []


def test_where_nothing_fits_or_is_damaged_the_page_says_so(subject, tmp_path):
    tsv(tmp_path / "one" / "mnist-lenet" / "noise_0.25.tsv")
    found, (warning,) = gather_published([tmp_path / "one"], subject)
    assert found == []
    assert "none of its 1 files" in warning
    assert warning.endswith("a file that is named itself is always shown")
    damaged = tsv(tmp_path / "two" / "fashion-mnist-lenet" / "noise_0.25.tsv")
    damaged.write_text(damaged.read_text().replace("0.5", "nan"))
    found, warnings = gather_published([tmp_path / "two"], subject)
    assert found == []
    assert any(str(damaged) in each and each.startswith("left out: ") for each in warnings)


def test_a_published_file_that_is_incomplete_is_shown_with_a_warning(subject, tmp_path):
    found, (warning,) = gather_published([tsv(tmp_path / "noise_0.25.tsv", rows=427, step=20)], subject)
    assert len(found) == 1
    assert "427 of the 500" in warning


def test_runs_that_do_not_say_their_data_fit_no_published_file(tmp_path):
    run = tsv(tmp_path / "mine" / "noise_0.25.tsv")
    tsv(tmp_path / "published" / "noise_0.25.tsv")
    found, (warning,) = gather_published([tmp_path / "published"], gather([run]))
    assert found == []
    assert "none of its 1 files" in warning
    assert warning.endswith("a file that is named itself is always shown")


def test_a_file_that_is_named_is_shown_whatever_its_name_and_refused_if_damaged(subject, tmp_path):
    found, (warning,) = gather_published([tsv(tmp_path / "results" / "run.tsv", rows=500)], subject)
    assert len(found) == 1
    assert "sigma is not recorded" in warning
    (tmp_path / "bad.tsv").write_bytes(b"\x00\xff")
    for place in (tmp_path / "bad.tsv", tmp_path / "missing"):
        with pytest.raises(MacerError):
            gather_published([place], subject)


def test_published_certificates_are_cut_down_to_the_images_of_the_run(gathered, tmp_path):
    ours = gathered.main[0].records
    labels = dict(zip(ours.idx.tolist(), ours.label.tolist(), strict=True))
    rows = [(index, labels.get(index, 3), 0.1 + index / 1000) for index in range(500)]
    file = tmp_path / "noise_0.25.tsv"
    file.write_text("".join(f"{index}\t{label}\t{label}\t{radius}\t1\t0.1\n" for index, label, radius in rows))
    ((kept,), _) = gather_published([file], gathered)
    np.testing.assert_array_equal(kept.records.idx, ours.idx)
    np.testing.assert_allclose(kept.records.radius, 0.1 + ours.idx / 1000)
    assert kept.records.name.endswith("(same images)")
    whole = replace(gathered.main[0], records=replace(ours, dataset="digits", total=50))
    file.write_text("".join(f"{index}\t{label}\t{label}\t0.1\t1\t0.1\n" for index, label in labels.items()))
    ((same,), _) = gather_published([file], replace(gathered, sources=[whole]))  # all of them, and no others
    assert (same.records.dataset, same.records.images) == ("digits", whole.records.images)
    assert not same.records.name.endswith("(same images)")
    other = [(index, (label + 1) % 10, radius) for index, label, radius in rows]
    file.write_text("".join(f"{index}\t{label}\t{label}\t{radius}\t1\t0.1\n" for index, label, radius in other))
    ((whole,), _) = gather_published([file], gathered)
    assert len(whole.records) == 500


def test_the_published_certificates_beside_the_project(shared, gathered):
    table = {**gathered.main[0].certification, "network": "resnet110", "dataset": "cifar10"}
    source = replace(
        gathered.main[0], certification=table, records=replace(gathered.main[0].records, dataset="cifar10")
    )
    found, warnings = gather_published([shared / "reference" / "certificates"], replace(gathered, sources=[source]))
    assert [f"{each.file.parent.name}/{each.file.name}" for each in found] == [
        "cifar10-cohen-resnet110/noise_0.25.tsv",
        "cifar10-macer-resnet110/noise_0.25.tsv",
    ]
    assert warnings == []


# --- the page


def test_the_page_is_whole_and_refers_to_nothing_outside(runs, tmp_path):
    page, warnings = report(runs, tmp_path / "report.html", votes=20)
    assert warnings == []
    elements = Elements(page)
    for _, attributes in elements.found:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#")[:1] == "#" or attributes[name] == "data:,"
        assert not any(name.startswith("on") for name in attributes)
    (style,) = (text for _, text in elements.of("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements.found} == {"link"}
    headings = "Result|Certified accuracy at every radius|Is the difference real?|The images themselves|Class by class"
    for heading in f"{headings}|Training|Cost|What a certificate means|How to get it again".split("|"):
        assert heading in elements.shown
    meaning = page[page.index('id="meaning"') : page.index('id="made"')]
    assert meaning.count("<li>") == 6
    assert "is less than the radius" in meaning
    assert "macer, cohen: this holds for the network as the computer runs it, in floating-point arithmetic" in meaning
    gathered = gather(runs)
    for source in gathered.main:
        for command in (train_command(source.training), certify_command(source)):  # type: ignore[arg-type]
            assert command is not None
            assert command in elements.shown
        estimate = average_certified_radius(source.records)
        assert f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" in elements.shown
        for radius in parts.page_radii([each.records for each in gathered.sources]):
            assert f"{certified_accuracy(source.records, radius):.3f}" in elements.shown
    assert parts.differences(gathered.main).sentences[0] in elements.shown
    assert "every 10th from 0 to 490 (50 of 500)" in elements.shown


def test_the_policy_allows_these_scripts_and_no_others(runs, tmp_path):
    page, _ = report(runs[:1], tmp_path / "report.html")
    elements = Elements(page)
    (policy,) = (a["content"] for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    scripts = [text for attributes, text in elements.of("script") if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(scripts) == 2
    (allowed,) = re.findall(r"script-src ([^;]*);", policy)
    assert allowed.split() == [f"'sha256-{digest}'" for digest in digests]
    assert policy.startswith("default-src 'none';")


def test_the_same_runs_give_the_same_page(runs, tmp_path):
    one, other = (report(runs, tmp_path / name, votes=10)[0] for name in ("a.html", "b.html"))
    assert one == other


EVIL = "<img src=x onerror=alert(1)>\"'&{{7*7}}"


def test_names_from_files_are_text(copies, tmp_path):
    run = copies[0].rename(tmp_path / EVIL.replace("/", ""))
    metrics = run / "metrics.tsv"
    metrics.write_text(metrics.read_text().replace("classification", "</script><script>alert(1)</script>"))
    settings = run / "certificates" / "settings.toml"
    settings.write_text(settings.read_text().replace("[environment]", "[environment]\nplace = '<b>net</b></script>'"))
    page, warnings = report([run], tmp_path / "report.html", title=EVIL)
    elements = Elements(page)
    assert {"img", "b"} & {tag for tag, _ in elements.found} == set()
    assert len(elements.of("script")) == 3
    assert elements.shown.count(EVIL) >= 4  # title, card, table, heading
    assert "49" not in re.findall(r"\"'&(\d+)", elements.shown)
    assert "<b>net</b></script>" in elements.shown
    assert "</script><script>alert(1)</script>" in elements.shown
    assert embedded(page)["runs"][0]["name"] == EVIL
    assert warnings == []


def test_what_is_unfinished_stands_at_the_top(copies, tmp_path):
    journal = copies[0] / "certificates" / "hard.tsv"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:20]) + lines[20][:9])
    metrics = copies[0] / "metrics.tsv"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:3]))
    page, warnings = report([copies[0]], tmp_path / "report.html")
    assert len(warnings) == 3
    top = page[: page.index('id="result"')]
    for text in ("its last line is unfinished", "19 of 50 images; the certification is not finished", "2 of 3 epochs"):
        assert text in top


def test_certificates_at_one_radius_or_not_at_all_are_left_out(copies, tmp_path):
    asked = tmp_path / "asked"
    certify(copies[0], out=asked, n=SAMPLES, skip=50, spend="sequential", at_least=0.1, progress=False)
    page, warnings = report([copies[1], asked], tmp_path / "report.html")
    assert [run["name"] for run in embedded(page)["runs"]] == ["cohen"]
    assert any("hard.tsv: left out: certified at one radius or not at all" in warning for warning in warnings)
    with pytest.raises(MacerError, match="left out: certified at one radius or not at all"):
        report([asked], tmp_path / "none.html")


def test_every_number_of_every_image_is_in_the_page(runs, tmp_path):
    page, _ = report(runs, tmp_path / "report.html", votes=10)
    for run, path in zip(embedded(page)["runs"], runs, strict=True):
        (records,) = read_records(path / "certificates" / "hard.tsv")
        for name, column in (("idx", records.idx), ("label", records.label), ("predict", records.predict)):
            np.testing.assert_array_equal(run[name], column)
        for shown, proved in ((run["radius"], records.radius), (run["bound"], proved_bounds(records))):
            assert np.all(np.array(shown) <= proved)  # never more than was proved
            np.testing.assert_allclose(shown, proved, atol=1.1e-4)
        assert all(sum(count for _, count in votes) == 10 for votes in run["votes"].values())


def test_files_without_indices_or_settings_make_a_page_too(runs, tmp_path):
    radii = runs[0] / "certificates" / "certificates.mat"
    bare = tmp_path / "440.mat"
    write_mat(bare, read_mat(radii)[0])  # without indices, as the original program writes it
    published = tsv(tmp_path / "x" / "noise_0.25.tsv")
    page, warnings = report([bare, published], tmp_path / "report.html")
    assert len(embedded(page)["runs"]) == 1
    assert any("its data set is not recorded" in warning for warning in warnings)
    assert [warning for warning in warnings if "no images or classes of it are shown" in warning]
    assert "are not compared: the images are not recorded for" in page


def test_a_page_that_is_too_large_has_fewer_pictures(runs, tmp_path, monkeypatch):
    """The numbers stay, and of the pictures those that show the most; a page without any says so."""
    whole, _ = report(runs, tmp_path / "whole.html")
    (pictures,) = (each["pictures"] for each in embedded(whole)["sets"])
    size = (tmp_path / "whole.html").stat().st_size
    monkeypatch.setattr(page_module, "PAGE_BYTES", size - 3000)
    smaller, warnings = report(runs, tmp_path / "smaller.html")
    (kept,) = (each["pictures"] for each in embedded(smaller)["sets"])
    assert (tmp_path / "smaller.html").stat().st_size <= size - 3000
    assert 0 < len(kept) < len(pictures)
    assert list(kept) == list(pictures)[: len(kept)]
    assert f"This page holds {len(kept)} pictures" in smaller
    assert embedded(smaller)["runs"] == embedded(whole)["runs"]
    assert warnings == []
    monkeypatch.setattr(page_module, "PAGE_BYTES", 1000)
    bare, warnings = report(runs, tmp_path / "bare.html")
    assert embedded(bare)["sets"][0]["pictures"] == {}
    assert warnings == ["pictures are left out: the page would be too large with them"]
    assert warnings[0] in Elements(bare).shown


def test_ten_thousand_images_fit(tmp_path):
    """Two networks, all the room that pictures may take, and 8 MB: the journals have as many digits as ours do."""
    draw = np.random.default_rng(0)
    for name in ("one", "two"):
        radius = draw.random(10_000) * 0.95
        rows = (f"{index}\t{index % 10}\t{index * 7 % 10}\t{radius[index]!r}\t{int(index % 10 == index * 7 % 10)}\t1.5"
                for index in range(10_000))  # fmt: skip
        file = tmp_path / name / "noise_0.25.tsv"
        file.parent.mkdir()
        file.write_text("\n".join(rows).replace("np.float64(", "").replace(")", "") + "\n")
    report([tmp_path / "one" / "noise_0.25.tsv", tmp_path / "two" / "noise_0.25.tsv"], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size + PICTURE_BYTES < 8_000_000


# --- the command


def test_the_command_writes_the_page_and_says_where(macer, runs, tmp_path):
    out = tmp_path / "page.html"
    result = macer("report", *runs, "--out", out, "--votes", 0, "--title", "Two runs")
    assert result.code == 0, result
    assert str(out) in result.out
    assert "<title>Two runs</title>" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda folder: folder.mkdir(), []),
        (lambda folder: folder.write_bytes(b"\x00\x93\xff"), []),
        (lambda folder: folder.write_text(""), []),
        (lambda folder: folder.write_text("0\t1\t1\tnan\t1\t0.1\n"), []),
        (lambda folder: folder.write_text("0\t1\t1\t0.1\t1\t0.1\n"), ["--votes", "-1"]),
        (lambda folder: folder.write_text("0\t1\t1\t0.1\t1\t0.1\n"), ["--out", "page.tsv"]),
        (lambda folder: folder.write_text("0\t1\t1\t0.1\t1\t0.1\n"), ["--out", "none/page.html"]),
        (lambda folder: folder.write_text("0\t1\t1\t0.1\t1\t0.1\n"), ["--published", "nowhere"]),
    ],
)
def test_what_cannot_be_shown_is_one_line(macer, tmp_path, monkeypatch, write, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.tsv")
    macer.refuses("report", tmp_path / "x.tsv", "--out", "page.html", *words)
    assert not list(tmp_path.glob("*.html"))


def test_every_dash_has_its_svg():
    assert all(re.fullmatch(r"none|[\d ]+", dashes) for dashes in DASHES.values())
