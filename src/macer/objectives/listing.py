"""The list of training methods, and what it asks of each, so that a mistake in one is named where it was made."""

import re
from dataclasses import fields

from macer.objectives.base import Objective, require


def by_name(*methods: type[Objective]) -> dict[str, type[Objective]]:
    """Return training methods by their names.

    Raises:
        SettingsError: a class lacks something that a method needs, or two methods have one name.
    """
    listed: dict[str, type[Objective]] = {}
    for method in methods:
        check_method(method)
        other = listed.setdefault(method.name, method)
        require(
            other is method,
            f"{other.__qualname__} and {method.__qualname__} are both named {method.name!r}: rename one",
        )
    return listed


def check_method(method: type[Objective]) -> None:
    """Refuse a class that lacks something that a training method needs.

    Raises:
        SettingsError: it does; the message says what.
    """
    title = f"the training method {method.__qualname__}"
    lacks = {
        "@dataclass(frozen=True, kw_only=True) above it": "__dataclass_fields__" not in vars(method),
        'its name for --method, such as name = "mine"': not isinstance(getattr(method, "name", None), str),
        "the property samples, the passes per image": method.samples is Objective.samples or callable(method.samples),
        "the method loss": method.loss is Objective.loss,
    }
    for what, missing in lacks.items():
        require(not missing, f"{title} lacks {what}")
    named = re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", method.name) is not None  # directories of runs are named so
    require(named, f"{title}: its name is of small letters and digits, with hyphens between, not {method.name!r}")
    for field in fields(method):
        # Without `option` no command would offer it. Without a type it is a constant, and no field.
        require("help" in field.metadata, f"{title}: make its field {field.name} with option(default, help)")
