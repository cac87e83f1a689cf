"""The seed of a certification's noise: given, recorded by an earlier process, or drawn from the system's entropy.

A network that knows the noise can be certified falsely, so the seed is drawn when the network is fixed, and recorded.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from macer.certification.settings import CertificationSettings
from macer.certification.shards import of_the_first
from macer.compute.seeding import seed_from_system
from macer.errors import SettingsError
from macer.runs.run import CertificationRun
from macer.runs.settings import require
from macer.smoothing.words import SCHEME

_OF_NETWORK = ("network", "digest", "code", "denoiser_digest")
"""Settings by which a network is known to be the one that was fixed when a seed was drawn."""


def with_seed(settings: CertificationSettings, directory: Path | None) -> CertificationSettings:
    """Return the settings with the seed of the noise: the one they have, else the recorded one, else a new one.

    The shards of a certification are merged later, and take the same seed. The first to start leaves it in a file
    beside their directories, with the digests of its network: no other network takes this seed.

    Args:
        settings: of the certification; `seed` may be None.
        directory: of the certificates; None if nothing is written.

    Raises:
        SettingsError: the directory holds certificates with another version's noise, or the other shards have another
            network, or another seed than is given.
        OSError: the seed cannot be written for the other shards.
    """
    if directory is None:
        return replace(settings, seed=_known(settings.seed, seed_from_system()))
    recorded = CertificationRun(directory).recorded("certification")
    require(
        not recorded or recorded.get("noise") == SCHEME,
        f"{directory} holds certificates with the noise of another version of macer: they can be read, but not "
        "continued; choose another directory",
    )
    seed = _known(settings.seed, recorded.get("seed"))
    if settings.shard is not None:
        seed = _of_all_shards(directory.parent, settings, seed)
    return replace(settings, seed=_known(seed, seed_from_system()))


def _of_all_shards(directory: Path, settings: CertificationSettings, seed: int | None) -> int:
    """Return the seed in a file that the first shard writes, and refuse another seed or network."""
    run = CertificationRun(directory)
    network = {name: value for name in _OF_NETWORK if (value := getattr(settings, name)) is not None}

    def is_of_network(table: dict[str, Any]) -> bool:
        return {name: table[name] for name in _OF_NETWORK if name in table} == network

    merged = run.recorded("certification")
    earlier = merged.get("seed") if is_of_network(merged) else None
    first = of_the_first(run.shards_seed_file, {"seed": _known(seed, earlier, seed_from_system()), **network})
    shared = first.get("seed")
    if not isinstance(shared, int):
        raise SettingsError(f"{run.shards_seed_file}: holds no seed")
    require(
        is_of_network(first),
        f"{run.shards_seed_file}: this seed was drawn for another network, and a network must be fixed before its seed "
        "is drawn: certify into another directory, or delete this file",
    )
    require(seed in (None, shared), f"{run.shards_seed_file}: the seed of the other shards is {shared}, not {seed}")
    return shared


def _known(*seeds: int | None) -> int | None:
    return next((seed for seed in seeds if seed is not None), None)
