"""Network, denoiser and images of certificates on disk: where their settings say, or where a person says."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from macer import models
from macer.certification.prepare import Plan, prepare
from macer.certification.settings import CHOICE, CertificationSettings
from macer.data import LabelledImages
from macer.data.own import PREFIX as OWN
from macer.errors import DataError, SettingsError
from macer.models.normalization import recorded_name
from macer.models.weights import read_weights_file
from macer.pretrained import zoo
from macer.pretrained.denoisers import FoundDenoiser, find_denoiser
from macer.pretrained.find import FoundNetwork, find_network
from macer.runs.run import CertificationRun, Run
from macer.runs.settings import IMAGES_DIGEST, differences, require
from macer.smoothing.words import SCHEME

_GIVEN = frozenset(
    {"dataset", "checkpoint", "network", "digest", "total", "classes", "class_names", "shape", "method"}
    | {"normalisation", "denoiser", "denoiser_digest", "dtype", IMAGES_DIGEST}
)
"""Settings that `prepare` finds by itself."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where network and images are, in place of where the settings say.

    Attributes:
        checkpoint: a file or run, as for `find_network`. Default: that of the run around, or the recorded path.
        network: package.module:function of a network that is code, which is run. Default: the recorded name.
        denoiser: as for `find_denoiser`. Default: the recorded one, if it is no code.
        root: directory of the data set. Default: the recorded one.
        images: the images, in place of a data set by name.
    """

    checkpoint: Path | None = None
    network: str | None = None
    denoiser: Any = None
    root: Path | None = None
    images: LabelledImages | None = None


def plan_of(run: CertificationRun, settings: CertificationSettings, places: Places) -> Plan:
    """Return the network and the images that the settings record.

    Raises:
        SettingsError: they have the noise of another version, or network or images are others or not there.
        MacerError: network or images cannot be read.
    """
    require(
        settings.noise == SCHEME,
        f"{run} has the noise of another version, which this one does not draw: only its arithmetic can be checked, "
        "with no images to evaluate",
    )
    require(settings.seed is not None, f"{run.settings_file} does not say the seed of the noise")
    require(
        places.images is not None or not settings.dataset.startswith(OWN),
        f"{run}: its images were given in Python: only its arithmetic can be checked, with `images=0`",
    )
    network = _network(run, settings, places)
    left_out = _GIVEN | CHOICE | ({"root", "split"} if places.images is not None else set())
    chosen = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in left_out}
    if places.root is not None:
        chosen["root"] = str(places.root)
    if settings.carry is not None:
        chosen["carry"] = str(_recorded_carry(run, settings.carry))
    dataset = None if places.images is not None else settings.dataset
    denoiser = _denoiser(run, settings, places)
    try:
        plan = prepare(network, dataset=dataset, chosen=chosen, images=places.images, denoiser=denoiser)
    except DataError as error:
        root = chosen.get("root")
        where = f": {root} is the recorded path, from another directory give `root`"
        moved = places.root is None and root is not None and not Path(root).exists()
        raise DataError(f"{error}{where if moved else ''}") from error
    tables = [each.tables()["certification"] for each in (settings, plan.settings)]
    found = differences(*tables, ignored=settings.machine_settings | CHOICE | {IMAGES_DIGEST})  # each row has its own
    if settings.shape not in (None, plan.settings.shape):
        found.append(f"shape: {settings.shape} there, {plan.settings.shape} here")
    require(not found, f"{run} is not of this network or data set ({'; '.join(found)})")
    return plan


def _network(run: CertificationRun, settings: CertificationSettings, places: Places) -> FoundNetwork:
    """Return the network at the recorded place or where `places` say, in which case alone code is run."""
    known = settings.network in models.NETWORKS
    network = places.network or (settings.network if known else None)
    of = "" if settings.network == settings.checkpoint else f" of {settings.checkpoint}"
    wanted = "network" if ":" in settings.network else "checkpoint"  # a program is one file
    require(
        known or places.checkpoint is not None or places.network is not None,
        f"{run}: its network is code, {settings.network!r}{of}: give it as `{wanted}` to allow that it is run",
    )
    file = places.checkpoint
    code_alone = ":" in settings.network and settings.checkpoint == settings.network
    if file is None and not code_alone:
        file = recorded_checkpoint(run, settings)
        require(
            file.is_file(), f"{run}: its weights were in {file}, which is not here: give their file as `checkpoint`"
        )
        read_weights_file(file)  # refuses programs: the author of the settings chose this file
    return find_network(file, network, recorded_name(settings.normalisation), settings.weights)


def _denoiser(run: CertificationRun, settings: CertificationSettings, places: Places) -> FoundDenoiser | None:
    """Return the denoiser at the recorded place or where `places` say, in which case alone code is run."""
    if places.denoiser is not None:
        require(settings.denoiser is not None, f"{run} was made without a denoiser")
        return find_denoiser(places.denoiser)
    if settings.denoiser is None:
        return None
    place = _recorded_place(run, settings.denoiser)
    if place is None:
        raise SettingsError(
            f"{run}: its denoiser {settings.denoiser!r} is code, or not at its place: give it as `denoiser` to allow "
            "that it is run"
        )
    if place.is_file():
        read_weights_file(place)  # refuses programs
    return find_denoiser(place)


def _recorded_carry(run: CertificationRun, path: str) -> Path:
    """Return where the certificates are that were carried over."""
    place = _recorded_place(run, path)
    if place is None:
        raise SettingsError(
            f"{run}: carried over from {path}, which is not here: only the arithmetic can be verified, with no "
            "images to evaluate"
        )
    return place


def recorded_checkpoint(run: CertificationRun, settings: CertificationSettings) -> Path:
    """Return the file that was certified: the checkpoint of this name in the run around, or where its path leads."""
    recorded = zoo.located(settings.checkpoint)
    around = Run.around(run.settings_file)
    own = None if around is None else around.checkpoint_file.parent / recorded.name
    return own if own and own.is_file() else _recorded_place(run, recorded, Path.is_file) or recorded


def _recorded_place(
    run: CertificationRun, path: str | Path, is_there: Callable[[Path], bool] = Path.exists
) -> Path | None:
    """Return where a recorded path leads, from here or from a directory above the certificates; None: nowhere."""
    places = (parent / path for parent in (Path(), *run.path.resolve().parents))
    return next(filter(is_there, places), None)
