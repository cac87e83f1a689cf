"""Recipes: settings by name. `mnist/macer-0.25` is the file mnist/macer-0.25.toml in this folder.

Names are DATASET/METHOD-SIGMA for settings as they were published, and DATASET/short-METHOD-SIGMA for a training of
some minutes on one CPU core. cifar10/fast-SIGMA trains a small network for two hours of a CPU core, by Consistency,
and cifar10/fast-METHOD-SIGMA by another method on as many noisy images. cifar10/wide-SIGMA trains a wider network for
longer. Without its sigma a name means 0.25: `mnist/short-macer`.
"""

from pathlib import Path
from typing import Any

from macer.errors import UnknownName, similar_to
from macer.files.toml import read_toml

_FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """Return the names of all recipes, as DATASET/NAME."""
    return sorted(str(file.relative_to(_FOLDER).with_suffix("").as_posix()) for file in _FOLDER.glob("*/*.toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's tables: [recipe] its source and what to expect, and the settings [training] and [objective].

    Raises:
        UnknownName: there is no recipe of this name.
    """
    return read_toml(_file(name))


def recipe_text(name: str) -> str:
    """Return the text of a recipe's file.

    Raises:
        UnknownName: there is no recipe of this name.
    """
    return _file(name).read_text(encoding="utf-8")


def _file(name: str) -> Path:
    for each in (name, f"{name}-0.25"):
        if each in recipe_names():
            return _FOLDER / f"{each}.toml"
    raise UnknownName(f"no recipe is named {name!r}{similar_to(name, recipe_names())}; `macer recipes` lists them")
