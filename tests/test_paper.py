"""The paper's tables and figures from records: what records know of sigma and method, and what training took."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from PIL import Image
from scipy.io import savemat

from macer.errors import RecordsError
from macer.files.toml import read_toml, write_toml
from macer.results import read_records
from macer.results.latex import to_latex
from macer.results.plots import radius_accuracy_figure, save_figure
from macer.results.tables import results_table, to_csv, to_markdown
from macer.results.times import TIMES, read_times, times_table
from macer.runs.certificates import SHARED_COLUMNS

pytest_plugins = ["command"]

CURVE = "epoch\tlearning_rate\tloss\tseconds\tnoisy_images\n1\t0.01\t2.6\t{0}\t5188\n2\t0.01\t2.3\t{0}\t5188\n"


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else tomli_w.dumps(content))


def make_run(
    directory,
    method,
    sigma=0.25,
    *,
    seconds="31.5",
    epochs: Any = 2,
    radius: float | None = 0.5,
    device="cuda (A)",
    step=20,
):
    """A run as training and certification write it; radius None: not certified."""
    training = {"dataset": "cifar10", "network": "resnet110", "epochs": epochs}
    objective = {"name": method, "sigma": sigma}
    environment = {"device": device, "threads": "8"}
    write(directory / "settings.toml", {"training": training, "objective": objective, "environment": environment})
    write(directory / "metrics.tsv", CURVE.format(seconds))
    if radius is not None:
        rows = "".join(f"{step * image}\t3\t3\t{radius}\t1\t1.0\n" for image in range(3))
        certification = {"sigma": sigma, "n": 1000, "alpha": 0.001, "total": 10_000, "num_img": 3, "dataset": "cifar10"}
        write(directory / "certificates" / "hard.tsv", "\t".join(SHARED_COLUMNS) + "\n" + rows)
        write(directory / "certificates" / "settings.toml", {"certification": certification})
    return directory


@pytest.mark.parametrize(
    ("path", "sigma", "method"),
    [
        ("cifar10-cohen-resnet110/noise_0.25.tsv", 0.25, "cohen"),
        ("SmoothAdv_best/noise_0.50.tsv", 0.5, "smoothadv"),
        ("noise_0.50/sigma_0.12", 0.12, None),  # the folder says how it was trained, the file how it was certified
        ("macer/sigma_1.00.tsv", 1.0, "macer"),
        ("macer-or-cohen/noise_0.25_v2.tsv", None, None),
        ("macerated/noise_0.00.tsv", None, None),
        ("x/0.25.tsv", None, None),
        ("x/noise_25.tsv", None, None),
        ("x/test_noise_0.25.tsv", None, None),
    ],
)
def test_sigma_and_method_by_a_name_that_leaves_no_doubt(tmp_path, path, sigma, method):
    write(tmp_path / path, "0\t3\t3\t0.1\t1\t15.4\n")
    (records,) = read_records(tmp_path / path)
    assert (records.sigma, records.method) == (sigma, method)
    assert records.from_name == {name for name, value in (("sigma", sigma), ("method", method)) if value is not None}
    assert dict(results_table([records]).shared).get("sigma") == (f"{sigma:g} (file name)" if sigma else None)
    assert records.name == path.removesuffix(".tsv")


def test_settings_go_before_names(tmp_path):
    for name in ("macer", "noise_0.25"):
        (records,) = read_records(make_run(tmp_path / name, "smoothadv", 0.5))
        assert (records.sigma, records.method, records.from_name) == (0.5, "smoothadv", frozenset())
        assert dict(results_table([records]).shared)["method"] == "SmoothAdv"


def test_method_is_known_wherever_in_a_run_the_certificates_lie(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", "cohen")
    deeper = run / "certificates" / "epoch-0200"
    deeper.mkdir()
    (run / "certificates" / "hard.tsv").rename(deeper / "hard.tsv")
    savemat(deeper / "certificates.mat", {"hard": [0.1, 0.2]})
    assert read_records(run)[0].method == read_records(deeper / "certificates.mat")[0].method == "cohen"
    monkeypatch.chdir(deeper)
    assert read_records(Path("hard.tsv"))[0].method == "cohen"


def test_certificates_between_epochs_stay_out_of_tables_of_finished_networks(macer, tmp_path):
    for name in ("finished", "stopped"):
        run = make_run(tmp_path / "all" / name, "cohen")
        early = run / "certificates" / "epoch-0200"
        early.mkdir()
        (early / "hard.tsv").write_bytes((run / "certificates" / "hard.tsv").read_bytes())
    (run / "certificates" / "hard.tsv").unlink()

    def rows(path):
        result = macer("table", path, "--format", "csv")
        return [line.split(",")[0] for line in result.out.splitlines()[1:]], "left out: 1 files of" in result.err

    assert rows(tmp_path / "all") == (["finished", "stopped/epoch-0200"], True)
    assert rows(tmp_path / "all" / "finished") == (["finished"], True)
    assert rows(tmp_path / "all" / "stopped") == (["stopped/epoch-0200"], False)
    asked = tmp_path / "all" / "finished" / "certificates" / "epoch-0200"
    assert rows(asked) == (["finished/epoch-0200"], False)


def test_sigma_of_a_mat_file_is_said_on_the_command_line(macer, tmp_path):
    savemat(tmp_path / "440.mat", {"hard": [0.1, -1.0]})
    assert "sigma: 0.25" in macer("table", tmp_path / "440.mat", "--sigma", 0.25).out
    assert "sigma: 0.25" not in macer("table", tmp_path / "440.mat").out
    assert macer("plot", tmp_path / "440.mat", "--sigma", 0.25, "--out", tmp_path / "a.png").code == 0
    assert "sigma" in macer.refuses("plot", tmp_path / "440.mat", "--sigma", -1)


@pytest.mark.parametrize("settings", [{"objective": 3}, {"objective": {"name": 3}}])
def test_a_method_that_is_no_name_is_refused(tmp_path, settings):
    run = make_run(tmp_path / "run", "cohen")
    write(run / "settings.toml", settings)
    with pytest.raises(RecordsError, match=r"settings\.toml: \w+ (must be a table|cannot be 3)"):
        read_records(run)


def test_the_figure_from_run_tsv_and_mat_mixed(tmp_path):
    runs = [
        make_run(tmp_path / f"run{number}", method, sigma, radius=0.1 * (number + 1))
        for number, (method, sigma) in enumerate([("macer", 0.25), ("cohen", 0.25), ("smoothadv", 1.0)])
    ]
    write(tmp_path / "published-cohen" / "noise_1.00.tsv", "0\t3\t3\t0.7\t1\t15.4\n")
    savemat(tmp_path / "440.mat", {"hard": [0.1, -1.0]})
    paths = [*runs, tmp_path / "published-cohen" / "noise_1.00.tsv", tmp_path / "440.mat"]
    figure = radius_accuracy_figure([records for path in paths for records in read_records(path)])
    assert [axes.get_title() for axes in figure.axes] == ["σ = 0.25", "σ = 1", "σ not recorded"]
    styles = [[line.get_linestyle() for line in axes.lines] for axes in figure.axes]
    assert styles[:2] == [["--", "-"], ["--", ":"]]
    save_figure(figure, [tmp_path / f"figure.{suffix}" for suffix in ("png", "svg", "pdf")])
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size[0] > 1800


def test_the_published_table_of_macer_on_mnist(shared):
    """Certified accuracy at 0.00 to 2.25 and ACR, grouped by sigma; counted from the files by awk."""
    folder = shared / "reference" / "certificates" / "mnist-macer-lenet"
    table = results_table(read_records(folder))
    assert table.header[:12] == ("", "sigma", *(f"{step / 4:.2f}" for step in range(10)))
    assert [row[1] for row in table.rows] == [f"{sigma} (file name)" for sigma in ("0.25", "0.5", "1")]
    assert table.rows[2][2:12] == (
        *("0.916", "0.881", "0.835", "0.777", "0.711", "0.637", "0.557", "0.468", "0.384", "0.292"),
    )
    assert [row[12][:5] for row in table.rows] == ["0.921", "1.590", "1.598"]
    assert (table.best, table.breaks) == (frozenset(), frozenset())  # one row a sigma


def test_the_table_of_training_times(tmp_path):
    runs = [
        make_run(tmp_path / "macer-run", "macer", seconds="504", radius=0.55),
        make_run(tmp_path / "cohen-run", "cohen", seconds="31.4", radius=0.4),
        make_run(tmp_path / "adv-run", "smoothadv", seconds="1990.1", radius=0.54),
        make_run(tmp_path / "macer-1", "macer", 1.0, seconds="0.01", radius=None, epochs=440),
    ]
    table = times_table([read_times(run) for run in runs])
    assert dict(table.shared) == {"data": "cifar10", "network": "resnet110", "device": "cuda (A)"}
    images = "every 20th from 0 to 40 (3 of 10,000)"
    columns = {
        "": ("cohen-run", "adv-run", "macer-run", "macer-1"),
        "method": ("Gaussian", "SmoothAdv", "MACER", "MACER"),
        "sigma": ("0.25", "0.25", "0.25", "1"),
        "images": (images, images, images, ""),
        "n": ("1,000", "1,000", "1,000", ""),
        "seconds per epoch": ("31.40", "1990.10", "504.00", "0.01"),
        "epochs": ("2", "2", "2", "2 of 440"),
        "hours": ("0.0174", "1.11", "0.28", "5.56e-06"),
        "million noisy images": ("0.0104",) * 4,
        "hours certifying": ("0.000833", "0.000833", "0.000833", ""),
        "ACR [95%]": ("0.400", "0.540", "0.550", ""),
        "ACR per hour": ("22.9", "0.488", "1.96", ""),
    }
    assert tuple(columns)[5:] == TIMES
    assert dict(zip(table.header, zip(*table.rows, strict=True), strict=True)) == columns
    assert table.best == {(0, 5), (0, 7), (2, 10)}
    assert table.breaks == {3}
    equal = {f"{run}: every image adds the same to ACR, which therefore has no interval" for run in columns[""][:3]}
    assert set(table.notes) == {"macer-1: training is not finished", *equal}
    for form in (to_markdown, to_latex, to_csv):
        assert "1990.10" in form(table)


def test_times_of_other_devices_and_certificates_of_other_images_are_not_ranked(tmp_path):
    runs = [
        make_run(tmp_path / "a", "cohen", seconds="1", radius=0.4, device="cpu (x86_64)"),
        make_run(tmp_path / "b", "macer", seconds="2", radius=0.5, step=1),
    ]
    table = times_table([read_times(run) for run in runs])
    assert not table.best
    assert [row[table.header.index("device")] for row in table.rows] == ["cpu (x86_64), threads: 8", "cuda (A)"]
    notes = [note for note in table.notes if "every image adds the same to ACR" not in note]
    assert [note.split()[-1] for note in notes] == ["comparable", "ones"]


def test_the_mean_and_the_sum_are_over_finished_epochs(tmp_path):
    run = make_run(tmp_path / "run", "cohen")
    write(run / "metrics.tsv", CURVE.format(1) + "3\t0.01\t2.3\t7\t5188\n4\t0.01\t2.3\t9")  # the last is cut off
    assert read_times(run)[0].curves["seconds"].tolist() == [1, 1, 7]
    assert times_table([read_times(run)]).rows[0][1:4] == ("3.00", "3", "0.0025")


def test_certificates_of_an_earlier_epoch_are_no_result_of_the_training(tmp_path):
    run = make_run(tmp_path / "run", "cohen", radius=0.4)
    settings = run / "certificates" / "settings.toml"
    for epoch, outdated in ((1, True), (2, False)):
        write_toml(settings, {"certification": {**read_toml(settings)["certification"], "epoch": epoch}})
        training, certified = read_times(run)
        assert (certified is None) == outdated
        told = "run: its certificates, of the network after epoch 1, are left out"
        assert (told in times_table([(training, certified)]).notes) == outdated
        notes = " ".join(results_table(read_records(run)).notes)
        assert ("of the network after epoch 1, which was trained on since then" in notes) == outdated


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        ("", "no training curves"),
        ("epoch\tloss\n1\t2\n", "no column of seconds"),
        (CURVE.splitlines()[0] + "\n", "no epoch is done"),
        (CURVE.format("nan"), "line 2: not 5 finite numbers of epoch 1"),
        (CURVE.format("-1"), "negative"),
        (CURVE.format("soon"), "line 2"),
        (CURVE.format(1) + "4\t0.01\t2.3\t9\t5188\n", "line 4: not 5 finite numbers of epoch 3"),
        (CURVE.format(1) + "3\t0.01\n", "line 4"),
    ],
)
def test_a_damaged_training_curve_is_refused(tmp_path, curve, says):
    run = make_run(tmp_path / "run", "cohen")
    write(run / "metrics.tsv", curve)
    with pytest.raises(RecordsError, match=r"metrics\.tsv") as caught:
        read_times(run)
    assert says in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="not the directory of a training run"):
        read_times(tmp_path)
    run = make_run(tmp_path / "run", "cohen", epochs="many")
    with pytest.raises(RecordsError, match="epochs cannot be 'many'"):
        read_times(run)
    (run / "metrics.tsv").write_bytes(b"\xff\xfe")
    write(run / "settings.toml", {})
    with pytest.raises(RecordsError, match="not a text file"):
        read_times(run)
    (run / "metrics.tsv").unlink()
    with pytest.raises(RecordsError, match=r"metrics\.tsv: not there yet: no epoch is done"):
        read_times(run)


def test_a_run_without_settings_of_its_method_still_has_times(tmp_path):
    run = make_run(tmp_path / "run", "cohen", radius=None)
    write(run / "settings.toml", {})
    table = times_table([read_times(run)])
    assert table.rows == (("run", "31.50", "2", "0.0175", "0.0104", "", "", ""),)
    assert table.shared == table.notes == ()


def test_the_command_writes_times_in_every_form(macer, tmp_path):
    run = make_run(tmp_path / "run", "cohen")
    table = times_table([read_times(run)])
    for form, function in (("markdown", to_markdown), ("latex", to_latex), ("csv", to_csv)):
        result = macer("times", run, "--format", form)
        assert (result.code, result.out) == (0, function(table))
        assert result.err == "".join(f"warning: {note}\n" for note in table.notes if form == "csv")
    out = tmp_path / "times.txt"
    assert macer("times", run, "--out", out).code == 0
    assert out.read_text().split()[:3] == ["seconds", "per", "epoch"]
    assert "not the directory of a training run" in macer.refuses("times", tmp_path)
