"""The command itself, and how errors reach a person: one line and an exit code."""

import inspect
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import torch
import typer

import macer
from macer.cli.ablate import ablate_command
from macer.cli.certify import certify_command
from macer.cli.compare import compare_command
from macer.cli.demo import demo_command
from macer.cli.export import export_command
from macer.cli.merge import merge_command
from macer.cli.options import with_dashes
from macer.cli.original import main_command
from macer.cli.recipes import recipes_command
from macer.cli.report import report_command
from macer.cli.results import plot_command, table_command, times_command
from macer.cli.teacher import teacher_command
from macer.cli.train import train_command
from macer.cli.verify import verify_command
from macer.cli.zoo import zoo_command
from macer.compute.interruption import Interrupted, Stopped, say_stopped, stopped_by_signals
from macer.errors import MacerError
from macer.files.printable import Terminal, printable

# The base class of Typer's own errors, which it does not export.
_UsageError = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Train image classifiers to be provably robust, and prove it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",  # groups of options need it; give defaults in words by show_default, not in brackets
    # --gauss_num and --gauss-num are the same word: the original spells its options with underscores.
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
_PANELS = {
    "Train": (train_command, recipes_command, teacher_command, zoo_command, demo_command),
    "Certify": (certify_command, verify_command, merge_command),
    "Results": (table_command, times_command, plot_command, compare_command, report_command, export_command),
    "From the paper": (main_command, ablate_command),
}
"""The commands, by the groups that `--help` shows them in. A command has the name of its function."""
for panel, commands in _PANELS.items():
    for command in commands:
        # A terminal breaks lines where it needs to, not where a docstring does.
        paragraphs = (inspect.getdoc(command) or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(command.__name__.removesuffix("_command"), help=text, rich_help_panel=panel)(command)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"macer {macer.__version__}, torch {torch.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command. `--debug`, anywhere, shows Python's traceback of an error instead of its one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may not be valid text
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        with stopped_by_signals():
            code = _run(debug=debug)
    except Stopped as stopped:
        if debug:
            raise
        say_stopped()
        code = 128 + stopped.signal_number
    sys.exit(code)


def _run(*, debug: bool) -> int:
    """Run the command, explain an error, and return the exit code."""
    try:
        return app(standalone_mode=False) or 0
    except (Exception, Interrupted) as error:
        if debug:
            raise
        text, code = _explain(error)
        Terminal(stderr=True).print(f"macer: {printable(text)}")
        return code


def _explain(error: Exception | Interrupted) -> tuple[str, int]:
    """Return one line and the exit code: 2 for what a user can mend, 128 + the signal's number for a signal."""
    if isinstance(error, Interrupted):
        return str(error), 128 + error.signal_number
    if isinstance(error, MacerError):
        return with_dashes(str(error), _options_at_hand()), 2
    if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
        return "not enough memory: choose a smaller --batch-size (in training, or a --micro-batch)", 2
    if isinstance(error, typer.Abort):
        return "stopped: there is no more input", 1
    if isinstance(error, _UsageError):
        return _explain_usage(error), 2
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}", 2
    text = (str(error).splitlines() or [""])[0]
    return (
        f"a defect in macer, or in code that it was given: {type(error).__name__}: {text} (--debug shows where)",
        1,
    )


def _options_at_hand() -> list[str]:
    """Return the names of the options that the command has which was given."""
    given = [each.callback for each in app.registered_commands if each.callback and [each.name] == sys.argv[1:2]]
    return [name for command in given for name in inspect.signature(command).parameters]


def _explain_usage(error: Any) -> str:
    said = error.format_message().replace("Value error, ", "").rstrip(".")  # the words are Pydantic's
    command = f"{' See' if said.endswith('?') else '; see'} {error.ctx.command_path} --help" if error.ctx else ""
    return said + command
