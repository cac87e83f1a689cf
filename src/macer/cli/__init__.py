"""The `macer` command: parses, calls, prints. No logic of its own."""

import sys

from macer.compute.interruption import ended_by_signals
from macer.errors import MacerError


def main() -> None:
    """Run the command. A signal ends it in one line from here on, also while it imports what takes seconds."""
    with ended_by_signals():
        try:
            from macer.cli.app import main as run
        except MacerError as error:  # a training method that was added lacks something
            if "--debug" in sys.argv:
                raise
            print(f"macer: {error}", file=sys.stderr)
            sys.exit(2)
        run()
