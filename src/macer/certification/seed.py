"""The seed of a certification's noise: given, recorded by an earlier process, or drawn from the system's entropy.

A network that knows the noise can be certified falsely, so the seed is drawn when the network is fixed, and recorded.
"""

from dataclasses import replace
from pathlib import Path

from macer.certification.settings import FORMER, CertificationSettings
from macer.certification.shards import of_the_first
from macer.compute.seeding import seed_from_system
from macer.errors import SettingsError
from macer.runs.run import CertificationRun
from macer.runs.settings import require
from macer.smoothing.noise import SCHEME


def with_seed(settings: CertificationSettings, directory: Path | None) -> CertificationSettings:
    """Return the settings with the seed of the noise: the one they have, else the recorded one, else a new one.

    The shards of a certification are merged later, and take the same seed. The first to start leaves it in a file
    beside their directories.

    Args:
        settings: of the certification; `seed` may be None.
        directory: of the certificates; None if nothing is written.

    Raises:
        SettingsError: the directory holds certificates of an earlier version's noise, or another seed is given than
            the other shards have.
        OSError: the seed cannot be written for the other shards.
    """
    if directory is None:
        return replace(settings, seed=_known(settings.seed, seed_from_system()))
    recorded = CertificationRun(directory).recorded("certification")
    scheme = recorded.get("noise", FORMER["noise"]) if recorded else SCHEME
    require(
        scheme == SCHEME,
        f"{directory} holds certificates with the noise of an earlier version of macer: they can still be read, but "
        "not continued; choose another directory",
    )
    seed = _known(settings.seed, recorded.get("seed"))
    if settings.shard is not None:
        seed = _of_all_shards(directory.parent, seed)
    return replace(settings, seed=_known(seed, seed_from_system()))


def _of_all_shards(directory: Path, seed: int | None) -> int:
    """Return the seed in a file that the first shard writes, and refuse another one."""
    file = CertificationRun(directory).shards_seed_file
    first = {
        "seed": _known(seed, CertificationRun(directory).recorded("certification").get("seed"), seed_from_system())
    }
    shared = of_the_first(file, first).get("seed")
    if not isinstance(shared, int):
        raise SettingsError(f"{file}: holds no seed")
    require(seed in (None, shared), f"{file}: the seed of the other shards is {shared}, not {seed}")
    return shared


def _known(*seeds: int | None) -> int | None:
    return next((seed for seed in seeds if seed is not None), None)
