"""macer zoo."""

from pathlib import Path
from typing import Annotated

import rich.table
import typer
from rich.console import Console

from macer.pretrained import zoo


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    group.callback()(zoo_command)
    group.command("add")(add_command)
    app.add_typer(group, name="zoo")


def zoo_command(context: typer.Context) -> None:
    """List the trained networks that come with macer; `macer certify zoo:NAME` certifies with one of them."""
    if context.invoked_subcommand is not None:
        return
    if not zoo.names():
        typer.echo("no networks have been added yet; macer export and macer zoo add put one in")
        return
    tables: dict[str, rich.table.Table] = {}
    for name in zoo.names():
        card = zoo.card(name)
        result, objective, certification = card["result"], card["objective"], card["certification"]
        data = f"{certification['dataset']}, {certification['split']} images"
        images = f"{data}: {result['images']}; n = {certification['n']:,}"
        low, high = result["acr_interval"]
        view = tables.setdefault(images, _table(images))
        acr = f"{result['acr']:.3f} [{low:.3f}, {high:.3f}]"
        view.add_row(name, card["training"]["network"], objective["name"], f"{objective['sigma']:g}", acr)
    for view in tables.values():
        Console(markup=False).print(view)


def _table(images: str) -> rich.table.Table:
    """One table for all networks whose ACR is about the same images: only these compare."""
    table = rich.table.Table(title=images, title_justify="left", box=rich.table.box.SIMPLE_HEAD)
    for column in ("zoo:", "network", "method", "sigma", "ACR [95% interval]"):
        table.add_column(column, no_wrap=True)
    return table


def add_command(
    file: Annotated[Path, typer.Argument(help="Weights that macer export wrote.")],
    certificates: Annotated[Path, typer.Argument(help="Directory of that file's certificates.")],
    name: Annotated[str, typer.Argument(help="Name in the zoo, like mnist-macer-0.25.")],
) -> None:
    """Put a network with its certificates into the zoo of this checkout: weights, card and certificates."""
    from macer.pretrained.zoo.adding import add  # slow to import

    add(file, certificates, name)
    typer.echo(f"zoo:{name} is in {zoo.FOLDER}")
