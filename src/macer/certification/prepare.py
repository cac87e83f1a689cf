"""From a network and a person's choices to everything that a certification needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from macer import data
from macer.certification.settings import CertificationSettings
from macer.data import LabelledImages
from macer.data.images import digest_of_some
from macer.data.own import PREFIX as OWN
from macer.data.own import OwnDataset, doubts_about_scale
from macer.errors import DataError, SettingsError
from macer.models.denoised import Denoised
from macer.models.digest import answers, code_digest, digest, probe
from macer.models.in_memory import class_names_of
from macer.pretrained.denoisers import FoundDenoiser
from macer.pretrained.found import FoundCode, FoundNetwork
from macer.smoothing.grid import LARGEST_SIGMA
from macer.smoothing.independence import check_modules
from macer.smoothing.radius import doubts_about_sigma

_SAMPLE = 5
"""Images whose classes show whether images are sorted by class."""


@dataclass(frozen=True)
class Plan:
    """A certification ready to run.

    Attributes:
        settings: all that decides the certificates.
        network: the weights to certify, on the CPU.
        images: the split to certify.
        notes: what was taken from training and may surprise.
        warnings: what a person should know before believing the result.
    """

    settings: CertificationSettings
    network: nn.Module
    images: LabelledImages
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def prepare(
    found: FoundNetwork,
    *,
    dataset: str | None = None,
    chosen: Mapping[str, Any],
    images: LabelledImages | None = None,
    denoiser: FoundDenoiser | None = None,
) -> Plan:
    """Return a certification with everything resolved that was not chosen: data set, root, sigma, beta, images.

    Args:
        found: the network.
        dataset: the data set's name, or None for the one trained on.
        chosen: values of fields of `CertificationSettings`, by name.
        images: what to certify, in place of the split of a data set by name.
        denoiser: what stands in front of the network.

    Raises:
        SettingsError: settings that are impossible, or neither given nor known from training.
        DataError: the data is not there, or has the network's classes in another order.
        CheckpointError: the network does not fit the data.
    """
    training = found.trained
    dataset = images.name if images is not None else dataset or training.dataset
    if dataset is None:
        raise SettingsError(f"{found.source} does not say what it was trained on: give images, or `dataset`")
    values = training.where(dataset) | dict(chosen)
    trained = found if denoiser is None else denoiser
    if values.setdefault("sigma", trained.sigma) is None:
        raise SettingsError(f"{trained.source} does not say with which sigma it was trained: give `sigma`")
    if isinstance(values["sigma"], str):
        raise SettingsError(f"sigma must be a positive number, in units of [0, 1] pixels, not {values['sigma']!r}")
    notes = [] if found.doubt is None else [found.doubt]
    if values.get("mode", "hard") != "hard" and "beta" not in values and training.beta is not None:
        values["beta"] = training.beta
        notes.append(f"soft certificates with beta {training.beta:g}, that of training")
    networks = [found] if denoiser is None else [found, denoiser]
    images, warnings = _load(dataset, values, networks) if images is None else (images, _unknown(images, networks))
    if "sound" not in values and (reason := _why_not_sound(images, values["sigma"])):
        values["sound"] = False
        notes.append(
            f"the certificates do not cover rounding in floating-point arithmetic, because {reason}: see docs/sound.md"
        )
    build = partial(found.build, images.num_classes, shape_for_network(images.shape, values.get("size")))
    network = build()
    if found.class_names is None:
        found = replace(found, class_names=class_names_of(network, images.num_classes))
    weights = digest(network.state_dict())
    warnings += _about_code(found, network, weights, build)
    if denoiser is not None:
        front, size = denoiser.build(values["sigma"], images.shape), values.get("size")
        values |= {"denoiser": denoiser.source, "denoiser_digest": digest(front.state_dict())}
        network = Denoised(front, network, size=None if size is None else (size, size)).eval()
        check_modules(network)
    logits = probe(network, images.num_classes, images.shape)
    if (dtype := _other_types(network)) is not None:
        notes.append(f"the network has weights of {dtype}: the certificates are about it in that arithmetic")
    values |= {
        **_facts_of(images, training.dataset),
        "checkpoint": found.source,
        "epoch": found.epoch,
        "method": training.method if denoiser is None else "denoised",
        "network": found.network,
        "normalisation": found.layer,
        "digest": weights,
        "code": code_digest(network) if ":" in found.network or (denoiser and denoiser.of_code) else None,
        "dtype": dtype,
        "probes": answers(logits),
    }
    settings = CertificationSettings(**values)
    if found.epoch is not None and isinstance(training.epochs, int) and found.epoch < training.epochs:
        warnings.append(f"its training is not finished: {found.epoch} of {training.epochs} epochs are done")
    warnings += _about_images(found, images) + _about_choice(images, settings) + _warnings(trained, settings, logits)
    return Plan(settings, network, images, notes, warnings)


def _why_not_sound(images: LabelledImages, sigma: float) -> str | None:
    """Return why certificates of these images do not hold in floating-point arithmetic as well; None if they do."""
    if not images.eight_bit:
        return "not all pixels are whole multiples of 1/255 (images that are rounded to these are covered)"
    return "of so large a sigma" if sigma > LARGEST_SIGMA else None


def _facts_of(images: LabelledImages, trained_on: str | None) -> dict[str, Any]:
    """Return which images are certified, as fields of `CertificationSettings`."""
    # The name of images that were given in Python is a digest: if it is that of training, they were trained on.
    own = images.name.startswith(OWN)
    again = own and images.name == trained_on
    numbered = images.class_names == tuple(map(str, range(images.num_classes)))
    return {
        "dataset": images.name,
        "split": "train" if again else images.split,
        "total": len(images),
        "classes": images.num_classes,
        "class_names": None if numbered else images.class_names,
        "shape": tuple(images.shape),
        "images_digest": None if own else digest_of_some(images),
    }


def _load(
    name: str, values: Mapping[str, Any], networks: Sequence[FoundNetwork | FoundDenoiser]
) -> tuple[LabelledImages, list[str]]:
    """Return the images of a data set by name, and warnings on those that training held out."""
    root, options = values.get("root"), {option: values.get(option) for option in data.OPTIONS}
    images = data.load(name, root, values.get("split", "test"), **options)
    return images, [warning for each in networks for warning in _held_out(each, images, root, options["split_share"])]


def _unknown(images: LabelledImages, networks: Sequence[FoundNetwork | FoundDenoiser]) -> list[str]:
    """Return a warning for each network that was trained on a part of what may be the same images."""
    return [
        f"{each.source} was trained on a part of {images.name}: whether these images are of that part is not known"
        for each in networks
        if each.trained.split_share is not None and (each.trained.dataset, "test") == (images.name, images.split)
    ]


def _held_out(
    found: FoundNetwork | FoundDenoiser, images: LabelledImages, root: str | None, share_now: float | None
) -> list[str]:
    """Return a warning if training held out images for tests, and its images are others today.

    Raises:
        SettingsError: another share is held out now, so that images which were trained on would be test images.
    """
    training = found.trained
    if training.split_share is None or (images.split, images.name) != ("test", training.dataset):
        return []
    try:
        digest_now = digest_of_some(data.load(images.name, root, "train", **training.data_options))
    except DataError:  # other data, which need no share
        return []
    there = training.was_on(images.name, root)
    if there or digest_now == found.images:
        training.check_share(found.source, share_now)
    if not there or found.images in (None, digest_now):
        return []
    return [
        f"the images of {root or images.name} are others than at the time of training: some of those that are held out "
        "now may have been trained on"
    ]


def _about_code(found: FoundNetwork, network: nn.Module, weights: str, build: Callable[[], nn.Module]) -> list[str]:
    """Return a warning if code is not what was trained, or returns other weights each time it is called."""
    if found.code is not None and code_digest(network) != found.code:
        return [f"the code of {found.network} has changed since these weights were trained in it"]
    if not isinstance(found, FoundCode) or found.module is not None or digest(build().state_dict()) == weights:
        return []
    return [
        f"{found.source} returns other weights each time it is called: the certificates are about those of one call, "
        "which are not kept, so that nobody can use or verify them; let it load the weights from a file"
    ]


def _about_images(found: FoundNetwork, images: LabelledImages) -> list[str]:
    """Return what may surprise about the images: other classes than those of training, their order, random transforms.

    Raises:
        DataError: the images have the network's classes in another order.
    """
    warnings, names = found.classes_unlike(images), images.class_names
    if found.class_names is None and all(name.isdecimal() for name in names):
        misplaced = next((label for label, name in enumerate(sorted(names, key=int)) if names[label] != name), None)
        if misplaced is not None:
            warnings.append(f"the classes are numbers, sorted as text: class {names[misplaced]} has label {misplaced}")
    if images.fitted is not None:
        warnings.append(f"{images.fitted}: sigma and radii are in the pixels of these, image_size chooses another size")
    warnings += doubts_about_scale(images)
    if isinstance(images, OwnDataset) and images.is_random:
        warnings.append(
            "the data set's images are drawn at random: each certificate is about its image as it was drawn once, not "
            "about the image before that; leave random transforms out"
        )
    return warnings


def _about_choice(images: LabelledImages, settings: CertificationSettings) -> list[str]:
    """Return a warning if images that follow each other are chosen and are all of one class, as in sorted folders."""
    chosen = settings.indices
    step = len(images) // len(chosen)
    few = [chosen[place * (len(chosen) - 1) // (_SAMPLE - 1)] for place in range(_SAMPLE)]
    if settings.skip > 1 or step < 2 or len(chosen) < _SAMPLE or len({images[index][1] for index in few}) > 1:
        return []
    return [
        f"the {len(chosen):,} chosen images are all of class {images.class_names[images[few[0]][1]]!r}, as far as "
        f"{_SAMPLE} of them show: skip {step} spreads as many over all images"
    ]


def _other_types(network: nn.Module) -> str | None:
    """Return the types of a network's weights in words; None where all are float32, or where there are none."""
    types = {str(each.dtype).removeprefix("torch.") for each in network.parameters() if each.is_floating_point()}
    return ", ".join(sorted(types)) if types - {"float32"} else None


def _warnings(
    trained: FoundNetwork | FoundDenoiser, settings: CertificationSettings, logits: Float[Tensor, "probes classes"]
) -> list[str]:
    """Return what makes radii smaller than this network's could be, as far as its training and its logits show it."""
    warnings = doubts_about_sigma(settings.sigma)
    if trained.sigma is not None and settings.sigma != trained.sigma:
        what = "network" if isinstance(trained, FoundNetwork) else "denoiser"
        warnings.append(
            f"this {what} was trained with noise of sigma {trained.sigma:g} and is certified with {settings.sigma:g}: "
            "the certificates are valid, but radii mostly are largest with the noise of the training"
        )
    if settings.mode != "hard" and bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all()):
        warnings.append(
            "the network's outputs are probabilities already (each row sums to 1), and soft certificates take their "
            "softmax once more: the certificates are valid, but leave the softmax at its end out for larger radii"
        )
    return warnings


def shape_for_network(shape: tuple[int, int, int], size: int | None) -> tuple[int, int, int]:
    """Return the (channels, height, width) of denoised images that were scaled to `size`, None: not scaled."""
    return shape if size is None else (shape[0], size, size)
