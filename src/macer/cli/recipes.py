"""macer recipes."""

from typing import Annotated

import rich.table
import typer

from macer.data import DATASETS
from macer.errors import UnknownName
from macer.files.printable import Terminal
from macer.recipes import read_recipe, recipe_names, recipe_text


def recipes_command(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Recipe to print: its source, its command, the ACR to expect and its settings. Or the name of a data "
            "set, to list its recipes."
        ),
    ] = None,
) -> None:
    """List the recipes of macer train, or print one.

    The list shows the ACR to expect, and the images on which it was measured. A name without its sigma means 0.25.
    """
    listed = [each for each in recipe_names() if name is None or each.startswith(f"{name}/")]
    if name is not None and not listed:
        if name in DATASETS:
            raise UnknownName(f"there is no recipe for {name}: `macer recipes` lists those of all data sets")
        typer.echo(recipe_text(name), nl=False)
        return
    view = rich.table.Table(box=rich.table.box.SIMPLE_HEAD)
    view.add_column("recipe", no_wrap=True, min_width=max(map(len, listed)))
    for title in ("epochs", "ACR", "measured on"):
        view.add_column(title)
    for each in listed:
        tables = read_recipe(each)
        about = tables["recipe"]
        acr = f"{about['expected_acr']:.3f}" if "expected_acr" in about else ""
        view.add_row(each, str(tables["training"]["epochs"]), acr, about["expected_images"])
    Terminal().print(view)
