"""The directory of a run: one process enters it, with the same settings; its files are read as they were written."""

import re

import numpy as np
import pytest
import torch

from macer.errors import RecordsError, SettingsError
from macer.runs.certificates import (
    HEADER,
    Journal,
    Row,
    checksum,
    merge_rows,
    read_finished_journal,
    read_journal,
    write_journal,
)
from macer.runs.directory import open_directory, record_device
from macer.runs.environment import environment
from macer.runs.metrics import MetricsLog, read_metrics
from macer.runs.run import Run
from macer.smoothing import Certificate

CPU = torch.device("cpu")
SEVEN = "seven\t3\t3\t0.1\t1\t1.0\t0.9\t90\t100\t0\t\tda7a\tf00d"
TABLES = {"training": {"lr": 0.1, "root": "a"}}


def enter(directory, tables=TABLES, ignored=frozenset()):
    return open_directory(directory, tables, ignored=ignored, device=CPU)


def test_a_runs_directory_records_settings_and_environment(tmp_path):
    run = Run(tmp_path / "a" / "b")
    with enter(run.path) as entered:
        assert not entered
    found = run.settings()
    assert found["training"] == TABLES["training"]
    assert set(found["environment"]) - {"git_commit"} == {
        *("macer", "torch", "python", "platform", "device", "threads", "command", "started")
    }
    assert found["environment"]["torch"] == torch.__version__
    assert found["environment"]["device"].startswith("cpu")
    assert [file.name for file in run.path.iterdir()] == ["settings.toml"]
    for device in ("cuda (A)", "cuda (A)", "cuda (B)"):
        record_device(run, device)
    assert run.settings()["environment"]["device"] == [found["environment"]["device"], "cuda (A)", "cuda (B)"]
    commit = environment(CPU).get("git_commit")
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


def test_a_directory_is_entered_again_only_with_the_same_settings(tmp_path):
    run = Run(tmp_path / "run")
    with enter(run.path):
        pass
    first = run.settings_file.read_bytes()
    moved = {"training": {"lr": 0.1, "root": "b"}}
    with enter(run.path, moved, frozenset({"root"})) as entered:
        assert entered
    with pytest.raises(SettingsError, match=r"\(root: a there, b here\)"), enter(run.path, moved):
        pass
    assert run.settings_file.read_bytes() == first
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="file is not a directory"), enter(tmp_path / "file"):
        pass


def test_one_process_at_a_time_works_in_a_directory(tmp_path):
    with enter(tmp_path / "one"):
        for tables in (TABLES, {"training": {"lr": 9.0}}):  # whatever its settings are
            with (
                pytest.raises(SettingsError, match="another process is at work there"),
                enter(tmp_path / "one", tables),
            ):
                pass
        with enter(tmp_path / "other"):
            pass
    with enter(tmp_path / "one"):
        pass


def test_each_file_of_a_run_is_found_from_the_others(tmp_path):
    run = Run(tmp_path / "run")
    journal = run.certification.of_epoch(20).of_shard(1, 2).journal("hard")
    assert Run.around(journal) is None  # as long as no training is there
    with enter(run.path):
        assert Run.around(journal) == run
    assert Run.of_checkpoint(run.checkpoint_file) == run
    assert Run.of_checkpoint(run.path / "last.pt") is None
    assert run.name == "run"


def test_training_curves_are_read_as_written_and_a_torn_line_is_dropped(tmp_path):
    file = tmp_path / "metrics.tsv"
    for text, kept in (("epoch\tlo", ""), ("epoch\tloss\n1\t0.5\n1", "epoch\tloss\n1\t0.5\n")):
        file.write_text(text)
        with MetricsLog(file, tmp_path / "tensorboard", 9) as log:
            assert file.read_text() == kept
            log.write(10, {"loss": 0.25})
        assert file.read_text() == (kept or "epoch\tloss\n") + "10\t0.25\n"
    file.write_text("epoch\tloss\tseconds\n1\t0.5\t3\n2\t0.25\t4\n3\t0.1")
    curves = read_metrics(file)
    assert list(curves) == ["epoch", "loss", "seconds"]
    np.testing.assert_array_equal([curves[name] for name in curves], [[1, 2], [0.5, 0.25], [3, 4]])


@pytest.mark.parametrize(
    "text",
    [
        *("", "epoch\tloss\n", "loss\n1\n", "epoch\tloss\tloss\n1\t2\t3\n", "epoch\tloss\n1\tnan\n"),
        *("epoch\tloss\n1\t1\n3\t1\n", "epoch\tloss\n1\t2\t3\n", "epoch\tloss\n1\tx\n", "epoch\tloss\n1\t2\n\xff\n"),
    ],
)
def test_damaged_training_curves_are_refused(tmp_path, text):
    file = tmp_path / "metrics.tsv"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(RecordsError, match=re.escape(str(file))):
        read_metrics(file)


def write(file, *images):
    """A journal of images, each with its number, votes and seconds."""
    file.unlink(missing_ok=True)
    with Journal(file) as journal:
        for index, count, seconds in images:
            certificate = Certificate(1, count / 1000, count / 700, float(count), 700)
            journal.write(Row.of(index, 1, certificate, seconds, "d1ce", "f00d"))
    return file


def journals(*files):
    """Each file with its rows."""
    return [(file, read_journal(file)) for file in files]


def test_a_journal_is_read_as_written(tmp_path):
    file = write(tmp_path / "hard.tsv", (4, 600, 1.2345), (0, 500.25, 1.0))
    with Journal(file) as journal:
        assert set(journal.done) == {0, 4}
        journal.write(Row.of(2, 1, Certificate(-1, 0.0, 0.4, 300.0, 700), 0.0, "d1ce", "f00d"))
    text = file.read_text()
    rows = read_journal(file)
    assert list(rows) == [0, 2, 4]
    assert rows[0] == Row(0, 1, 1, 500.25 / 1000, 1.0, 500.25 / 700, 500.25, 700, None, "d1ce", "f00d")
    assert read_finished_journal(file) == (list(rows.values()), [])
    write_journal(file, rows)
    lines = text.splitlines()
    assert file.read_text().splitlines() == [lines[0], *sorted(lines[1:])]
    assert read_journal(file) == rows
    for edited in (text[:-1], text.replace("\n", "\r\n")[:-2], "\ufeff" + text):  # as editors leave it
        file.write_text(edited, encoding="utf-8", newline="")
        assert read_finished_journal(file) == (list(rows.values()), [])
    assert read_journal(tmp_path / "none.tsv") == {}


def test_rows_may_differ_in_time_and_rounding_and_in_nothing_else(tmp_path):
    one = write(tmp_path / "one.tsv", (4, 600, 1.0), (0, 500, 1.0))
    again = write(tmp_path / "again.tsv", (0, 500, 2.0), (8, 500, 2.0))
    merged = merge_rows(journals(one, tmp_path / "none.tsv", again))
    assert {idx: row.seconds for idx, row in merged.items()} == {0: 1.0, 4: 1.0, 8: 2.0}
    another = write(tmp_path / "another.tsv", (0, 501, 1.0))
    with pytest.raises(RecordsError, match=r"another\.tsv: image 0 was certified before with another result.*count"):
        merge_rows(journals(one, another))
    soft, rounded, other = (
        write(tmp_path / f"{name}.tsv", (0, count, 1.0))
        for name, count in (("soft", 500.123456), ("rounded", 500.123457), ("other", 500.9))
    )
    assert merge_rows(journals(soft, rounded)) == read_journal(soft)
    with pytest.raises(RecordsError, match=r"radius: 0\.500123456 there, 0\.5009 here"):
        merge_rows(journals(soft, other))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *((text, "not a journal") for text in ("idx\tlabel\n1\t2\n", "not a journal\n", "idx\n1\n2\t3\n")),
        (HEADER.replace("\n", "\r\n"), "its lines end as on Windows"),
        (HEADER + f"{SEVEN}\t{checksum(SEVEN)}\n", "line 2, column idx"),
        (HEADER + "7\t3\t3\n", "line 2: 3 columns"),
    ],
)
def test_what_is_no_journal_is_neither_merged_nor_written_to(tmp_path, text, says):
    file = tmp_path / "bad.tsv"
    file.write_text(text)
    with pytest.raises(RecordsError, match=rf"bad\.tsv.*{says}"):
        read_journal(file)
    with pytest.raises(RecordsError, match=rf"bad\.tsv.*{says}"), Journal(file):
        pass
    assert file.read_bytes() == text.encode()
