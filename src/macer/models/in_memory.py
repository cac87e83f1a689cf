"""Networks that exist in memory alone: an `nn.Module` that somebody made in Python."""

from collections.abc import Mapping

from torch import nn

from macer.models.digest import probe


def module_name(network: nn.Module) -> str:
    """Return the import path package.module:Class of a module, which a run's settings record as its network's name."""
    return f"{type(network).__module__}:{type(network).__qualname__}"


def count_classes(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return how many logits a module gives for each image of this (channels, height, width). Errors as of `probe`."""
    return probe(network, None, shape).shape[1]


def class_names_of(network: nn.Module, num_classes: int) -> list[str] | None:
    """Return the names of a Hugging Face classifier's classes, in the order of their labels; None if it has none.

    Those of a sequence are its last module's, which gives the logits.

    Args:
        network: any module.
        num_classes: number of its logits: a model whose head was replaced still has the names of the former one.
    """
    while isinstance(network, nn.Sequential) and len(network):
        network = network[-1]
    names = getattr(getattr(network, "config", None), "id2label", None)
    if not isinstance(names, Mapping):
        return None
    by_label = {str(label): str(name) for label, name in names.items()}
    labels = [str(label) for label in range(num_classes)]
    placeholders = {label: f"LABEL_{label}" for label in labels}  # what transformers writes where nobody gave names
    if by_label.keys() != placeholders.keys() or by_label == placeholders:
        return None
    return [by_label[label] for label in labels]
