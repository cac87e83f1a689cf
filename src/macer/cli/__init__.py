"""The `macer` command: parses, calls, prints. No logic of its own."""

from macer.compute.interruption import ended_by_signals


def main() -> None:
    """Run the command. A signal ends it in one line from here on, also while it imports what takes seconds."""
    with ended_by_signals():
        from macer.cli.app import main as run

        run()
