"""From a found network and a person's choices to everything a certification needs, with every default resolved."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from macer import data
from macer.certification.settings import CertificationSettings, images_to_certify
from macer.data import LabelledImages
from macer.errors import SettingsError
from macer.models.weights import digest
from macer.pretrained.find import FoundNetwork


@dataclass(frozen=True)
class Plan:
    """A certification ready to run.

    Attributes:
        settings: all that decides the certificates.
        network: the weights to certify, on the CPU.
        images: the split to certify.
        warnings: what a person should know before believing the result.
    """

    settings: CertificationSettings
    network: nn.Module
    images: LabelledImages
    warnings: list[str]


def prepare(
    found: FoundNetwork,
    *,
    dataset: str | None,
    chosen: dict[str, Any],
    images: LabelledImages | None = None,
) -> Plan:
    """Resolve defaults: data set, root and sigma of the network's training, all images of the split.

    Args:
        found: the network.
        dataset: the data set's name, or None for the one trained on.
        chosen: settings by field.
        images: what to certify, in place of the split of a data set by name.

    Raises:
        SettingsError: settings that are impossible, or neither given nor known from training.
        DataError: the data is not there.
        CheckpointError: the network does not fit the data.
    """
    training = found.settings.get("training", {})
    dataset = images.name if images is not None else dataset or training.get("dataset")
    if dataset is None:
        raise SettingsError(f"{found.source} does not say what it was trained on: give a data set's name or images")
    if "root" not in chosen and dataset == training.get("dataset") and "root" in training:
        chosen = {**chosen, "root": training["root"]}
    sigma = chosen.get("sigma", found.sigma)
    if sigma is None:
        raise SettingsError(f"{found.source} does not say with which sigma it was trained: give sigma")
    if images is None:
        images = data.load(dataset, chosen.get("root"), chosen.get("split", "test"))
    count = images_to_certify(chosen.get("num_img", 0), chosen.get("start_img", 0), chosen.get("skip", 1), len(images))
    network = found.build(images.num_classes, images.shape)
    settings = CertificationSettings(
        **{
            **chosen,
            "dataset": dataset,
            "split": images.split,
            "sigma": sigma,
            "num_img": count,
            "checkpoint": found.source,
            "method": found.settings.get("objective", {}).get("name"),
            "network": found.network,
            "normalisation": found.layer,
            "digest": digest(network.state_dict()),
            "total": len(images),
        }
    )
    warnings = []
    if found.sigma is not None and sigma != found.sigma:
        warnings.append(
            f"this network was trained with noise of sigma {found.sigma:g} and is certified with {sigma:g}: the "
            "certificates are valid, but the network has not learned to see through this noise, and radii will be small"
        )
    return Plan(settings, network, images, warnings)
