"""Pictures: the curve is certified accuracy exactly, and the files are the same each time."""

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from macer.errors import SettingsError
from macer.objectives import OBJECTIVES
from macer.report.looks import run_looks
from macer.results import Records, certified_accuracy, certified_accuracy_interval, read_records
from macer.results.plots import radius_accuracy_figure, save_figure
from macer.results.records import METHODS
from macer.smoothing.radius import largest_radius


def make(radius, correct, name: Any = "macer", **facts):
    radius, correct = np.array(radius, dtype=np.float64), np.array(correct, dtype=bool)
    return Records(run=name, idx=np.arange(len(radius)), radius=radius, correct=correct, **facts)


def value_at(line, radius):
    """The height of a drawn curve: matplotlib's steps-pre hold y[i] from just after x[i - 1] up to x[i]."""
    assert line.get_drawstyle() == "steps-pre"
    x, y = line.get_data()
    return y[np.searchsorted(x, radius, side="left")]


ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75]) | st.floats(0, 4), st.booleans()), min_size=1, max_size=20
)


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS)
def test_the_curve_is_certified_accuracy_at_every_radius(first, second):
    all_records = [make(*zip(*rows, strict=True)) for rows in (first, second)]
    axes = radius_accuracy_figure(all_records).axes[0]
    for records, line in zip(all_records, axes.lines, strict=True):
        edges = [radius for radius in records.radius if radius <= axes.get_xlim()[1]]
        beside = [min(np.nextafter(radius, 9), axes.get_xlim()[1]) for radius in edges]
        for radius in [0.0, *edges, *beside, axes.get_xlim()[1]]:
            assert value_at(line, radius) == certified_accuracy(records, radius)


def test_bands_are_wilson_intervals():
    records = make([0.2, 0.4, 0.4, 0.9], [True, True, True, False])
    axes = radius_accuracy_figure([records]).axes[0]
    corners = np.asarray(axes.collections[0].get_paths()[0].vertices)
    for radius in (0.0, 0.2, 0.4):
        estimate = certified_accuracy_interval(records, radius)
        drawn = corners[np.isclose(corners[:, 0], radius), 1]
        assert np.isclose(drawn[:, None], [estimate.low, estimate.high]).any(axis=0).all()


def test_curves_are_told_apart_without_colour_and_never_look_the_same():
    axes = radius_accuracy_figure([make([0.5], [True], f"run {number}") for number in range(12)]).axes[0]
    styles = [str(line._dash_pattern) for line in axes.lines]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(set(styles[:6])) == 6
    assert len(set(zip(styles, [line.get_color() for line in axes.lines], strict=True))) == 12


@pytest.mark.parametrize("name", ["_hidden", r"$\frac$", "100% $x", "<b>&", "x" * 150])
def test_names_and_titles_are_text(name, tmp_path):
    figure = radius_accuracy_figure([make([0.5], [True], name), make([0.2], [True])], title=r"50$\frac")
    (legend,) = figure.legends
    assert name in legend.get_texts()[0].get_text()
    save_figure(figure, [tmp_path / "a.png"])  # drawing is where mathematics would be parsed
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_files_are_written_and_the_same_each_time(tmp_path):
    for name in ("a", "b"):
        figure = radius_accuracy_figure([make([0.1, 0.5, 0.9], [True, True, False])], "title")
        save_figure(figure, [tmp_path / f"{name}.{suffix}" for suffix in ("png", "svg", "pdf")])
    for suffix in ("png", "svg", "pdf"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as picture:
        assert picture.size[0] > 900
        assert len(set(picture.convert("L").tobytes())) > 20  # something is drawn
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.svg.docx", "a.pgf", "a.jpg"])
def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(SettingsError, match=r"\.png, \.svg or \.pdf"):
        save_figure(radius_accuracy_figure([make([0.5], [True])]), [tmp_path / "a.png", tmp_path / name])


def test_published_files_in_one_picture(shared):
    """A panel a sigma; the legend lies below the panels, inside the picture, and covers nothing."""
    files = sorted((shared / "reference" / "certificates").glob("cifar10-*/*.tsv"))
    figure = radius_accuracy_figure([records for file in files for records in read_records(file)], "CIFAR-10")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    for axes in figure.axes:
        place = axes.get_tightbbox()
        assert place is not None
        assert box.y1 <= place.y0
    assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert [axes.get_title() for axes in figure.axes] == [f"σ = {sigma}" for sigma in ("0.12", "0.25", "0.5", "1")]
    styles = [[line.get_linestyle() for line in axes.lines] for axes in figure.axes]
    assert styles == [["--"], ["--", "-"], ["--", "-"], ["--", "-"]]  # Cohen dashed, MACER solid
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == 4 * 3  # a column a panel: its title, and two curves or a gap
    assert sum("ACR" in text for text in texts) == sum("(σ by file name)" in text for text in texts) == 7
    assert "cifar10-macer-resnet110/noise_1.0 (σ by file name)\n ACR 0.760; images: 0 to 9999 (10,000)" in texts[-1]


def look(line):
    dashes = str(line._unscaled_dash_pattern)  # get_linestyle() is "--" for all dashes of one's own
    return line.get_linestyle(), line.get_color(), dashes


def test_methods_look_the_same_in_every_panel_and_nothing_else_looks_like_them():
    given = [
        ("smoothadv", 1.0),
        ("macer", 1.0),
        ("macer", 0.25),
        ("macer", 0.25),
        ("cohen", 0.25),
        (None, 0.25),
        ("mine", None),
    ]
    all_records = [
        make([number / 10], [True], str(number), method=method, sigma=sigma)
        for number, (method, sigma) in enumerate(given)
    ]
    figure = radius_accuracy_figure(all_records)
    assert [axes.get_title() for axes in figure.axes] == ["σ = 0.25", "σ = 1", "σ not recorded"]
    first, second, third = figure.axes
    names = [text.get_text().strip().split("\n")[0] for text in figure.legends[0].get_texts()]
    assert names == ["σ = 0.25", "4", "2", "3", "5", "σ = 1", "0", "1", "", "", "σ not recorded", "6", "", "", ""]
    cohen, macer, again, unknown = map(look, first.lines)
    assert (macer[0], cohen[0], look(second.lines[0])[0]) == ("-", "--", ":")
    assert look(second.lines[1]) == macer
    assert len({macer, cohen, look(second.lines[0]), again, unknown}) == 5
    assert look(third.lines[0]) not in (macer, cohen, again, unknown, look(second.lines[0]))  # another thing
    for axes, places in zip(figure.axes, ([4, 2, 3, 5], [0, 1], [6]), strict=True):
        assert axes.get_xlim()[1] == pytest.approx(max(places) / 10 * 1.03)
        for line, place in zip(axes.lines, places, strict=True):
            assert value_at(line, place / 10) == 1.0


def test_every_method_has_a_usual_name_and_a_look_of_its_own():
    classify = {name: method for name, method in OBJECTIVES.items() if not method.denoises}
    beside = {f"{name}+consistency" for name, method in classify.items() if hasattr(method, "consistency")}
    assert set(METHODS) == {*classify, *beside, "denoised"}
    assert len(set(METHODS.values())) == len(METHODS)
    figure = radius_accuracy_figure([make([0.5], [True], method, method=method) for method in METHODS])
    assert len({look(line) for line in figure.axes[0].lines}) == len(METHODS)
    assert len(set(run_looks([(method, method) for method in METHODS]))) == len(METHODS)
    for method in classify | dict.fromkeys(beside):  # what is no method of its own takes what is left
        alone = radius_accuracy_figure([make([0.5], [True], "a", method=method)])
        assert look(alone.axes[0].lines[0]) == look(figure.axes[0].lines[list(METHODS).index(method)])


def test_long_names_in_panels_do_not_meet(tmp_path):
    all_records = [make([0.5], [True], "x" * 150, sigma=sigma) for sigma in (0.25, 0.5, 1.0)]
    figure = radius_accuracy_figure(all_records, "title")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.legends[0].get_texts() if "x" in text.get_text()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    save_figure(figure, [tmp_path / "a.png"])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 3 * 1200  # nothing is cut off


def test_pdfs_have_truetype_fonts_from_the_command_and_from_a_notebook(tmp_path):
    figure = radius_accuracy_figure([make([0.5], [True])])
    save_figure(figure, [tmp_path / "a.pdf"])
    figure.savefig(tmp_path / "b.pdf")
    for name in ("a.pdf", "b.pdf"):
        content = (tmp_path / name).read_bytes()
        assert b"/FontFile2" in content  # TrueType; type 3 fonts have /CharProcs
        assert b"/CharProcs" not in content


@pytest.mark.parametrize("known", [True, False])
def test_no_band_goes_beyond_the_largest_possible_radius(known):
    limit = largest_radius(0.25, 1000, 0.001)
    facts = {"sigma": 0.25, "n": 1000, "alpha": 0.001} if known else {"sigma": 0.25}
    weak, strong = make([0.1, 0.2, 0.3], [True] * 3, **facts), make([limit] * 3, [True] * 3, "strong", **facts)
    axes = radius_accuracy_figure([weak, strong]).axes[0]
    assert axes.get_xlim()[1] == pytest.approx(limit * 1.03)
    ends = [np.asarray(band.get_paths()[0].vertices)[:, 0].max() for band in axes.collections]
    assert ends == pytest.approx([limit if known else 0.3, limit])
    beyond = certified_accuracy_interval(weak, limit * 1.01)
    assert (beyond.high == 0) == known
    assert certified_accuracy_interval(weak, limit).high > 0


def test_nothing_is_drawn_beyond_the_radius_at_which_images_were_certified_or_not_at_all():
    facts = {"sigma": 0.25, "n": 1000, "alpha": 0.001}
    asked = make([0.2, 0.2, 0.0], [True, True, False], at_least=0.2, **facts)
    axes = radius_accuracy_figure([asked, make([0.6] * 3, [True] * 3, "strong", **facts)]).axes[0]
    assert axes.lines[0].get_data()[0][-1] == 0.2
    assert np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 0].max() == 0.2


def test_one_method_looks_the_same_at_every_sigma_and_is_named_once():
    """Names that differ in sigma only, as published files have them, whatever stands beside them in a panel."""
    given = [
        ("x/noise_0.25", 0.25),
        ("y/noise_0.25", 0.25),
        ("y/noise_0.5", 0.5),
        ("x/noise_0.50", 0.5),
        ("y/noise_1.0", 1.0),
    ]
    all_records = [make([sigma], [True], name, sigma=sigma) for name, sigma in given]
    figure = radius_accuracy_figure(all_records, short_legend=True)
    (x, y), (y_half, x_half), (y_one,) = ([look(line) for line in axes.lines] for axes in figure.axes)
    assert x == x_half != y == y_half == y_one
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" x/noise", " y/noise"]


def test_labels_stand_for_names_and_width_is_kept(tmp_path):
    all_records = [make([sigma], [True], f"a_very_long_name/{sigma}", sigma=sigma) for sigma in (0.25, 0.5)]
    labels = ["ours", "ours"]
    figure = radius_accuracy_figure(all_records, labels=labels, width=3.3, short_legend=True)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" ours"]
    save_figure(figure, [tmp_path / "a.png"], exact=True)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == round(3.3 * 160)
    whole = radius_accuracy_figure(all_records, labels=labels)
    assert sum(text.get_text().startswith(" ours\n ACR") for text in whole.legends[0].get_texts()) == 2
    for wrong in ({"labels": ["ours"]}, {"width": 0.0}, {"width": float("nan")}):
        with pytest.raises(SettingsError, match=r"1 labels for 2 curves|inches from 1 to 100"):
            radius_accuracy_figure(all_records, **wrong)
