"""macer recipes."""

from typing import Annotated

import rich.table
import typer

from macer.files.printable import Terminal
from macer.recipes import read_recipe, recipe_names, recipe_text


def recipes_command(
    name: Annotated[
        str | None, typer.Argument(help="Recipe to print: its source, its command, the ACR to expect and its settings.")
    ] = None,
) -> None:
    """List the recipes of macer train, or print one.

    The list shows the ACR to expect, and the images on which it was measured. A name without its sigma means 0.25.
    """
    if name is not None:
        typer.echo(recipe_text(name), nl=False)
        return
    view = rich.table.Table(box=rich.table.box.SIMPLE_HEAD)
    view.add_column("recipe", no_wrap=True, min_width=max(map(len, recipe_names())))
    for title in ("epochs", "ACR", "measured on"):
        view.add_column(title)
    for each in recipe_names():
        tables = read_recipe(each)
        about = tables["recipe"]
        acr = f"{about['expected_acr']:.3f}" if "expected_acr" in about else ""
        view.add_row(each, str(tables["training"]["epochs"]), acr, about["expected_images"])
    Terminal().print(view)
