"""The `macer` command: parses, calls, prints. No logic of its own."""

from macer.cli.app import main

__all__ = ["main"]
