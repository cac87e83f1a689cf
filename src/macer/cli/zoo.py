"""macer zoo."""

import rich.table
import typer

from macer.files.printable import Terminal
from macer.pretrained import zoo


def register(app: typer.Typer) -> None:
    app.command("zoo")(zoo_command)


def zoo_command() -> None:
    """List the trained networks that come with macer."""
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
        Terminal().print(view)


def _table(images: str) -> rich.table.Table:
    """Make the table of networks that were certified on the same images, as only their ACRs can be compared."""
    table = rich.table.Table(title=images, title_justify="left", box=rich.table.box.SIMPLE_HEAD, show_edge=False)
    table.padding = (0, 1, 0, 0)  # 80 columns are enough
    for column in ("zoo:", "network", "method", "sigma", "ACR [95%]"):
        table.add_column(column, no_wrap=True)
    return table
