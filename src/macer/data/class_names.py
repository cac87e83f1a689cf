"""The names of classes: whether two sides mean the same classes by the same labels."""

from collections.abc import Sequence

from macer.data.images import LabelledImages
from macer.data.own import PREFIX
from macer.errors import DataError


def check_order(
    source: str, found: Sequence[str], class_names: Sequence[str], *, order: str = "the standard order"
) -> None:
    """Refuse class names that contradict an order.

    Spelling does not matter, and neither do names that the order does not have, such as "auto" or "3".

    Args:
        source: what has the names, for messages.
        found: the names, in the order of their labels.
        class_names: the classes, in the right order.
        order: what that order is, for messages.

    Raises:
        DataError: there are more or fewer names than classes, or a name is that of another label.
    """
    if len(found) != len(class_names):
        raise DataError(f"{source}: names {len(found)} classes where there are {len(class_names)}")
    theirs, ours = _spelled_alike(found, class_names)
    known = set(ours)
    for label in _differing(theirs, ours):
        if theirs[label] in known:
            raise DataError(
                f"{source}: its classes are in another order: label {label} is {found[label]!r}, in {order} "
                f"{class_names[label]!r}"
            )


def check_data_set(source: str, found: Sequence[str], name: str, class_names: Sequence[str]) -> None:
    """Refuse files whose class names are those of another data set: most of them words that this one does not have.

    Args:
        source: what has the names, for messages.
        found: the names, in the order of their labels.
        name: the data set that is asked for.
        class_names: its classes.

    Raises:
        DataError: they are those of another data set, or as for `check_order`.
    """
    check_order(source, found, class_names)
    theirs, ours = _spelled_alike(found, class_names)
    unknown = [each for each, spelled in zip(found, theirs, strict=True) if spelled not in ours]
    if 2 * sum(not each.isdecimal() for each in unknown) > len(found):
        raise DataError(f"{source}: not {name}: its classes are {', '.join(unknown[:3])}, ...")


def unlike_training(images: LabelledImages, trained: Sequence[str] | None, dataset: str | None, of: str) -> str | None:
    """Return how the classes of images are named unlike those that a network was trained to tell apart, in words.

    Spelling does not matter. A class may have another name, as "car" and "automobile", which only a person can tell
    from another class.

    Args:
        images: what the network is to classify.
        trained: the names of the classes in its training, in the order of their labels; None if unknown.
        dataset: the name of the data set that it was trained on; None if unknown.
        of: the file of the network, for messages.

    Returns:
        One sentence; None if the names are the same, or those of either side are unknown: your own images whose
        classes you gave no names have numbers.

    Raises:
        DataError: a name is that of another label in the training, so that the labels are others.
    """
    if trained is None:
        return None
    check_order(f"{images.name} {images.split}", images.class_names, trained, order=f"the training of {of}")
    if _unnamed(images.name, images.class_names) or _unnamed(dataset or "", trained):
        return None
    differing = _differing(*_spelled_alike(images.class_names, trained))
    if not differing:
        return None
    label, count = differing[0], f"{len(differing)} of {len(trained)} names differ"
    return (
        f"label {label} is {images.class_names[label]!r} and was {trained[label]!r} in the training of {of} ({count})"
    )


def _unnamed(dataset: str, names: Sequence[str]) -> bool:
    """Return whether the names only count the classes of a person's own images."""
    return dataset.startswith(PREFIX) and list(names) == list(map(str, range(len(names))))


def _spelled_alike(found: Sequence[str], class_names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return both without capitals, spaces and signs, unless these alone tell some of the classes apart ("a", "A")."""
    theirs, ours = (["".join(filter(str.isalnum, name.lower())) for name in each] for each in (found, class_names))
    return (theirs, ours) if len(set(ours)) == len(set(class_names)) else (found, class_names)


def _differing(found: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return the labels whose names are not the same."""
    return [label for label, (one, other) in enumerate(zip(found, class_names, strict=True)) if one != other]
