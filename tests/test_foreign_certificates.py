"""Certificate files of other programs: every spelling in use gives the right numbers; what is damaged is refused."""

import random
import re

import numpy as np
import pytest

from macer.errors import RecordsError
from macer.results import certified_accuracy, read_records
from macer.runs.foreign import holds_certificates, read_certificates

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
ROWS = [
    (0, 0, 0, 0.31, 1),
    (1000, 1, 1, 0.9, 1),
    (2000, 2, 2, 0.12, 1),
    (3000, 3, 4, 0.4, 0),
    (4000, 4, 4, 0.55, 1),
    (5000, 5, -1, 0.0, 0),
    (6000, 6, 6, 0.77, 1),
    (7000, 7, 7, 0.05, 1),
    (8000, 8, 8, 0.61, 1),
    (9000, 9, 9, 0.25, 1),
]
LINES = ["\t".join(map(str, (*row, f"0:00:0{at}.10000{at}"))) for at, row in enumerate(ROWS)]
PLAIN = "\n".join([HEADER, *LINES]) + "\n"
TOTALS = np.cumsum([row[4] for row in ROWS]).tolist()
TOTALS_TEXT = PLAIN.replace(PLAIN, "\n".join([HEADER, *(
    re.sub(r"\t[01]\t0:", f"\t{total}\t0:", line) for total, line in zip(TOTALS, LINES, strict=True)
)]) + "\n")  # fmt: skip
ABSTAINED = "5000\t5\t-1\t0.0\t0"


def edited(old, new, text=PLAIN):
    assert old in text
    return text.replace(old, new)


TWO_NOTES = "running totals of a second start"
SPELLINGS: dict[str, tuple[str | bytes, str | None]] = {
    "plain": (PLAIN, None),
    "running totals": (TOTALS_TEXT, "running totals"),
    TWO_NOTES: (TOTALS_TEXT + "".join(
        re.sub(r"\t[01]\t0:", f"\t{total}\t0:", line) + "\n" for total, line in zip(TOTALS, LINES, strict=True)
    ), "running totals"),
    "no time": ("".join(line.rsplit("\t", 1)[0] + "\n" for line in PLAIN.splitlines()), None),
    "neither time nor correct": ("".join(line.rsplit("\t", 2)[0] + "\n" for line in PLAIN.splitlines()), None),
    "True and False": (re.sub(r"\t([01])\t0:", lambda found: f"\t{found[1] == '1'}\t0:", PLAIN), None),
    "a line of text below": (PLAIN + "CleanACC = 8/10 = 0.8 RACC = 8/10 = 0.8\n", "line 12, 'CleanACC"),
    "text below without its end": (PLAIN + "done in 3 hours", "'done in 3 hours'"),
    "settings above": ("Namespace(batch=400, sigma=0.25)\n=====\n\n# a comment\n" + PLAIN, "were left out: 3"),
    "a commented header": ("# " + PLAIN, None),
    "radius inf of an abstention": (edited(ABSTAINED, "5000\t5\t-1\tinf\t0"), "radius inf of abstentions"),
    "radius nan of an abstention": (edited(ABSTAINED, "5000\t5\t-1\tnan\t0"), "radius nan of abstentions"),
    "radius -1 of an abstention": (edited(ABSTAINED, "5000\t5\t-1\t-1.0\t0"), "radius -1 of abstentions"),
    "no radius of an abstention": (edited(ABSTAINED, "5000\t5\t-1\t\t0"), "radius nan of abstentions"),
    "class -2 of an abstention": (edited(ABSTAINED, "5000\t5\t-2\t0.0\t0"), "predict -2, counted as abstentions: 1"),
    "class 10 of an abstention": (edited(ABSTAINED, "5000\t5\t10\t0.0\t0"), "predict 10, counted as abstentions: 1"),
    "class 10 and radius -1": (edited(ABSTAINED, "5000\t5\t10\t-1\t0"), "predict 10, counted as abstentions: 1"),
    "ABSTAIN": (edited(ABSTAINED, "5000\t5\tABSTAIN\t0.0\t0"), None),
    "two parts": ("\n".join([HEADER, *LINES[:5], HEADER, *LINES[5:]]) + "\n", "2 parts stand one behind the other"),
    "two parts with other columns": (
        "\n".join([HEADER, *LINES[:5], HEADER.replace("\ttime", ""), *(line.rsplit("\t", 1)[0] for line in LINES[5:])])
        + "\n", "2 parts"),
    "the header of the second part alone": ("\n".join([*LINES[:5], HEADER, *LINES[5:]]) + "\n", "2 parts"),
    "a row twice": ("\n".join([HEADER, *LINES, LINES[4]]) + "\n", "repeat others and count once: 1"),
    "a row twice with another time": (PLAIN + LINES[4].replace("0:00:04", "0:00:07") + "\n", "count once: 1"),
    "original_idx": (edited("idx", "original_idx"), "'original_idx' was taken for idx"),
    "no title of the first column": ("," + PLAIN.replace("\t", ",").removeprefix("idx,"), "'' was taken for idx"),
    "another title": (edited("predict", "prediction"), "'prediction' was taken for predict"),
    "capitals": (edited(HEADER, HEADER.title()), None),
    "commas": (PLAIN.replace("\t", ","), None),
    "semicolons": (PLAIN.replace("\t", ";"), None),
    "spaces": (PLAIN.replace("\t", "   "), None),
    "quotes": (re.sub(r"[^\t\n]+", r'"\g<0>"', PLAIN), None),
    "quotes and commas": (re.sub(r"[^\t\n]+", r'"\g<0>"', PLAIN).replace("\t", ","), None),
    "a column of text with commas": (
        "\n".join(f'{line.replace(chr(9), ",")},"cat, or dog"' for line in PLAIN.splitlines()) + "\n", None),
    "days": (edited("0:00:02.100002", "1 day, 2:03:04.5"), None),
    "days and commas": (edited("0:00:02.100002", "2 days, 2:03:04.5").replace("\t", ","), None),
    "days and spaces": (edited("0:00:02.100002", "2 days, 2:03:04.5").replace("\t", " "), None),
    "seconds": (re.sub(r"0:00:0(\S+)", r"\1s", PLAIN), None),
    "decimals": (re.sub(r"(?<=\n)(\d+)\t(\d+)\t(-?\d+)\t", r"\1.0\t\2.0\t\3.0\t", PLAIN), None),
    "tensors": (
        re.sub(r"(?<=\n)(\d+)\t(\d+)\t(-?\d+)\t", r"\1\ttensor(\2)\ttensor(\3, device='cuda:0')\t", PLAIN), None),
    "np.float64": (re.sub(r"\t(\d\.\d+)\t", r"\tnp.float64(\1)\t", PLAIN), None),
    "longer rows": ("".join(f"{line}\t7\n" if "\t0:" in line else f"{line}\n" for line in PLAIN.splitlines()),
                    "7 cells, more than its header"),
    "tabs at the ends": (PLAIN.replace("\n", "\t\n"), None),
    "PowerShell": (PLAIN.replace("\n", "\r\n").encode("utf-16"), None),
    "old Macs": (PLAIN.replace("\n", "\r"), None),
    "a sigma of its own": (PLAIN.replace("\n", "\t0.5\n").replace("time\t0.5", "time\tsigma"), None),
    "several sigma": (PLAIN.replace("\n", "\t0.5\n").replace("time\t0.5", "time\tsigma").replace("0.5\n", "0.25\n", 1),
                      "its column sigma was not used: it holds '0.25', '0.5'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_says_the_same(name, tmp_path):
    text, note = SPELLINGS[name]
    file = tmp_path / "results"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    (records,) = read_records(file)
    columns = (records.idx, records.label, records.predict, records.radius, records.correct)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == ROWS
    assert [certified_accuracy(records, radius) for radius in (0.0, 0.25, 0.5, 0.75)] == [0.8, 0.6, 0.4, 0.2]
    assert records.certified_radius.mean() == pytest.approx(0.356)
    assert records.abstained == 1
    times = None if "time" in name and "another" not in name else {"two parts with other columns": None}
    if times is None or name in times:
        assert records.seconds is None
    elif "day" not in name:
        expected = [float(f"{at}.10000{at}") for at in range(10)]
        assert records.seconds.tolist() == pytest.approx(expected)
    else:
        assert records.seconds[2] == pytest.approx((1 if name == "days" else 2) * 86_400 + 2 * 3600 + 3 * 60 + 4.5)
    assert [note] if note is None else note in " ".join(records.notes)
    assert len(records.notes) == (note is not None) + (name in ("class 10 and radius -1", TWO_NOTES))
    assert records.sigma == (0.5 if name == "a sigma of its own" else None)
    assert holds_certificates(file)


def test_a_log_that_repeats_the_certificates_does_not_count(tmp_path):
    """The logs of a cluster beside certificates of Salman et al. 2019 (analysed in their repository) look like this."""
    prefix = "2019-09-24T03:07:23.000Z /container_e50_1568911178030_6116_01_000004: "
    log = tmp_path / "stdout.txt"
    log.write_text(f"{prefix}Check gpu start\n" + "".join(prefix + line + "\n" for line in PLAIN.splitlines()))
    assert not holds_certificates(log)
    (tmp_path / "sigma_0.12").write_text(PLAIN)
    assert [records.idx.tolist() for records in read_records(tmp_path)] == [[row[0] for row in ROWS]]


def test_a_right_prediction_that_does_not_count_is_not_certified(tmp_path):
    """Of predict = label, radius 0 and correct 0 accuracy at 0 is what correct says; nobody abstained."""
    for text in (PLAIN, TOTALS_TEXT):
        file = tmp_path / "results.txt"
        file.write_text(edited("5000\t5\t-1\t", "5000\t5\t5\t", text))
        (records,) = read_records(file)
        assert (certified_accuracy(records, 0.0), records.abstained) == (0.8, 0)
        assert records.certified_radius.mean() == pytest.approx(0.356)
        assert "whose column correct says no, counted as wrong: 1" in records.notes[0] + records.notes[-1]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("radius", "linf_radius", "line 1: no column radius: 'linf_radius' is of another norm or kind"),
        ("radius", "l1_radius", "line 1: no column radius: 'l1_radius'"),
        ("radius", "margin", "line 1: no column radius; a certificate has idx label predict radius"),
        ("label", "cls", "line 1: no column label"),
        ("predict", "radius", "line 1: no column predict"),
        ("correct", "radius", "line 1: 2 columns radius"),
        ("2000\t2\t2", "2000\t2\t2.5", "line 4: column predict: '2.5' is no whole number"),
        ("2000\t2\t2", "2000\t2\t1_0", "line 4: column predict: '1_0' is no number"),
        ("2000\t2\t2", "2000\t\u0662\t2", "line 4: column label: '\u0662' is no number"),
        ("2000\t2\t2\t0.12", "2000\t2\t2\t0,12", "line 4: column radius: '0,12' is no number"),
        ("2000\t2\t2\t0.12", "2000\t2\t2\t", "line 4: column radius: nan is impossible"),
        ("0.12\t1", "0.12\tyes", "line 4: column correct: 'yes' is no number"),
        ("0.12\t1", "0.12\t0", "line 4: column correct: 0 contradicts label 2 and predict 2 with radius 0.12"),
        ("3000\t3\t4\t0.4", "3000\t3\t-4\t0.4", "line 7: column predict: -1 is no class, and line 5 abstains with -4"),
        (ABSTAINED, "5000\t5\t-1\t0.3\t0", "line 7: column radius: 0.3 contradicts predict -1, an abstention"),
        (ABSTAINED, "5000\t5\t10\t0.3\t1", "line 7: column correct: 1 contradicts label 5 and predict 10"),
        ("2000\t2", "1000\t2", "line 4: image 1000 was there before, but label 1, predict 1 with radius 0.9 in line 3 "
                               "and label 2, predict 2 with radius 0.12 here"),
        ("2000\t2\t2", "2000\t2", "line 4: 5 columns"),
        ("0:00:02.100002", "0:00:02.1000023\t3", "line 4: 7 columns; the rows above have 6"),
        ("0:00:02.100002", "2 weeks", "line 4: column time: '2 weeks' is no"),
        ("3000\t3", "see below\n3000\t3", "line 5: 'see below' stands between rows"),
    ],
)  # fmt: skip
def test_what_is_not_certificates_is_refused_with_line_column_and_value(old, new, says, tmp_path):
    file = tmp_path / "results.txt"
    text = edited(old, new)
    file.write_text(text)
    with pytest.raises(RecordsError) as caught:
        read_records(file)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{file}, line ")


def test_positive_radii_of_abstentions_are_placeholders_only_if_they_are_all_the_same(tmp_path):
    file = tmp_path / "results.txt"
    two = edited("3000\t3\t4\t0.4\t0", "3000\t3\t-1\t0.5\t0").replace(ABSTAINED, "5000\t5\t-1\t0.5\t0")
    file.write_text(two)
    (records,) = read_records(file)
    assert (records.abstained, records.radius[3], records.radius[5]) == (2, 0.0, 0.0)
    file.write_text(two.replace("5000\t5\t-1\t0.5", "5000\t5\t-1\t0.6"))
    with pytest.raises(RecordsError, match="contradicts predict -1"):
        read_records(file)


def literal(line, delimiter):
    """A row as its cells say it, with every abstention as in our files; None if the line is no row."""
    cells = [cell.strip('"') for cell in line.split(delimiter)]
    try:
        idx, label, predict = (int(float(cell)) for cell in cells[:3])
        radius = float(cells[3])
    except (ValueError, IndexError, OverflowError):
        return None
    return (idx, label, -1, 0.0) if predict < 0 or predict > 9 else (idx, label, predict, radius)


@pytest.mark.parametrize("text", [PLAIN, TOTALS_TEXT, PLAIN.replace("\t", ","), PLAIN + "RACC = 0.8\n"])
def test_damaged_files_are_read_as_they_stand_there_or_refused(text, tmp_path):
    """No digit is made up, no row is lost in silence: what is read stands in the file, row by row."""
    chance = random.Random(14)
    file = tmp_path / "results.txt"
    delimiter = "," if "," in text else "\t"
    read = 0
    for _ in range(700):
        at = chance.randrange(len(text) - 1)
        damage = chance.choice(["", "\n", delimiter, "-", "0", "7", ".", "x", '"', " ", "\x00", text[at] * 2, "e"])
        end = at + chance.choice([0, 1, 1, 1, 2, 30])
        damaged = text[:at] + damage + text[end:]
        file.write_text(damaged)
        try:
            found = read_certificates(file)
        except RecordsError:
            continue
        read += 1
        rows = {(row.idx, row.label, row.predict, row.radius) for row in found.rows}
        lines = [line for line in damaged.split("\n") if re.match(r'["0-9.-]', line) and "correct" not in line]
        if "unfinished" in " ".join(found.notes):
            lines.pop()
        assert rows == {literal(line, delimiter) for line in lines}
    assert 70 < read < 630


def test_ten_thousand_rows_of_another_spelling(tmp_path):
    rows = [(idx, idx % 10, idx % 10 if idx % 3 else -1, 0.25 + idx % 7 / 10) for idx in range(10_000)]
    right = np.cumsum([label == predict for _, label, predict, _ in rows]).tolist()
    lines = [f"{i},{a},{b},{r:.3} ,{c}" for (i, a, b, r), c in zip(rows, right, strict=True)]
    placeholder = [re.sub(r",-1,[\d.]+", ",-1,0.111", line) for line in lines]
    file = tmp_path / "sigma_0.25"
    file.write_text("\n".join(["image,label,predict,radius,correct", *placeholder]))
    found = read_certificates(file)
    assert (len(found.rows), found.rows[-1].radius, len(found.notes)) == (9_999, 0.25 + 9998 % 7 / 10, 4)
    file.write_text("\n".join(["image,label,predict,radius,correct", *placeholder]) + "\n")
    (records,) = read_records(file)
    assert (len(records), records.abstained, records.sigma) == (10_000, 3334, 0.25)
    assert records.radius[1:4].tolist() == [0.35, 0.45, 0.0]


def test_the_cases_beside_the_project(shared):
    folder = shared / "cases" / "certificates"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    for file in sorted(folder.iterdir()):
        if file.name == "24-linf.txt":
            with pytest.raises(RecordsError, match="no column radius: 'linf_radius' is of another norm"):
                read_records(file)
            continue
        (records,) = read_records(file)
        accuracies = [certified_accuracy(records, radius) for radius in (0.0, 0.25, 0.5, 0.75)]
        assert (file.name, accuracies) == (file.name, [0.8, 0.6, 0.4, 0.2])
        assert records.certified_radius.mean() == pytest.approx(0.356)
        assert records.abstained == (0 if file.name.startswith("19") else 1)
        silent = file.name in ("00-plain.tsv", "02-no-time.txt", "04-true-false.txt", "11-comma.csv", "13-day.tsv")
        assert len(records.notes) == (0 if silent else 1)
