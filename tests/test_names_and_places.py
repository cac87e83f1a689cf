"""Which files of a directory count, what they are called, and exported results read back."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from macer.errors import RecordsError
from macer.report.published import gather_published
from macer.report.sources import gather
from macer.results import Records, load_results, read_records
from macer.results.compare import read_comparable
from macer.results.reading import read_files
from macer.results.records import distinct
from macer.results.writing import write_results
from macer.runs.certificates import Row
from macer.smoothing import Certificate

pytest_plugins = ["command"]

ROWS = "0\t3\t3\t0.378\t1\t15.4\n20\t7\t-1\t0.0\t0\t15.6\n41\t4\t5\t0.25\t0\t15.5\n"
TABLE = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + ROWS


def write(directory: Path, *names: str, text: str = TABLE) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["NET/noise_0.25/test/sigma_0.25", "NET2/noise_0.25/test/sigma_0.25"], None),
        (["a/noise_0.50_2341", "a/noise_0.50_7"], None),
        (["a/noise_0.25.tsv", "a/noise_0.25.txt.bak.tsv", "b/x.csv"], ["a/noise_0.25", "a/noise_0.25.txt.bak", "b/x"]),
        (["x/r/s.tsv", "y/r/s.tsv", "z/q/s.tsv"], ["x/r/s", "y/r/s", "q/s"]),
        (["one/hard.tsv", "two/hard.tsv"], ["one", "two"]),
        (["x/one/hard.tsv", "y/one/hard.tsv", "y/one/soft.tsv"], ["x/one", "y/one", "y/one soft"]),
        (["one/certificates/hard.tsv", "one/certificates/epoch-0002/hard.tsv"], ["one/epoch-0002", "one"]),
    ],
)
def test_a_name_is_the_shortest_end_of_the_path_that_tells_files_apart(files, names, tmp_path):
    write(tmp_path, *files)
    found = distinct(read_records(tmp_path))
    assert [records.name for records in found] == (names or files)
    one_by_one = [records for file in files for records in read_records(tmp_path / file)]
    assert sorted(records.name for records in distinct(one_by_one)) == sorted(names or files)


def test_what_cannot_be_told_apart_gets_numbers(tmp_path):
    write(tmp_path, "a/x.tsv", "b/x.tsv")
    found = [*read_records(tmp_path / "a"), *read_records(tmp_path / "a" / "x.tsv"), *read_records(tmp_path / "b")]
    assert [records.name for records in distinct(found)] == ["a/x", "a/x (2)", "b/x"]


COUNTED = ("mnist-lenet/noise_0.25", "mnist-lenet/sigma_0.25.txt", "mnist-lenet/x.csv", "mnist-lenet/y.tsv")
IGNORED = {
    "mnist-lenet/README.md": TABLE,
    "mnist-lenet/README": "The columns idx, label, predict and radius are explained in the paper.\n",
    "mnist-lenet/log.txt": "epoch 1: loss 0.5\n",
    "mnist-lenet/metrics.tsv": "epoch\tloss\n",
    "mnist-lenet/predict.txt": "idx\tlabel\tpredict\tcorrect\ttime\n0\t3\t3\t1\t1.0\n",
    "mnist-lenet/exported.csv": "run,kind,idx,label,predict,radius,correct,seconds\nx,hard,0,3,3,0.5,True,1.0\n",
    "mnist-lenet/.ipynb_checkpoints/y.tsv": TABLE,
    "mnist-lenet/picture.png": "\x89PNG",
}


def test_one_rule_says_which_files_of_a_directory_count(tmp_path, macer):
    """The same ones for table, plot, compare, report, --published and load_results."""
    folder = tmp_path / "certificates"
    write(folder, *COUNTED)
    for name, text in IGNORED.items():
        write(folder, name, text=text)
    savemat(folder / "mnist-lenet" / "z.mat", {"hard": [0.378, -1, -1]})
    expected = [*COUNTED, "mnist-lenet/z.mat"]
    names = ["mnist-lenet/" + name for name in ("noise_0.25", "sigma_0.25", "x", "y", "z")]
    assert [str(file.relative_to(folder)) for file, _ in read_files(folder)] == expected
    assert load_results(folder).names == names
    assert [source.records.name for source in gather([folder]).main] == names
    run = tmp_path / "run"
    write(run, "y.tsv")
    found, _ = read_comparable(run, [folder])
    assert [records.name for records in found[1:]] == [name for name in names if "0.25" not in name]  # as run's sigma
    table = macer("table", folder, "--format", "csv").out.splitlines()[1:]
    assert sorted(line.split(",")[0] for line in table) == sorted(names)
    (of_run,) = gather([run]).main
    certification = {"network": "lenet", "dataset": "mnist"}
    of_run = replace(of_run, records=replace(of_run.records, sigma=0.25, dataset="mnist"), certification=certification)
    shown, _ = gather_published([folder], replace(gather([run]), sources=[of_run]))
    assert [str(source.file.relative_to(folder)) for source in shown] == list(COUNTED[:2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordsError, match=r"no \.tsv file and no other that holds some"):
        read_records(tmp_path / "empty")


def test_the_mat_file_of_a_run_says_nothing_new(tmp_path):
    write(tmp_path, "run/certificates/hard.tsv")
    savemat(tmp_path / "run" / "certificates" / "certificates.mat", {"hard": [0.378, -1, -1]})
    assert [file.name for file, _ in read_files(tmp_path)] == ["hard.tsv"]


def certified(name, kind, seconds=(math.nan, math.nan), **facts):
    rows = [
        Row.of(2, 3, Certificate(3, 1 / 3, 0.75, 90.0, 100), seconds[0]),
        Row.of(7, 4, Certificate(-1, 0.0, 0.3, 30.0, 100), seconds[1]),
    ]
    return Records.from_rows(name, kind, rows, **facts)


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_what_export_writes_is_read_back(suffix, tmp_path):
    facts = {"sigma": 0.25, "n": 100, "alpha": 0.001, "dataset": "mnist", "method": "macer", "total": 10_000}
    bare = Records(run="bare", idx=None, radius=np.array([0.1, 0.0]), correct=np.array([True, False]))
    written = [
        certified("a, b", "hard", seconds=[1.5, 2.25], **facts),
        certified("a, b", "soft", seconds=[1.5, 2.5], **facts),
        bare,
        certified("unknown", "hard"),
    ]
    file = tmp_path / f"x.{suffix}"
    write_results(written, file)
    read = read_records(file)
    for one, other in zip(written, read, strict=True):
        for name in ("run", "kind", *facts):
            assert getattr(one, name) == getattr(other, name)
        for name in ("idx", "label", "predict", "radius", "correct", "seconds", "p_a_lower"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_table_of_an_export_is_that_of_what_was_exported(macer, tmp_path):
    for suffix in ("csv", "json", "parquet"):
        assert macer("export", "zoo:mnist-macer-0.25", tmp_path / f"x.{suffix}").code == 0
        for norm in ((), ("--linf",)):
            exported, own = (macer("table", each, *norm) for each in (tmp_path / f"x.{suffix}", "zoo:mnist-macer-0.25"))
            assert exported.code == 0
            assert exported.out == own.out


ROW = {"run": "a", "kind": "hard", "idx": 0, "label": 3, "predict": 3, "radius": 0.5, "correct": True}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"radius": -0.5}, "row 2: column radius: -0.5 is impossible"),
        ({"radius": None}, "row 2: column radius: a value is missing"),
        ({"radius": "0,5"}, "row 2: column radius: '0,5' is no number"),
        ({"predict": 4}, "row 2: column correct: 1 is impossible"),
        ({"correct": False}, "row 2: column correct: 0 is impossible"),
        ({"predict": -1, "correct": False}, "row 2: column predict: -1 is impossible"),
        ({"idx": 0}, "row 2: column idx: 0 is impossible"),
        ({"idx": 1.5}, "row 2: column idx: '1.5' is no whole number"),
        ({"sigma": 0.5}, "row 2: column sigma: '0.5' differs from the rows above"),
        ({"shape": "3x32"}, "row 2: column shape: '3x32' differs from the rows above"),
        ({"kind": "warm"}, "row 2: column kind: 'warm' is neither hard nor soft"),
        ([], "not exported results: no list of objects"),
    ],
)
def test_exported_results_that_cannot_be_are_refused_with_row_column_and_value(changed, says, tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps([ROW, {**ROW, "idx": 1, **changed} if isinstance(changed, dict) else changed]))
    with pytest.raises(RecordsError) as caught:
        read_records(file)
    assert says in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"[]", b"PAR1", b"\xff\xfe\x00", b'{"run": 1}'])
@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_other_files_of_these_suffixes_are_refused_in_one_line(suffix, content, tmp_path):
    file = tmp_path / f"x.{suffix}"
    file.write_bytes(content)
    with pytest.raises(RecordsError) as caught:
        read_records(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
