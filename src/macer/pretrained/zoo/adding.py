"""From exported weights and their certificates to the three files of a network in the zoo."""

import re
import shutil
from pathlib import Path

from macer.certification.prepare import digest
from macer.certification.settings import MACHINE_SETTINGS
from macer.errors import CheckpointError, RecordsError
from macer.files.replacing import replacing
from macer.files.toml import write_toml
from macer.models.weights import read_safetensors
from macer.pretrained import zoo
from macer.pretrained.exported import read_header, without_places, write
from macer.pretrained.find import find_network
from macer.results import average_certified_radius, read_records
from macer.runs.directory import read_settings
from macer.runs.settings import require

_LARGEST = 1_000_000  # bytes: everybody who installs the package loads every network of the zoo


def add(file: Path, certificates: Path, name: str) -> None:
    """Put a network into the zoo, or in place of the one of this name.

    Args:
        file: its weights, as `macer.pretrained.exported.export` writes them.
        certificates: the directory of finished hard certificates of this very file.
        name: of the network in the zoo.

    Raises:
        SettingsError: an impossible name, a file too large, or no settings beside the certificates.
        CheckpointError: the file is not such a one.
        RecordsError: the certificates are another network's, not finished, or do not say what computed them.
        OSError: the zoo cannot be written.
    """
    require(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) is not None, f"a name has a-z, 0-9, dot and dash, not {name!r}")
    header = read_header(file)
    if header is None:
        raise CheckpointError(f"{file}: does not say how it was made; `macer export` writes such files")
    size = file.stat().st_size
    require(size < _LARGEST, f"{file}: {size:,} bytes; networks of the zoo have less than {_LARGEST:,}")
    found = find_network(file)
    assert found.num_classes is not None
    assert found.shape is not None
    network = found.build(found.num_classes, found.shape)
    made = read_settings(certificates)
    left_out = MACHINE_SETTINGS - {"method"}
    certification = {key: value for key, value in made.get("certification", {}).items() if key not in left_out}
    if certification.get("digest") != digest(network.state_dict()):
        raise RecordsError(f"{certificates}: certificates of another network than {file}")
    device = made.get("environment", {}).get("device")
    if device is None:
        raise RecordsError(f"{certificates}: its settings.toml does not say what computed the certificates")
    journal = certificates / "hard.tsv"
    (records,) = read_records(journal)
    if records.notes:
        raise RecordsError(records.notes[0])
    acr = average_certified_radius(records)
    result = {
        "acr": round(acr.value, 6),
        "acr_interval": [round(acr.low, 6), round(acr.high, 6)],
        "images": records.images,
        "certified_on": device,
    }
    # A network is listed by its card: it goes first and comes last, so that no card stands beside another's files.
    header = without_places(header)
    card = zoo.FOLDER / f"{name}.toml"
    card.unlink(missing_ok=True)
    write(zoo.FOLDER / f"{name}.safetensors", read_safetensors(file), header)
    with replacing(zoo.FOLDER / f"{name}.tsv") as temporary:
        shutil.copyfile(journal, temporary)
    tables = {table: header.get(table, {}) for table in ("network", "training", "objective", "environment")}
    write_toml(card, {"result": result, **tables, "certification": certification})
