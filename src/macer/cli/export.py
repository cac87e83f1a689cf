"""macer export."""

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from macer.cli.results import read_paths, warn
from macer.errors import SettingsError
from macer.files.printable import printable
from macer.files.replacing import replacing
from macer.pretrained import zoo
from macer.pretrained.exported import export, read_header
from macer.pretrained.find import find_network


def export_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Runs' directories, zoo:NAME; for certificates also .tsv and .mat files."),
    ],
    file: Annotated[
        Path, typer.Argument(help="File to write, named .safetensors, .parquet, .csv, .json, .mat, .tex or .md.")
    ],
) -> None:
    """Write a run's network, or certificates, to one file.

    The name of the file chooses the format. .safetensors: the network in half precision, with its settings; certify
    that file next. .parquet, .csv, .json: one row per image and network. .mat: one run's radii, as the original program
    stores them. .tex and .md: the table of results.
    """
    if file.suffix == ".safetensors":
        if len(paths) > 1:
            raise SettingsError(f"{file}: is for the network of one run, not of {len(paths)}")
        if zoo.is_of_zoo(paths[0]):
            found = find_network(paths[0])  # it refuses one that its card does not describe
            with replacing(file) as temporary:
                shutil.copyfile(zoo.weights_file(found.source), temporary)
        else:
            export(paths[0], file)
        header = read_header(file)
        assert header is not None
        network = header["training"]["network"]
        words = [str(file), "--network", network] if ":" in network else [str(file)]
        next_command = shlex.join(["macer", "certify", *words])
        typer.echo(printable(f"{file}: {file.stat().st_size:,} bytes; next: {next_command}"))
        return

    from macer.results.writing import WRITERS, write_results  # slow to import

    if file.suffix.lower() not in WRITERS:
        raise SettingsError(
            f"{file}: the name of a network's file ends in .safetensors, that of certificates in {', '.join(WRITERS)}"
        )
    all_records = read_paths(paths)
    write_results(all_records, file)
    warn(note for records in all_records for note in records.notes)
    typer.echo(printable(f"{file}: {file.stat().st_size:,} bytes; {sum(map(len, all_records)):,} certificates"))
