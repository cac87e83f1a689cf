"""Results in a notebook, and in the formats of other programs: the same certificates, in all their digits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from scipy.io import loadmat

from macer.errors import RecordsError, SettingsError
from macer.results import Records, Results, average_certified_radius, certified_accuracy_interval, read_records
from macer.results.compare import compare
from macer.results.frame import to_frame
from macer.results.latex import to_latex
from macer.results.results import load_results
from macer.results.tables import linf_table, results_table, to_html
from macer.results.writing import WRITERS, write_results
from macer.runs.certificates import SHARED_COLUMNS, Row
from macer.smoothing import Certificate

pytest_plugins = ["command"]

DIGITS = 0.1234567890123456  # more than any rounding would leave


def write_run(directory: Path, radii=(DIGITS, 0.2, 0.0), kinds=("hard",), step=2) -> Path:
    """A run: image 0 right, image 2 wrong, image 4 abstained."""
    certificates = directory / "certificates"
    certificates.mkdir(parents=True)
    for kind in kinds:
        answers = zip(radii, (3, 5, -1), (1, 0, 0), strict=True)
        rows = "".join(
            f"{step * number}\t3\t{predict}\t{radius!r}\t{correct}\t1.5\n"
            for number, (radius, predict, correct) in enumerate(answers)
        )
        (certificates / f"{kind}.tsv").write_text("\t".join(SHARED_COLUMNS) + "\n" + rows)
    facts = {"sigma": 0.25, "n": 1000, "alpha": 0.001, "total": 10, "num_img": 3, "dataset": "digits"}
    (certificates / "settings.toml").write_text(tomli_w.dumps({"certification": facts}))
    (directory / "settings.toml").write_text(tomli_w.dumps({"objective": {"name": "macer"}}))
    return directory


def publish(file: Path) -> Path:
    file.parent.mkdir()
    file.write_text("0\t3\t3\t0.378\t1\t15.4\n2\t3\t-1\t0.0\t0\t15.6\n4\t3\t3\t0.25\t1\t15.5\n1")
    return file


@pytest.fixture
def results(tmp_path):
    publish(tmp_path / "x" / "radii.tsv")
    with pytest.warns(UserWarning, match="last line is unfinished"), pytest.warns(UserWarning, match="incomplete"):
        return load_results(write_run(tmp_path / "a"), str(tmp_path / "x" / "radii.tsv"))


def test_a_network_of_the_zoo_has_linf_radii():
    (records,) = load_results("zoo:mnist-macer-0.25").records
    assert records.shape == (1, 28, 28)
    np.testing.assert_allclose(records.radius_linf, records.radius / 28, rtol=1e-14)
    assert linf_table([records]).header[1:9] == (*(f"{each}/255" for each in range(8)),)


def test_the_frame_has_one_row_per_image_and_network(results):
    frame = results.frame()
    assert list(frame.run) == ["a"] * 3 + ["x/radii"] * 3
    assert list(frame.kind) == ["hard"] * 6
    assert list(frame.idx) == [0, 2, 4] * 2
    assert list(frame.label) == [3] * 6
    assert list(frame.predict) == [3, 5, -1, 3, -1, 3]
    assert list(frame.radius) == [DIGITS, 0.2, 0.0, 0.378, 0.0, 0.25]
    assert list(frame.correct) == [True, False, False, True, False, True]
    assert list(frame.seconds) == [1.5, 1.5, 1.5, 15.4, 15.6, 15.5]
    assert list(frame.sigma[:3]) == [0.25] * 3
    assert list(frame.n[:3]) == [1000] * 3
    assert list(frame.alpha[:3]) == [0.001] * 3
    assert set(frame.dataset[:3]) == {"digits"}
    assert set(frame.method[:3]) == {"macer"}
    assert frame.loc[3:, ["sigma", "n", "alpha", "dataset", "method"]].isna().all(axis=None)
    assert [str(kind) for kind in frame.dtypes[["idx", "label", "predict", "n"]]] == ["Int64"] * 4


def test_what_a_mat_file_does_not_say_is_missing(tmp_path):
    write_run(tmp_path / "a")
    load_results(tmp_path / "a").write(tmp_path / "a.mat")
    frame = load_results(tmp_path / "a.mat").frame()
    assert frame[["label", "predict", "seconds", "sigma"]].isna().all(axis=None)
    assert list(frame.radius) == [DIGITS, 0.0, 0.0]
    assert list(frame.correct) == [True, False, False]


def test_the_metrics_are_those_of_the_records(results):
    metrics = results.metrics([0.0, 0.3])
    columns = ["run", "kind", "metric", "radius", "value", "low", "high", "sigma", "n", "alpha", "data", "images"]
    assert list(metrics.columns) == columns
    accuracy, acr = (metrics[metrics.metric == metric] for metric in ("certified accuracy", "ACR"))
    expected = [
        (records.run, "hard", radius, estimate.value, estimate.low, estimate.high)
        for records in results
        for radius in (0.0, 0.3)
        for estimate in [certified_accuracy_interval(records, radius)]
    ]
    shown = accuracy[["run", "kind", "radius", "value", "low", "high"]]
    assert list(shown.itertuples(index=False, name=None)) == expected
    assert list(accuracy.value) == [1 / 3, 0.0, 2 / 3, 1 / 3]
    assert list(results.metrics().query("metric != 'ACR'").radius) == [0.0, 0.25] * 2

    for row, records in zip(acr.itertuples(), results, strict=True):
        estimate = average_certified_radius(records)
        assert (row.run, row.value, row.low, row.high) == (records.run, estimate.value, estimate.low, estimate.high)
    assert list(acr.value) == pytest.approx([DIGITS / 3, (0.378 + 0.25) / 3])
    assert list(acr.images) == ["every 2nd from 0 to 4 (3 of 10)", "every 2nd from 0 to 4 (3)"]
    assert acr.radius.isna().all()
    assert list(acr.n.isna()) == list(acr.sigma.isna()) == [False, True]
    assert acr.n.iloc[0] == 1000


def test_two_networks_are_compared_by_name(results, tmp_path):
    with pytest.raises(RecordsError, match="sigma is not recorded for x/radii; n is not"):
        results.compare("x/radii", "a")
    comparison = results.compare("x/radii", "a", despite=["sigma", "n", "alpha"])
    assert comparison.difference.value == pytest.approx((0.378 + 0.25 - DIGITS) / 3)
    assert "No significant difference in ACR" in str(comparison)
    with pytest.raises(RecordsError, match="named 'b'; there are a, x/radii"):
        results.compare("a", "b")
    with pytest.warns(UserWarning, match="last line is unfinished"), pytest.warns(UserWarning, match="incomplete"):
        told = load_results(tmp_path / "a", tmp_path / "x" / "radii.tsv", sigma=0.25, n=1000, alpha=0.001)
    assert told.compare("x/radii", "a").difference == compare(told["x/radii"], told["a"]).difference


def test_a_notebook_shows_the_table_and_the_plot(results, tmp_path):
    table = results.table([0.0])
    assert table == results_table(results.records, [0.0])
    assert results._repr_html_() == to_html(results_table(results.records))
    assert repr(results) == repr(results.table())
    assert "every 2nd from 0 to 4 (3 of 10)" in repr(results)
    figure = results.plot(title="title")
    assert figure._repr_png_().startswith(b"\x89PNG")
    figure.savefig(tmp_path / "curves.pdf")


def test_certificates_in_memory_are_results_too():
    rows = [
        Row.of(0, 3, Certificate(3, DIGITS, 0.9, 90.0, 100), 2.5),
        Row.of(4, 3, Certificate(-1, 0.0, 0.4, 40.0, 100), 1.5),
    ]
    facts = {"sigma": 0.25, "n": 100, "alpha": 0.001, "total": 10, "dataset": "digits", "method": "macer"}
    records = Records.from_rows("mine", "soft", rows, **facts)
    results = Results([records])
    assert results.names == ["mine soft"]
    (first, second) = results.frame().to_dict("records")
    assert first == {
        **{"run": "mine", "kind": "soft", "idx": 0, "label": 3, "predict": 3, "radius": DIGITS, "correct": True},
        **{"seconds": 2.5, "sigma": 0.25, "n": 100, "alpha": 0.001, "dataset": "digits", "method": "macer"},
        **{"total": 10, "p_a_lower": 0.9},
    }
    assert (second["idx"], second["predict"], second["correct"], second["seconds"]) == (4, -1, False, 1.5)
    assert results["mine soft"].images == "every 4th from 0 to 4 (2 of 10)"


def test_networks_of_one_name_are_told_apart(tmp_path):
    results = load_results(
        write_run(tmp_path / "x" / "a", kinds=("hard", "soft")),
        write_run(tmp_path / "y" / "a", (0.0, 0.1, 0.0), kinds=("hard", "soft")),
    )
    assert results.names == ["x/a", "x/a soft", "y/a", "y/a soft"]
    assert list(results.frame().groupby(["run", "kind"]).size()) == [3, 3, 3, 3]
    assert results.compare("x/a", "y/a").difference.value == pytest.approx(DIGITS / 3)


def test_the_kind_is_a_fact_and_not_part_of_a_name(tmp_path):
    """A run may be called "very soft"; its hard certificates are hard all the same."""
    results = load_results(write_run(tmp_path / "very soft"))
    assert [(records.run, records.kind) for records in results] == [("very soft", "hard")]
    results.write(tmp_path / "x.mat")
    assert {"hard", "soft"} & loadmat(tmp_path / "x.mat").keys() == {"hard"}
    several = load_results(tmp_path / "very soft", write_run(tmp_path / "very", kinds=("soft",)))
    assert several.names == ["very soft", "very (2) soft"]


def test_nothing_to_load_is_one_line(tmp_path):
    with pytest.raises(RecordsError, match="runs or files"):
        load_results()
    with pytest.raises(RecordsError, match="no such file"):
        load_results(tmp_path / "missing")


def as_read(file: Path) -> pd.DataFrame:
    """What another program finds in an exported file."""
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    if file.suffix == ".csv":
        return pd.read_csv(file, converters={"radius": float})  # Python's float is exact
    return pd.DataFrame(json.loads(file.read_text()))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
@pytest.mark.parametrize("name", ["a", "<script>alert(\"1\")</script>,\n\t'x'; é", "=1+1"])
def test_exported_rows_are_the_frame(results, tmp_path, suffix, name):
    all_records = [replace(results["a"], run=name), results["x/radii"]]
    file = tmp_path / f"results{suffix}"
    write_results(all_records, file)
    frame, read = to_frame(all_records), as_read(file)
    assert list(read.columns) == list(frame.columns)
    for column in frame.columns:
        assert list(read[column].isna()) == list(frame[column].isna()), column
        assert list(read[column].dropna()) == list(frame[column].dropna()), column
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", file.name, "x"]


def test_the_published_certificates_survive_every_format(shared, tmp_path):
    (records,) = read_records(shared / "reference" / "certificates" / "mnist-macer-lenet" / "noise_1.00.tsv")
    for suffix in (".parquet", ".csv"):
        write_results([records], tmp_path / f"x{suffix}")
        read = as_read(tmp_path / f"x{suffix}")
        assert np.array_equal(read.radius, records.radius)
        assert np.array_equal(read.correct, records.correct)
    write_results([records], tmp_path / "x.mat")
    (again,) = read_records(tmp_path / "x.mat")
    assert np.array_equal(again.certified_radius, records.certified_radius)
    assert again.idx is not None
    assert np.array_equal(again.idx, records.idx)
    assert again.images == records.images


def test_an_exported_mat_file_is_the_originals(tmp_path):
    run = write_run(tmp_path / "a", kinds=("hard", "soft"))
    write_results(read_records(run), tmp_path / "x.mat")
    content = loadmat(tmp_path / "x.mat")
    assert content["hard"].tolist() == content["soft"].tolist() == [[DIGITS, -1.0, -1.0]]
    assert content["idx"].tolist() == [[0, 2, 4]]
    hard, soft = read_records(tmp_path / "x.mat")
    assert hard.images == soft.images == "every 2nd from 0 to 4 (3)"
    write_results([hard, soft], tmp_path / "y.mat")
    assert loadmat(tmp_path / "y.mat")["soft"].tolist() == [[DIGITS, -1.0, -1.0]]
    write_results([replace(records, idx=None) for records in (hard, soft)], tmp_path / "z.mat")
    assert "idx" not in loadmat(tmp_path / "z.mat")

    other = write_run(tmp_path / "b")
    for several in ([*read_records(run), *read_records(other)], read_records(run)[:1] * 2):
        with pytest.raises(RecordsError, match="holds the certificates of one run, not of a, "):
            write_results(several, tmp_path / "n.mat")
    hard, soft = read_records(run)
    assert hard.idx is not None
    with pytest.raises(RecordsError, match="are of others"):
        write_results([hard, replace(soft, idx=hard.idx + 1)], tmp_path / "n.mat")
    assert not (tmp_path / "n.mat").exists()


def test_an_exported_latex_table_is_the_table_of_results(results, tmp_path):
    write_results(results.records, tmp_path / "x.tex")
    assert (tmp_path / "x.tex").read_text() == to_latex(results_table(results.records))


def test_an_unknown_format_is_one_line(results, tmp_path):
    with pytest.raises(SettingsError, match=r"x\.xlsx: the name of exported results ends in \.parquet, \.csv, "):
        write_results(results.records, tmp_path / "x.xlsx")


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_export_that_fails_leaves_the_older_file(tmp_path, monkeypatch, suffix):
    results = load_results(write_run(tmp_path / "a"))
    file = tmp_path / f"x{suffix}"
    file.write_text("older")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="could not be written: No space left on device"):
        write_results(results.records, file)
    assert file.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", file.name]


def test_the_command_decides_by_the_files_name(macer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    for suffix in WRITERS:
        said = macer("export", *(runs[:1] if suffix == ".mat" else runs), f"x{suffix}")
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith(f"x{suffix}: {Path(f'x{suffix}').stat().st_size:,} bytes; ")
    assert len(as_read(Path("x.parquet"))) == len(as_read(Path("x.csv"))) == len(as_read(Path("x.json"))) == 6
    said = macer.refuses("export", runs[0], "x.xlsx")
    assert all(suffix in said for suffix in (".safetensors", *WRITERS))
    assert "network of one run, not of 2" in macer.refuses("export", *runs, "x.safetensors")
    assert "one run, not of a, b" in macer.refuses("export", *runs, "y.mat")
