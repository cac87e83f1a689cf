"""Tables: every form says the same, hides nothing, and takes names as text."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from macer.errors import RecordsError, SettingsError
from macer.results import Records, average_certified_radius, read_records
from macer.results.latex import to_latex
from macer.results.records import describe_images
from macer.results.tables import linf_table, print_table, results_table, to_csv, to_markdown


def make(name="macer", step=20, images=500, **facts):
    idx = np.arange(images, dtype=np.int64) * step
    radius = np.linspace(0, 1.2, images)
    known = {"sigma": 0.25, "n": 100_000, "alpha": 0.001, "total": 10_000, "dataset": "mnist", **facts}
    return Records(run=name, idx=idx, radius=radius, correct=idx % 3 == 0, **known)


def terminal(table, width=80):
    stream = io.StringIO()
    print_table(Console(file=stream, width=width), table)
    return stream.getvalue()


FORMS = (terminal, to_markdown, to_latex, to_csv)
HOSTILE = r"<b>a_b</b> [red]50%[/red] $x$ {y} #1 & ~ ^ \z | `c` *d* [/]"


def test_the_values_are_those_of_the_records():
    table = results_table([make()], [0.0, 0.5])
    assert table.header == ("", "0.00", "0.50", "ACR [95%]", "abstained", "seconds")
    ((name, at_0, at_half, acr, abstained, seconds),) = table.rows
    radii = [index * 1.2 / 499 for index in range(500) if index * 20 % 3 == 0]
    assert (name, abstained, seconds) == ("macer", "", "")
    assert at_0 == f"{len(radii) / 500:.3f}"
    assert at_half == f"{sum(radius >= 0.5 for radius in radii) / 500:.3f}"
    assert re.fullmatch(rf"{sum(radii) / 500:.3f} \[0\.\d{{3}}, 0\.\d{{3}}\]", acr)


def test_linf_radii_are_the_l2_radii_by_the_root_of_the_number_of_values():
    cifar = make(shape=(3, 32, 32))
    table = linf_table([cifar], [0.0, 2.0, 5.0])
    assert table.header == ("", "0/255", "2/255", "5/255", "ACR * 255 [95%]", "abstained", "seconds")
    radii = [index * 1.2 / 499 / 3072**0.5 for index in range(500) if index * 20 % 3 == 0]
    shares = [f"{sum(radius >= epsilon / 255 for radius in radii) / 500:.3f}" for epsilon in (0, 2, 5)]
    assert list(table.rows[0][1:4]) == shares
    assert float(shares[0]) > float(shares[1]) > float(shares[2]) > 0
    assert table.rows[0][4].startswith(f"{255 * sum(radii) / 500:.3f} [")
    assert dict(table.shared)["radii"] == "L-infinity, R / sqrt(d), which follows from the L2 radius R"
    assert linf_table([cifar]).header[1:7] == (*(f"{each}/255" for each in range(6)),)  # 1.2 / sqrt(3072) = 5.52 / 255
    assert linf_table([make(shape=(3, 224, 224))]).header[1:5] == ("0/255", "0.25/255", "0.5/255", "0.75/255")
    asked = make("asked", shape=(3, 32, 32), at_least=0.6)
    asked = replace(asked, radius=np.where(asked.radius >= 0.6, 0.6, 0.0))
    (title, share) = (column[1] for column in (linf_table([asked]).header, *linf_table([asked]).rows))
    assert (title, share) == (f"{0.6 / 3072**0.5 * 255:g}/255", f"{(asked.correct & (asked.radius > 0)).mean():.3f}")
    with pytest.raises(RecordsError, match="need the shape of the images, which is not recorded"):
        linf_table([cifar, make()])


def test_what_all_rows_share_is_said_once_and_what_differs_is_a_column():
    table = results_table([make(), make("cohen", n=1000)], [0.0])
    assert dict(table.shared) == {
        "sigma": "0.25",
        "alpha": "0.001",
        "data": "mnist",
        "images": "every 20th from 0 to 9980 (500 of 10,000)",
    }
    assert table.header[:2] == ("", "n")
    assert [row[1] for row in table.rows] == ["100,000", "1,000"]
    assert table.notes == ("n differs between these rows, or is not recorded: ACR is not comparable across n",)


def test_notes_on_different_images_and_unfinished_runs():
    table = results_table([make(notes=("hard.tsv: 3 of 5 images",)), make("cohen", step=1)])
    assert table.notes == (
        "hard.tsv: 3 of 5 images",
        "these rows are of different images, or of unknown ones",
    )
    assert results_table([make(), make("cohen")]).notes == ()
    assert len(results_table([make(), make("cohen", dataset="digits")]).notes) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("others", [[], [make("cohen")], [make("cohen", step=1)]])
def test_no_form_hides_that_it_covers_500_of_10000(form, others):
    text = form(results_table([make(), *others]))
    assert "every 20th from 0 to 9980 (500 of 10,000)" in text
    shown = [line for line in text.splitlines() if not line.startswith("%")]  # a comment of LaTeX is not shown
    assert "(500 of 10,000)" in "\n".join(shown)


def test_terminal_breaks_no_cell_and_takes_no_markup():
    table = results_table([make(HOSTILE), make("cohen", step=1, sigma=0.5)])
    lines = terminal(table, 250).splitlines()
    for row in table.rows:
        (line,) = [line for line in lines if row[0] in line]
        assert all(cell in line for cell in row)
    assert all(title in lines[1] for title in table.header)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_wider_than_the_terminal_continues_below_itself(width):
    """17 columns at 80: every cell is whole, under its title, in a line with its name."""
    table = results_table([make(), make("cohen", sigma=0.5, step=1)], [0.1 * at for at in range(10)])
    assert len(table.header) == 16
    lines = terminal(table, width).splitlines()
    shown = [line for line in lines if not line.startswith("  sigma")][: -len(table.lines_below)]
    assert max(map(len, shown)) <= width
    for column, title in enumerate(table.header[1:], start=1):
        (at,) = [at for at, line in enumerate(shown) if re.search(rf"(?<![\d.]){re.escape(title)}(?![\d.])", line)]
        end = re.search(rf"(?<![\d.]){re.escape(title)}(?![\d.])", shown[at]).end()
        block = shown[at + 1 :]
        for row in table.rows:
            line = next(line for line in block if line.strip().startswith(f"{row[0]} "))
            assert line[:end].endswith(row[column])


def test_a_long_name_is_broken_into_lines_where_the_table_is_wider_than_the_terminal():
    table = results_table([make("x" * 70), make("cohen", sigma=0.5)], [0.0, 0.5])
    text = terminal(table, 80)
    assert text.count("x" * 26) == 2 * text.count("cohen")  # as often as the table begins again
    assert "x" * 27 not in text


def test_markdown_parses_back():
    table = results_table([make(HOSTILE), make("cohen", n=10)])
    lines = to_markdown(table).splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:4]]
    plain = [tuple(re.sub(r"\\([\\|<*`])", r"\1", cell) for cell in row) for row in cells]
    assert [plain[0], *plain[2:]] == [table.header, *table.rows]
    assert "<" not in "".join(lines).replace(r"\<", "")


def test_latex_escapes_what_is_special():
    table = results_table([make(HOSTILE), make("[b]", n=10)])
    text = to_latex(table)
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    escaped = re.sub(r"\\(text\w+\{\}|[&%$#_{}])", "", body)  # what is left stands for itself
    escaped = re.sub(r"\\(toprule|midrule)|\{\[\}", "", escaped)
    assert not set(re.sub(r" \\\\$", "", escaped, flags=re.MULTILINE)) & set("%$#_~^\\<>|[")
    rows = [line for line in text.splitlines() if line.count(" & ") == len(table.header) - 1]
    assert len(rows) == 3
    assert all(line.endswith(r" \\") for line in rows)
    assert rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}" in text
    assert r"\usepackage{booktabs,graphicx}" in text.splitlines()[0]


def test_latex_has_greek_letters_and_minus_signs():
    table = results_table([make(sigma=0.25), make("cohen", sigma=0.5, notes=("sigma 0.5: see n-1",))])
    text = to_latex(replace(table, rows=(*table.rows, ("a-1", "-0.050", "[-0.1, -0.2]"))))
    assert r" & $\sigma$ & 0.00 & " in text
    assert r"$\alpha$: 0.001;" in text
    assert r"$\sigma$ 0.5: see n-1" in text
    assert r"a-1 & $-$0.050 & {[}$-$0.1, $-$0.2] \\" in text


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs, as in texlive-latex-recommended"
)
@pytest.mark.parametrize("columns", [1, 30])
def test_latex_compiles_and_stays_within_the_text(columns, tmp_path):
    """TeX itself says where anything is wider than the text: Overfull."""
    notes = (f"/a/directory/{'long_' * 40}/noise_0.25.tsv: 3 of 5 images", HOSTILE)
    table = results_table([make("x" * 90, notes=notes), make(HOSTILE, sigma=0.5)], [0.05 * at for at in range(columns)])
    text = to_latex(table)
    for name, tabular in (("one", text), ("wide", re.sub(r"\\resizebox.*", r"\\mbox{%", text))):
        document = (
            r"\documentclass{article}\usepackage{booktabs,graphicx}\hfuzz=0.5pt\begin{document}"
            rf"\begin{{table}}\centering {tabular}\end{{table}}\end{{document}}"
        )
        (tmp_path / f"{name}.tex").write_text(document, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout
        assert ("Overfull" in done.stdout) == (name == "wide")  # the test can fail


def test_columns_can_be_left_out():
    table = results_table([make(), make("cohen", step=1)], [0.0, 0.5])
    assert table.header == ("", "images", "0.00", "0.50", "ACR [95%]", "abstained", "seconds")
    some = table.without(["acr", "0.00", "seconds"])
    assert some.header == ("", "images", "0.50", "abstained")
    assert [row[2] for row in some.rows] == [row[3] for row in table.rows]
    for title in ("images", "radius", ""):
        with pytest.raises(SettingsError, match=r"left out are 0\.00, 0\.50, acr, abstained, seconds; not"):
            table.without([title])
    marked = results_table([make(), replace(make("weak"), radius=np.zeros(500))], [0.0, 0.5])
    assert marked.best == {(0, 2), (0, 3)}
    assert marked.without(["0.00"]).best == {(0, 1), (0, 2)}


def test_images_certified_at_one_radius_or_not_at_all_have_no_acr():
    some = make("some", at_least=0.5)
    table = results_table([some])
    assert table.header == ("", "0.50", "abstained", "seconds")
    table = results_table([make(), some], [0.25, 0.5])
    assert table.header[1:4] == ("0.25", "0.50", "ACR [95%]")
    assert table.rows[1][1:4] == ("", table.rows[0][2], "")
    assert results_table([make(), replace(some, at_least=0.125)]).header[1:4] == ("0.00", "0.125", "0.25")


def test_radii_that_are_all_the_same_have_no_interval():
    equal = replace(make(), radius=np.full(500, 0.3), correct=np.ones(500, dtype=bool))
    table = results_table([equal], [0.0])
    assert table.rows[0][2] == "0.300"
    assert table.notes == ("macer: every image adds the same to ACR, which therefore has no interval",)
    assert results_table([replace(equal, at_least=0.3)]).notes == ()  # no ACR is shown


def test_csv_parses_back_with_the_shared_facts_as_columns():
    table = results_table([make(HOSTILE), make('a,"b"\'', n=10)])
    header, *rows = csv.reader(io.StringIO(to_csv(table)))
    names, values = zip(*table.shared, strict=True)
    assert header[: len(table.header)] == [*table.header[:-3], "ACR", "ACR low", "ACR high"]
    assert tuple(header[-len(names) :]) == names
    assert [row[0] for row in rows] == [row[0] for row in table.rows]
    assert {tuple(row[-len(names) :]) for row in rows} == {values}


def test_numbers_of_csv_are_numbers_for_pandas():
    """Intervals have columns of their own, and thousands nothing between them; notes stay out."""
    equal = replace(make("b", n=1000), radius=np.full(500, 0.125), correct=np.full(500, fill_value=True))
    records = [make("1,000"), equal]
    frame = pd.read_csv(io.StringIO(to_csv(results_table(records, [0.15]))), index_col=0)
    assert list(frame.index) == ["1,000", "b"]
    for column in ("n", "0.15", "ACR", "ACR low", "ACR high", "sigma", "alpha"):
        assert pd.api.types.is_numeric_dtype(frame[column]), column
    estimate = average_certified_radius(records[0])
    expected = [estimate.value, estimate.low, estimate.high]
    assert frame.loc["1,000", ["ACR", "ACR low", "ACR high"]].tolist() == pytest.approx(expected, abs=6e-4)
    assert frame.loc["b", ["ACR low", "ACR high"]].isna().all()  # every image adds the same


@pytest.mark.parametrize("form", FORMS)
def test_a_name_cannot_break_a_line_or_command_a_terminal(form):
    text = form(results_table([make("a\n\\input{x}\x1b[2J\udcff", notes=("b\nc",))]))
    text.encode("utf-8")
    assert "\x1b" not in text
    assert "\nc" not in text
    assert not any(line.startswith("\\input") for line in text.splitlines())


@given(st.sets(st.integers(0, 99), min_size=1), st.sampled_from([None, 100]))
def test_the_choice_of_images_is_told_truly(indices, total):
    idx = np.array(sorted(indices), dtype=np.int64)
    text = describe_images(idx, len(idx), total)
    assert (text == "all 100") == (total == 100 and len(idx) == 100)
    if text == "all 100":
        return
    assert text.endswith(f"({len(idx)} of 100)" if total else f"({len(idx)})")
    numbers = [int(number) for number in re.findall(r"\d+", text.split(" (")[0])]
    if text.startswith("every"):
        assert range(numbers[1], numbers[2] + 1, numbers[0]) == range(idx[0], idx[-1] + 1, idx[1] - idx[0])
        assert len(range(numbers[1], numbers[2] + 1, numbers[0])) == len(idx)
    elif text.startswith("image"):
        assert numbers == idx.tolist()
    elif text.startswith("a choice"):
        assert numbers == [idx[0], idx[-1]]
    else:
        assert list(range(numbers[0], numbers[1] + 1)) == idx.tolist()


def test_the_choice_of_images_in_words():
    idx = np.arange(500, dtype=np.int64)
    assert describe_images(idx, 500, 500) == "all 500"
    assert describe_images(idx + 500, 500, 10_000) == "500 to 999 (500 of 10,000)"
    assert describe_images(idx * 20, 500, None) == "every 20th from 0 to 9980 (500)"
    assert describe_images(None, 500, 10_000) == "500 of 10,000, not recorded which"
    assert describe_images(idx + 1, 500, 500) == "1 to 500 (500 of 500)"  # not all that there are
    words = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 111: "111th"}
    for step, word in list(words.items())[1:]:
        assert describe_images(idx * step, 500, None).startswith(f"every {word} ")


def bold_cells(text, pattern):
    return re.findall(pattern, text)


def test_rows_go_by_sigma_then_method_and_the_best_of_a_sigma_is_bold():
    def at(name, sigma, method, factor):
        some = make(name, sigma=sigma, method=method)
        return replace(some, radius=some.radius * factor)

    given = [
        at("unknown", None, None, 1.0),
        at("m1", 1.0, "macer", 1.0),
        at("own", 0.25, "mine", 0.5),
        at("m", 0.25, "macer", 1.0),
        at("s", 0.25, "smoothadv", 1.0),
        at("c", 0.25, "cohen", 0.8),
        at("c1", 1.0, "cohen", 0.9),
    ]
    table = results_table(given, [0.0, 0.5, 9.0])
    assert [row[0] for row in table.rows] == ["c", "s", "m", "own", "c1", "m1", "unknown"]
    assert table.breaks == {4, 6}
    assert table.header[:4] == ("", "method", "sigma", "0.00")
    # Nobody is best where all are equal (radii 0 and 9), alone, or the only row without a sigma.
    assert table.best == {(1, 4), (2, 4), (1, 6), (2, 6), (5, 4), (5, 6)}
    expected = [table.rows[row][column] for row, column in sorted(table.best)]
    assert bold_cells(to_markdown(table), r"\*\*(.*?)\*\*") == expected
    assert bold_cells(to_latex(table), r"\\textbf\{(.*?)\} (?:&|\\)") == [cell.replace("[", "{[}") for cell in expected]
    assert to_latex(table).count("\\midrule\n") == 3
    stream = io.StringIO()
    print_table(Console(file=stream, width=200, force_terminal=True, color_system="standard"), table)
    assert bold_cells(stream.getvalue(), r"\x1b\[1m(0\.\d{3}(?: \[.*?\])?)\x1b") == expected
    assert "*" not in to_csv(table)


def test_rows_of_one_sigma_stay_as_given_and_best_is_by_what_is_printed():
    table = results_table([make("b", method="macer"), make("a", method="cohen")], [0.0])
    assert [row[0] for row in table.rows] == ["b", "a"]
    assert table.best == table.breaks == frozenset()  # equal
    some = make("c")
    nearly = replace(some, radius=some.radius * (1 + 1e-7))
    assert results_table([some, nearly], [0.5]).best == frozenset()


@pytest.mark.parametrize("difference", [{"n": 10}, {"alpha": 0.01}, {"step": 1}, {"images": 499}, {"dataset": None}])
def test_no_row_is_called_best_among_rows_that_cannot_be_compared(difference):
    first = make()
    weaker = replace(first, radius=first.radius / 2)
    assert results_table([first, weaker], [0.5]).best
    other = make("other", **difference)
    assert not results_table([first, replace(other, radius=other.radius / 2)], [0.5]).best


def test_images_of_the_same_indices_are_others_by_their_digests():
    first = make(image=np.array([f"a{number}" for number in range(500)], dtype=object))
    weaker = replace(first, run="weaker", radius=first.radius / 2)
    assert results_table([first, weaker], [0.5]).best
    other = replace(weaker, image=np.array([f"b{number}" for number in range(500)], dtype=object))
    table = results_table([first, other], [0.5])
    assert not table.best
    assert "these rows are of different images, or of unknown ones" in table.notes
    assert results_table([first, replace(weaker, image=None)], [0.5]).best  # not known to be others


def test_a_table_of_training_images_says_so():
    train = make(split="train", dataset="digits")
    assert ("data", "digits (training images)") in results_table([train]).shared
    assert ("data", "digits") in results_table([replace(train, split="test")]).shared
    table = results_table([train, replace(train, split="test", radius=train.radius / 2)], [0.5])
    assert "data" in table.header
    assert not table.best


def test_certificates_without_indices_differ_if_they_are_not_as_many():
    some = [replace(make(images=images), idx=None) for images in (499, 500)]
    assert len(results_table(some).notes) == 1


def test_published_files_in_one_table(shared):
    folder = shared / "reference" / "certificates"
    files = [folder / "cifar10-cohen-resnet110" / "noise_0.25.tsv", folder / "cifar10-macer-resnet110/noise_0.25.tsv"]
    table = results_table([records for file in files for records in read_records(file)])
    assert table.header == ("", "images", "0.00", "0.25", "0.50", "0.75", "ACR [95%]", "abstained", "seconds")
    assert [row[:6] for row in table.rows] == [
        ("cifar10-cohen-resnet110/noise_0.25", "every 20th from 0 to 9980 (500)", "0.748", "0.600", "0.428", "0.266"),
        ("cifar10-macer-resnet110/noise_0.25", "0 to 9999 (10,000)", "0.787", "0.683", "0.559", "0.408"),
    ]
    assert [row[6][:5] for row in table.rows] == ["0.429", "0.529"]
    assert "different images" in table.notes[0]
    assert table.shared == (("sigma", "0.25 (file name)"),)
    assert not table.best
