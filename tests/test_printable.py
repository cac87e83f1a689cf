"""What comes from files is shown on a terminal, and obeyed by none."""

import io

import pytest
import torch
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from macer.files.printable import Terminal

pytest_plugins = ["command"]

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\x9b31md\u202ee[bold] hf:dog:"
# Rich leaves the bell and the carriage return out by itself.
SHOWN = "a\ufffd[2J\ufffd]0;titlebc\ufffd31md\ufffde[bold] hf:dog:"


def table() -> Table:
    columns = Table(HOSTILE)
    columns.add_row(Text(HOSTILE))
    return columns


@pytest.mark.parametrize("what", [HOSTILE, Text(HOSTILE, style="bold"), table()], ids=["text", "styled", "table"])
def test_commands_in_what_is_printed_are_shown(what: object) -> None:
    stream = io.StringIO()
    Terminal(file=stream, width=200, force_terminal=False).print(what)
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(stream.getvalue())
    assert stream.getvalue().endswith("\n")
    if isinstance(what, str):
        assert stream.getvalue() == SHOWN + "\n"


def test_lines_of_text_stay_whole_without_colours_and_tables_are_made_to_fit() -> None:
    stream = io.StringIO()
    terminal = Terminal(file=stream, width=20, force_terminal=True, color_system="standard")
    terminal.print("warning: 3 of 10 images, of 'mnist', are missing in /a/directory")
    assert stream.getvalue() == "warning: 3 of 10 images, of 'mnist', are missing in /a/directory\n"
    grid = Table.grid()
    grid.add_row("one two three four five six")
    terminal.print(grid)
    assert stream.getvalue().splitlines()[1:] == ["one two three four  ", "five six            "]


def test_a_bar_still_moves() -> None:
    stream = io.StringIO()
    with Progress(console=Terminal(file=stream, width=80, force_terminal=True)) as progress:
        progress.update(progress.add_task(HOSTILE, total=2), advance=1)
    assert "\x1b[?25l" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_the_command_prints_names_in_files_as_text(macer, tmp_path) -> None:
    file = tmp_path / "w\x1b[2J.pt"
    torch.save({"state_dict": {"fc\x1b[31m.weight": torch.ones(2, 2)}, "arch": "\x1b[2J"}, file)
    said = macer.refuses("certify", file, "--dataset", "digits", "--sigma", 0.25)
    assert "\x1b" not in said
    assert "w\ufffd[2J.pt: Cohen/Salman checkpoint" in said
