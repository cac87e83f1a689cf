"""Comparing runs image by image: against literal loops, and what is refused, with which reason."""

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from macer.errors import RecordsError, SettingsError
from macer.results import Records, average_certified_radius, certified_accuracy
from macer.results.compare import FACTS, comparable, compare, comparison_table, read_comparable
from macer.results.metrics import paired_accuracy_difference, paired_difference
from macer.results.plots import radius_accuracy_figure, save_figure
from macer.results.records import distinct
from macer.results.tables import of_same_images, results_table, to_csv
from macer.runs.certificates import SHARED_COLUMNS

pytest_plugins = ["command"]

NOT_ALONE = "the difference is not that of the networks alone"


def make(name, radii: Any, idx: Any = None, **facts):
    """Records of radii by image; a negative radius is a wrong answer."""
    radius = np.array(radii, dtype=np.float64)
    idx = np.arange(len(radius), dtype=np.int64) if idx is None else np.array(idx, dtype=np.int64)
    known = {"sigma": 0.25, "n": 1000, "alpha": 0.001, "dataset": "mnist", "total": 10_000, "label": idx % 7, **facts}
    return Records(run=name, idx=idx, radius=np.maximum(radius, 0.0), correct=radius >= 0, **known)


def spread(name, shift=0.0, images=200, seed=0, **facts):
    hardness = np.random.default_rng(1).uniform(0, 0.5, images)
    return make(name, hardness + shift + np.random.default_rng(seed).normal(0, 0.01, images), **facts)


BY_IMAGE = st.dictionaries(st.integers(0, 30), st.floats(0, 2) | st.just(-1.0), min_size=1, max_size=20)


@settings(max_examples=30)  # each resamples 2000 times
@given(BY_IMAGE, BY_IMAGE)
def test_the_difference_is_that_of_a_loop_over_the_images_that_both_have(one, other):
    first, second = (
        make(name, [each[i] for i in sorted(each)], sorted(each)) for name, each in (("a", one), ("b", other))
    )
    common = sorted(one.keys() & other.keys())
    if not common:
        with pytest.raises(RecordsError, match="no image is in all of them"):
            compare(first, second, despite=["images"])
        return
    comparison = compare(first, second, despite=["images"])
    total = 0.0
    for image in common:
        total += max(one[image], 0.0) - max(other[image], 0.0)
    assert comparison.difference.value == pytest.approx(total / len(common), abs=1e-12)
    assert comparison.difference.low <= comparison.difference.high
    assert np.array_equal(comparison.first.idx, common)
    assert np.array_equal(comparison.second.idx, common)
    assert np.array_equal(comparison.second.label, np.array(common) % 7)


def test_the_interval_is_the_paired_one():
    """What makes an image hard for both does not widen it: the two ACRs' own intervals overlap, the paired is clear."""
    first, second = spread("macer", 0.03), spread("cohen", seed=2)
    comparison = compare(first, second)
    assert comparison.difference == paired_difference(first, second)
    assert average_certified_radius(first).low < average_certified_radius(second).high
    assert 0.027 < comparison.difference.low < 0.03 < comparison.difference.high < 0.033
    assert str(comparison).startswith("macer's ACR is significantly larger than cohen's by 0.03")
    assert str(compare(second, first)).startswith("cohen's ACR is significantly smaller than macer's by 0.03")
    assert str(compare(first, first)).startswith("No difference in ACR between macer and macer on any image")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sigma": 0.5}, "sigma is 0.25 for a, 0.5 for b; despite sigma they can be compared, on 4 images"),
        ({"n": 10}, "n is 1000 for a, 10 for b"),
        ({"alpha": 0.01}, "alpha is 0.001 for a, 0.01 for b"),
        ({"n": None}, "n is not recorded for b"),
        ({"n": None, "alpha": None}, "despite n,alpha they can be compared"),
        ({"idx": [0, 1, 2, 5], "label": None}, "the images are 0 to 3 (4 of 10,000) for a"),
        ({"idx": [0, 1, 2, 5], "label": None, "n": 10}, "despite images,n they can be compared, on 3 images"),
    ],
)
def test_what_differs_is_refused_unless_it_may(change, says):
    first = make("a", [0.1, 0.2, 0.3, 0.4])
    second = replace(
        first, run="b", **{key: np.array(value) if key == "idx" else value for key, value in change.items()}
    )
    with pytest.raises(RecordsError) as caught:
        compare(first, second)
    text = str(caught.value)
    assert text.startswith("a and b cannot be compared: ")
    assert says in text
    told = text.rsplit("despite ", 1)[1].split(" they can be compared")[0].split(",")
    for fact in told:  # none of them may be left out
        with pytest.raises(RecordsError, match="cannot be compared"):
            compare(first, second, despite=set(FACTS) - {fact})
    comparison = compare(first, second, despite=told)
    assert len(comparison.first) == (3 if "images" in told else 4)
    assert [note.split()[2] for note in comparison.notes] == [fact for fact in told if fact != "images"]
    assert all(note in str(comparison) for note in comparison.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "cifar10"}, "the data set is mnist for a, cifar10 for b"),
        ({"label": np.array([0, 1, 2, 4])}, "different labels"),
        ({"image": np.array(["0", "1", "2", "4"])}, "the images of the same indices are other ones"),
        ({"idx": None}, "the images are not recorded for b"),
        ({"idx": np.array([4, 5, 6, 7])}, "no image is in all of them"),
    ],
)
def test_other_images_are_never_compared(change, says):
    first = make("a", [0.1, 0.2, 0.3, 0.4], image=np.array(["0", "1", "2", "3"]))
    for despite in ((), FACTS):
        for function in (compare, lambda *both, **options: comparable(both, **options)):
            with pytest.raises(RecordsError, match=says) as caught:
                function(first, replace(first, run="b", **change), despite=despite)
            assert "is possible" not in str(caught.value)


@pytest.mark.parametrize("share", [None, 0.2])
def test_radii_whose_sampling_stopped_early_are_compared_with_others_only_if_told(share):
    first, second = spread("first", 0.1, within=0.1), spread("second", within=share)
    with pytest.raises(RecordsError, match=r"sampling stopped by other rules for first \(radii known to within 0.1\)"):
        compare(first, second)
    assert any("other rules" in note for note in compare(first, second, despite=["n"]).notes)
    assert "significantly larger" in compare(first, replace(second, within=0.1)).sentence
    assert not results_table([first, second]).best
    assert results_table([first, replace(second, within=0.1)]).best


def test_a_comparison_has_the_notes_of_both_once():
    first, second = make("a", [0.1, 0.2], notes=("a: to within 0.1",)), make("b", [0.2, 0.2], notes=("b: carried\x1b",))
    for pair in ((first, second), (second, first)):
        for notes in (compare(*pair).notes, comparison_table(pair).notes):
            assert [note for note in notes if note[:2] in ("a:", "b:")].count("a: to within 0.1") == 1
            assert sum(note.startswith("b: carried") and note.isprintable() for note in notes) == 1
        assert "a: to within 0.1" in str(compare(*pair))


def test_a_difference_that_is_not_of_the_first_column_says_of_which():
    """Columns go by sigma, where that differs."""
    first, second = spread("first", 0.1, sigma=0.5), spread("second")
    table = comparison_table([first, second], [0.25], despite=["sigma"])
    assert table.header == ("", "second", "first", "difference from second [95%]")
    cells = {row[0]: row[1:] for row in table.rows}
    assert float(cells["0.25"][0]) < float(cells["0.25"][1])
    assert cells["0.25"][2].startswith("+")


def test_training_and_test_images_are_never_compared():
    one, other = spread("one", split="train"), spread("other", split="test")
    with pytest.raises(RecordsError, match="the split is train for one, test for other"):
        compare(one, other, despite=FACTS)
    compare(one, spread("published"))  # it does not say


@pytest.mark.parametrize(("images", "says"), [(1, False), (5, False), (6, True)])
def test_no_difference_is_significant_on_fewer_than_six_images(images, says):
    """By chance alone, five differ to one side in one case of 16, which is not 95%."""
    first, second = make("first", 0.1 + 0.1 * np.arange(images)), make("second", 0.05 * np.arange(images))
    comparison = compare(first, second)
    assert ("is significantly larger" in comparison.sentence) is says
    assert comparison.sentence.startswith("No significant difference") is not says
    cell = {row[0]: row[3] for row in comparison_table([first, second]).rows}["ACR [95%]"]
    assert cell.startswith(f"+{comparison.difference.value:.3f}")
    assert ("[" in cell) is says


def test_only_what_is_known_may_differ():
    first = make("a", [0.1])
    with pytest.raises(SettingsError, match="despite images, sigma, n, alpha, not despite 'seed'"):
        compare(first, first, despite=["n", "seed"])


def test_several_are_compared_on_the_images_that_all_have():
    first, second, third = make("a", range(10)), make("b", range(8)), make("c", range(8), range(2, 10))
    for records in comparable([first, second, third], despite=["images"]):
        assert np.array_equal(records.idx, range(2, 8))
    with pytest.raises(RecordsError, match="a and c cannot be compared"):
        comparable([first, replace(first, run="b"), third])


def test_of_several_those_that_differ_are_named():
    first, alike, other, data = (
        make("a", [1.0]),
        make("b", [1.0]),
        make("c", [1.0], n=10),
        make("d", [1.0], dataset="x"),
    )
    few = "despite n they can be compared, on 1 images"
    for others, names, reason in (
        ([alike, other], "c", f"n is 1000 for a, 10 for c; {few}"),
        ([other, alike, data], "c and d", f"n is 1000 for a, 10 for c; {few}"),
        ([data, alike], "d", "the data set is mnist for a, x for d"),
    ):
        with pytest.raises(RecordsError) as caught:
            comparable([first, *others])
        who = others[0] if others[0] is not alike else others[1]
        rest = f"; without {names} the others can be compared"
        assert str(caught.value) == f"a and {who.name} cannot be compared: {reason}{rest}"
    asked = [make("f", [1.0], at_least=0.5), make("g", [1.0], at_least=0.25)]
    with pytest.raises(RecordsError, match=r"certified at radius 0\.5 or not for f, 0\.25 for g$"):
        comparable(asked, despite=FACTS)
    with pytest.raises(RecordsError, match="a and e cannot be compared: no image is in all of them"):
        comparable([first, alike, make("e", [1.0], [5])], despite=FACTS)


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({}, {}, None),
        ({"bound": "betting", "kind": "soft"}, {"bound": "betting", "kind": "soft"}, None),
        ({}, {"bound": "two-class"}, "hard for a, hard (two-class) for b"),
        ({}, {"kind": "soft"}, "hard for a, soft for b soft"),
        ({"kind": "soft", "bound": "betting"}, {"kind": "soft"}, "soft (betting) for a soft, soft for b soft"),
        (
            {"kind": "soft", "bound": "betting", "beta": 2.0},
            {"kind": "soft", "beta": 16.0},
            "soft (betting, beta 2) for a soft, soft (beta 16) for b soft",
        ),
        ({"precision": "bf16-true"}, {}, "hard (bf16-true) for a, hard for b"),
    ],
)
def test_certificates_of_other_kinds_or_bounds_are_not_compared_without_a_word(one, other, says):
    notes = compare(make("a", [0.1, 0.2], **one), make("b", [0.1, 0.3], **other)).notes
    assert notes == (() if says is None else (f"certificates are {says}: {NOT_ALONE}",))


def test_images_that_are_known_by_their_indices_alone_are_said_to_be():
    first, nothing = make("a", [0.1, 0.2]), {"dataset": None, "label": None}
    (note,) = compare(first, make("b", [0.1, 0.3], **nothing)).notes
    assert note == "the images are taken for the same by their indices: b does not say of which data set"
    assert compare(first, make("b", [0.1, 0.3], dataset=None)).notes == ()  # by their labels
    assert compare(first, make("b", [0.1, 0.3], label=None)).notes == ()  # by the data set


def test_images_that_are_the_same_by_their_digests_may_be_of_data_sets_of_other_names():
    digests = np.array(["ab", "cd"])
    first, second, other = (
        make(name, [0.1, 0.3], dataset=f"own-{name}", image=image)
        for name, image in (("a", digests), ("b", digests), ("c", digests[::-1]))
    )
    compare(first, second)
    assert of_same_images([first, second])
    assert not of_same_images([first, other])
    with pytest.raises(RecordsError, match="the images of the same indices are other ones, by their digests"):
        compare(first, other)


def test_the_table_holds_both_and_their_differences():
    first, second = spread("macer", 0.05, n=10), replace(spread("cohen", images=150), label=None)
    radii = [0.0, 0.25, 0.5]
    with pytest.raises(RecordsError, match="despite images,n"):
        comparison_table([first, second], radii)
    table = comparison_table([first, second], radii, despite=["images", "n"])
    assert table.header == ("", "macer", "cohen", "difference [95%]")
    one, other = comparable([first, second], despite=["images", "n"])
    assert len(one) == len(other) == 150
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["n", "0.00", "0.25", "0.50", "ACR [95%]", "abstained", "seconds"]
    assert rows["n"] == ("10", "1,000", "")
    for radius in radii:
        difference = paired_accuracy_difference(one, other, radius, despite=FACTS)
        cell = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        shares = (f"{certified_accuracy(records, radius):.3f}" for records in (one, other))
        assert rows[f"{radius:.2f}"] == (*shares, cell)
    difference = paired_difference(one, other, despite=FACTS)
    assert rows["ACR [95%]"][2] == f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    assert dict(table.shared)["images"] == "0 to 149 (150 of 10,000)"
    assert table.notes[0] == compare(one, other, despite=FACTS).sentence
    assert "over the choice of these 150 images" in table.notes[0]
    assert "compared although n is 10 for macer, 1000 for cohen" in table.notes
    assert any("not comparable across n" in note for note in table.notes)
    assert not table.best


def test_a_file_that_does_not_say_its_data_set_is_of_that_whose_labels_it_has():
    first, second = spread("macer", 0.05), replace(spread("cohen"), dataset=None, total=None)
    first = replace(first, dataset="digits")
    table = comparison_table([first, second], [0.0])
    assert dict(table.shared)["data"] == "digits"
    assert len(table.notes) == 1
    assert table.best
    _, silent = comparable([replace(first, label=None), second])
    assert silent.dataset is None  # the indices alone say nothing


def test_the_best_is_marked_where_the_table_of_results_marks_it():
    records = [spread("macer", 0.05), spread("cohen")]
    wide = results_table(records, [0.0, 0.25])
    table = comparison_table(records, [0.0, 0.25])
    assert {table.rows[row][column] for row, column in table.best} == {
        wide.rows[row][column] for row, column in wide.best
    }
    assert table.best


def test_with_several_others_each_has_its_difference():
    """Rows of other sigma are ordered by it in a table of results; the differences stay with their columns."""
    records = [spread("a", 0.1, sigma=1.0), spread("b", sigma=0.5), spread("c", 0.2, sigma=0.25)]
    table = comparison_table(records, [0.0], despite=["sigma"])
    assert table.header == ("", "c", "b", "a", "difference from b [95%]", "difference from c [95%]")
    acr = dict(zip(table.header[1:], next(row[1:] for row in table.rows if row[0] == "ACR [95%]"), strict=True))
    for other in ("b", "c"):
        value = float(acr["a"].split()[0]) - float(acr[other].split()[0])
        assert float(acr[f"difference from {other} [95%]"].split()[0]) == pytest.approx(value, abs=0.0011)


def write_run(directory, radii=(0.1, 0.2, 0.3), kinds=("hard",), **settings):
    certificates = directory / "certificates"
    certificates.mkdir(parents=True)
    rows = "".join(f"{idx}\t3\t3\t{radius}\t1\t1.0\n" for idx, radius in enumerate(radii))
    for kind in kinds:
        (certificates / f"{kind}.tsv").write_text("\t".join(SHARED_COLUMNS) + "\n" + rows)
    facts = {"sigma": 0.25, "n": 1000, "alpha": 0.001, "total": 3, "num_img": 3, "dataset": "digits"}
    (certificates / "settings.toml").write_text(tomli_w.dumps({"certification": facts | settings}))
    return directory


def publish(folder, *names, radii=(0.1, 0.2, 0.3)):
    folder.mkdir(parents=True)
    for name in names:
        rows = "".join(f"{idx}\t3\t3\t{radius}\t1\t0:00:01.5\n" for idx, radius in enumerate(radii))
        (folder / f"{name}.tsv").write_text(f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n{rows}")
    return folder


def test_which_certificates_of_a_path_are_compared(tmp_path):
    run = write_run(tmp_path / "x" / "macer", kinds=("hard", "soft"))
    other = write_run(tmp_path / "y" / "macer", kinds=("hard", "soft"))
    folder = publish(tmp_path / "cohen", "noise_0.12", "noise_0.25", "noise_0.50")
    found, notes = read_comparable(run, [other, folder], n=500, alpha=0.01)
    assert [records.name for records in found] == ["x/macer", "y/macer", "cohen/noise_0.25"]
    assert [(records.n, records.alpha) for records in found] == [(1000, 0.001), (1000, 0.001), (500, 0.01)]
    assert notes == ("left out, of another sigma or of none recorded: cohen/noise_0.12, cohen/noise_0.50",)
    found, notes = read_comparable(run / "certificates", [folder / "noise_0.50.tsv"])
    assert [records.name for records in found] == ["macer", "cohen/noise_0.50"]
    assert notes == ()
    with pytest.raises(RecordsError, match=r"holds several certificates \(cohen/noise_0.12, .*\): name one"):
        read_comparable(folder, [run])


def test_a_comparison_gives_its_numbers_as_a_frame():
    comparison = compare(make("a", [0.1, 0.2, 0.3] * 2), make("b", [0.0, 0.1, 0.1] * 2))
    frame = comparison.frame([0.1, 0.25])
    assert frame["metric"].tolist() == ["ACR", "certified accuracy", "certified accuracy"]
    assert frame["radius"].tolist()[1:] == [0.1, 0.25]
    numbers = frame[["first", "second", "difference"]].to_numpy().round(6)
    assert numbers.tolist() == [[0.2, 0.066667, 0.133333], [1.0, 0.666667, 0.333333], [0.333333, 0.0, 0.333333]]
    assert (frame["low"][0], frame["high"][0]) == (comparison.difference.low, comparison.difference.high)


def test_names_are_told_apart():
    records = [make(name, [0.1]) for name in ("a", "b", "a", "a")]
    assert [each.name for each in distinct(records)] == ["a", "b", "a (2)", "a (3)"]


def test_the_command(macer, tmp_path):
    radii, fewer, facts = (0.1, 0.2, 0.3) * 2, (0.0, 0.1, 0.1) * 2, {"total": 6, "num_img": 6}
    run, other = write_run(tmp_path / "macer", radii, **facts), write_run(tmp_path / "cohen", fewer, **facts)
    folder = publish(tmp_path / "published", "noise_0.25", "noise_0.50", radii=(0.1, 0.1))
    assert "macer's ACR is significantly larger than cohen's by 0.1" in macer("compare", run, "--with", other).out
    out = tmp_path / "table.tex"
    assert macer("compare", run, other, "--format", "latex", "--out", out).out == ""
    assert "macer's ACR is significantly larger than cohen's by 0.1" in out.read_text()
    result = macer("compare", run, "--with", other, "--format", "csv", "--radii", "0,0.2")
    assert result.code == 0
    assert result.err.startswith("warning: macer's ACR is significantly larger than cohen's by 0.1")
    header, *rows = csv.reader(io.StringIO(result.out))
    names = ("macer", "cohen", "difference")
    assert header[:10] == ["", *(f"{name}{end}" for name in names for end in ("", " low", " high"))]
    assert [(row[1], row[4]) for row in rows[:2]] == [("1.000", "1.000"), ("0.667", "0.000")]

    said = macer.refuses("compare", run, "--with", folder)
    assert "the images are all 6 for macer" in said
    assert "n is not recorded for published/noise_0.25" in said
    assert "despite images,n,alpha they can be compared, on 2 images" in said
    result = macer("compare", run, "--with", folder, other, "--despite", "images, n", "--alpha", 0.001)
    assert result.code == 0
    assert result.err == "warning: left out, of another sigma or of none recorded: published/noise_0.50\n"
    assert "difference from published/noise_0.25" in result.out
    assert "difference from cohen" in result.out
    said = macer.refuses("compare", run, "--with", folder, "--n", 2, "--alpha", 0.001)
    assert "impossible" in said
    assert "its n or alpha was another: give that, for example alpha 0.01" in said
    assert "what to compare" in macer.refuses("compare", run)
    assert "not despite 'seed'" in macer.refuses("compare", run, "--with", other, "--despite", "seed")
    assert "no such file" in macer.refuses("compare", run, "--with", tmp_path / "missing")


def test_published_files_are_compared_on_what_they_share(shared):
    """Cohen's network and MACER's at sigma 1.00: 500 images in common, counted from the files by awk."""
    folder = shared / "reference" / "certificates"
    found, notes = read_comparable(
        folder / "cifar10-macer-resnet110" / "noise_1.0.tsv",
        [folder / "cifar10-cohen-resnet110" / "noise_1.00.tsv"],
        n=100_000,
        alpha=0.001,
    )
    assert notes == ()
    comparison = compare(*found, despite=["images"])
    assert len(comparison.first) == 500
    assert comparison.difference.value == pytest.approx(0.82929 - 0.54166, abs=1.2e-5)
    assert "cifar10-cohen-resnet110/noise_1.00's by 0.29 [0.2" in str(comparison)
    with pytest.raises(RecordsError, match=r"sigma 0\.25, n 100,000 and alpha 0\.001"):
        read_comparable(folder / "cifar10-cohen-resnet110" / "noise_0.25.tsv", [], n=100_000, alpha=0.001)


def test_no_command_drops_a_warning(macer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = publish(tmp_path / "cut", "noise_0.25", radii=[0.1, *[0.1, 0.2] * 213]) / "noise_0.25.tsv"
    note = f"{file}: 427 of the 500 images 0, 1, ..., 499 that a split of 500 has: the file seems to be incomplete"
    other = publish(tmp_path / "whole", "noise_0.25", radii=[0.1] * 500) / "noise_0.25.tsv"
    assert note in macer("table", file).out
    assert note in macer("compare", file, other, "--despite", "images,n,alpha").out
    for command in (("table", file, "--format", "csv"), ("plot", file, "--out", "a.svg"), ("export", file, "a.json")):
        result = macer(*command)
        assert (result.code, result.err) == (0, f"warning: {note}\n")


def test_times_leave_out_what_is_no_run(macer, tmp_path):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "settings.toml").write_text("[training]\nepochs = 1\n")
    (run / "metrics.tsv").write_text("epoch\tseconds\n1\t3.5\n")
    (tmp_path / "runs" / "accuracy.png").touch()
    (tmp_path / "runs" / "notes").mkdir()
    paths = sorted((tmp_path / "runs").iterdir())
    result = macer("times", *paths, "--format", "csv")
    assert result.code == 0
    assert result.out == macer("times", run, "--format", "csv").out
    assert result.err == "".join(
        f"warning: left out, not the directory of a training run: {path}\n" for path in paths if path != run
    )
    assert "not the directory of a training run" in macer.refuses("times", tmp_path / "runs" / "notes")


def test_a_write_that_fails_leaves_the_older_file(macer, tmp_path):
    run = write_run(tmp_path / "run", [0.1 + 0.01 * image for image in range(8)], total=8, num_img=8)
    full = (
        "import pathlib\n"
        "def write(self, text, **options): self.touch(); raise OSError(28, 'No space left on device')\n"
        "pathlib.Path.write_text = write"
    )
    (tmp_path / "table.csv").write_text("older")
    said = macer.refuses("table", run, "--format", "csv", "--out", tmp_path / "table.csv", before=full)
    assert "table.csv: could not be written: No space left on device" in said
    assert (tmp_path / "table.csv").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "table.csv"]


@pytest.mark.parametrize("kind", ["picture", "ablation"])
def test_a_picture_or_ablation_that_fails_leaves_the_older_file(tmp_path, monkeypatch, kind):
    def write(records, file):
        from macer.experiments.ablation import Point, write_table  # slow to import
        from macer.recipes import read_recipe
        from macer.training import resolve

        settings = resolve(read_recipe("digits/macer-0.12"), None, {}, where="the test")
        write_table([Point("lbd", 4.0, settings, "recipe")], [records], file)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    file = tmp_path / "x.svg"
    file.write_text("older")
    records = make("a", [0.1])
    with pytest.raises(OSError, match="could not be written: No space left on device"):
        save_figure(radius_accuracy_figure([records]), [file]) if kind == "picture" else write(records, file)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.svg": "older"}


def test_hostile_names_are_text_in_a_comparison():
    first, second = make("<b>a</b>\x1b[2J\n", [0.1, 0.2]), make("=b", [0.1, 0.3])
    table = comparison_table([first, second])
    text = to_csv(table) + "".join(table.notes)
    assert "\x1b" not in text
    assert "<b>a</b>\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}" in text
    assert "\x1b" not in compare(first, second).sentence
