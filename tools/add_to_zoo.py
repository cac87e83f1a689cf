"""Put exported weights and their certificates into the zoo of this checkout.

    macer export runs/mnist-macer mnist.safetensors
    macer certify mnist.safetensors --root DIR --out certificates
    .venv/bin/python tools/add_to_zoo.py mnist.safetensors certificates mnist-macer-0.25

The card NAME.toml is computed from the weights and the certificates.
"""

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

from macer.certification.settings import machine_settings
from macer.errors import CheckpointError, MacerError, RecordsError, SettingsError
from macer.files.replacing import replacing
from macer.files.toml import write_toml
from macer.models.digest import digest
from macer.models.weights import read_safetensors
from macer.pretrained import zoo
from macer.pretrained.exported import portable, read_header, write
from macer.pretrained.find import find_network
from macer.results import average_certified_radius, read_records
from macer.results.reading import spending_notes
from macer.runs.certificates import read_finished_journal
from macer.runs.run import CertificationRun

LARGEST = 2_000_000  # bytes: everybody who installs the package loads every network of the zoo


def add(file: Path, certificates: Path, name: str) -> None:
    """Put a network into the zoo, or replace the one of this name.

    Args:
        file: its weights, as `macer export` writes them.
        certificates: the directory of the finished hard certificates of this file.
        name: of the network in the zoo.

    Raises:
        SettingsError: the name is impossible, the file is too large, or no settings lie beside the certificates.
        CheckpointError: the file does not say how it was made.
        RecordsError: the certificates are another network's, are not finished, or do not say what computed them.
        OSError: the zoo cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise SettingsError(f"a name has a-z, 0-9, dot and dash, not {name!r}")
    header = read_header(file)
    if header is None:
        raise CheckpointError(f"{file}: does not say how it was made; `macer export` writes files that do")
    if (size := file.stat().st_size) >= LARGEST:
        raise SettingsError(f"{file}: {size:,} bytes; networks of the zoo have less than {LARGEST:,}")
    header = portable(header)
    run = CertificationRun(certificates)
    journal, made = run.journal("hard"), run.settings()
    certification = _certification(file, certificates, made)
    result = _result(journal, made)
    # The zoo lists cards. The old card goes first and the new one comes last, so that none describes other files.
    card = zoo.FOLDER / f"{name}.toml"
    card.unlink(missing_ok=True)
    write(zoo.FOLDER / f"{name}.safetensors", read_safetensors(file), header)
    with replacing(zoo.FOLDER / f"{name}.tsv") as temporary:
        shutil.copyfile(journal, temporary)
    tables = {table: header.get(table, {}) for table in ("network", "training", "objective", "environment")}
    write_toml(card, {"result": result, **tables, "certification": certification})


def _certification(file: Path, certificates: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the certificates, after checking that they are those of this file's network."""
    found = find_network(file)
    assert found.num_classes is not None
    assert found.shape is not None
    network = found.build(found.num_classes, found.shape)
    left_out = machine_settings(made.get("certification", {}).get("precision", "32-true")) - {"method"}
    certification = {key: value for key, value in made.get("certification", {}).items() if key not in left_out}
    if certification.get("digest") != digest(network.state_dict()):
        raise RecordsError(f"{certificates}: certificates of another network than {file}")
    return certification


def _result(journal: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Return the average certified radius of finished certificates, over which images, and what computed it."""
    device = made.get("environment", {}).get("device")
    if device is None:
        raise RecordsError(f"{journal.parent}: its settings.toml does not say what computed the certificates")
    (records,) = read_records(journal)
    rows, _ = read_finished_journal(journal)
    # Images whose selected class is wrong have radius 0 in a table, however many samples are spent on them.
    certification = made.get("certification", {})
    spared = [row.n for row in rows].count(0) if certification.get("spend") == "for-table" else 0
    allowed = spending_notes(records.run, certification, spared) if spared else []
    if others := [note for note in records.notes if note not in allowed]:
        raise RecordsError(others[0])
    acr = average_certified_radius(records)
    return {
        "acr": round(acr.value, 6),
        "acr_interval": [round(acr.low, 6), round(acr.high, 6)],
        "images": records.images,
        "certified_on": device,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Put a network with its certificates into the zoo of this checkout.")
    parser.add_argument("file", type=Path, help="weights that `macer export` wrote")
    parser.add_argument("certificates", type=Path, help="directory of that file's certificates")
    parser.add_argument("name", help="name in the zoo, such as mnist-macer-0.25")
    arguments = parser.parse_args()
    try:
        add(arguments.file, arguments.certificates, arguments.name)
    except (MacerError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(f"zoo:{arguments.name} is in {zoo.FOLDER}")
