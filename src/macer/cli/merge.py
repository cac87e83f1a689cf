"""macer merge."""

from pathlib import Path
from typing import Annotated

import typer

from macer.certification.merge import merge_directories
from macer.cli.results import print_results
from macer.files.printable import Terminal


def merge_command(
    directories: Annotated[list[Path], typer.Argument(help="Directories of certificates, such as those of shards.")],
    out: Annotated[Path, typer.Option(help="Directory to write the merged certificates to.")],
) -> None:
    """Merge certificates of parts of a data set into one directory.

    All settings but the shard must be the same. Merging again changes nothing. If images are missing, the exit code is
    1: run macer certify with the same options but without --shard, and with this directory as --out.
    """
    console = Terminal()
    merged = merge_directories(directories, out)
    done = merged.total - len(merged.missing)
    if done:
        print_results(console, sorted(out.glob("*.tsv")))  # and not the shards below it
    lacking = f"; {len(merged.missing)} missing, the first is image {merged.missing[0]}" if merged.missing else ""
    text = f"merged into {out}: {done} of {merged.total} images{lacking}"
    console.print(text)
    if merged.missing:
        raise typer.Exit(1)
