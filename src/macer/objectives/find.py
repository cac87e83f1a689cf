"""From a method's name, its import path or the class itself to the class."""

from typing import Any

from macer.errors import UnknownName, similar_to
from macer.importing import imported
from macer.objectives import OBJECTIVES
from macer.objectives.base import Objective, require
from macer.objectives.listing import by_name


def find_method(method: str | type[Objective], where: str = "") -> type[Objective]:
    """Return a training method.

    Args:
        method: a name in OBJECTIVES, the import path `package.module:Class` of one's own, or the class.
        where: what to begin a message on an unknown name with.

    Raises:
        UnknownName: no method has this name.
        SettingsError: the class cannot be imported, lacks something that a method needs, or has another one's name.
    """
    if isinstance(method, str) and ":" not in method:
        if method not in OBJECTIVES:
            others = f"choose one of {', '.join(OBJECTIVES)}, or package.module:Class of your own"
            raise UnknownName(
                f"{where}no training method is named {method!r}: {others}{similar_to(method, list(OBJECTIVES))}"
            )
        return OBJECTIVES[method]
    found: Any = method
    if isinstance(method, str):
        with imported(method, "method") as found:
            pass
    is_method = isinstance(found, type) and issubclass(found, Objective)
    require(is_method, f"a training method is a class that extends macer.objectives.Objective, not {found!r}")
    by_name(*OBJECTIVES.values(), found)
    return found


def path_of(method: type[Objective]) -> str | None:
    """Return the import path of a method of one's own; None for those of the package."""
    return None if method.name in OBJECTIVES else f"{method.__module__}:{method.__qualname__}"
