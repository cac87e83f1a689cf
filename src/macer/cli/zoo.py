"""macer zoo."""

import rich.table

from macer.files.printable import Terminal
from macer.objectives import method_of
from macer.pretrained import zoo
from macer.results.records import method_name


def zoo_command() -> None:
    """List the trained networks that come with macer."""
    console, tables = Terminal(), dict[str, rich.table.Table]()
    for name in zoo.names():
        card = zoo.card(name)
        result, objective, certification = card["result"], card["objective"], card["certification"]
        data = f"{certification['dataset']}, {certification['split']} images"
        view = tables.setdefault(f"{data}: {result['images']}; n = {certification['n']:,}", _table())
        low, high = result["acr_interval"]
        acr = f"{result['acr']:.3f} [{low:.3f}, {high:.3f}]"
        method = method_name(method_of(objective))
        view.add_row(name, card["training"]["network"], method, f"{objective['sigma']:g}", acr)
    for images, view in tables.items():
        console.print(images, style="italic")
        console.print(view)


def _table() -> rich.table.Table:
    """Make the table of networks that were certified on the same images, as only their ACRs can be compared."""
    table = rich.table.Table(box=rich.table.box.SIMPLE_HEAD, show_edge=False)
    table.padding = (0, 1, 0, 0)  # 80 columns are enough
    for column in ("zoo:", "network", "method", "sigma", "ACR [95%]"):
        table.add_column(column, no_wrap=True)
    return table
