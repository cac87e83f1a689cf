"""Files are replaced whole or not at all."""

import os

import pytest

from macer.files.replacing import replacing


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), ValueError("odd"), KeyboardInterrupt()])
def test_whatever_fails_the_older_file_stays_and_nothing_else(tmp_path, failure):
    file = tmp_path / "result.tsv"
    file.write_text("older")

    def fail() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half of the ne")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert file.read_text() == "older"
    assert os.listdir(tmp_path) == ["result.tsv"]


def test_what_a_link_points_to_is_replaced(tmp_path):
    file, link = tmp_path / "result.tsv", tmp_path / "link.tsv"
    file.write_text("older")
    link.symlink_to(file)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_device_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(pipe) as stream:
            stream.write_text("a table")
        assert os.read(reader, 100) == b"a table"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
