"""Write the API reference from docstrings: `python tools/api_reference.py DIRECTORY`, or `make docs`."""

import sys
from pathlib import Path

import pdoc

import macer

MODULES = ("smoothing", "objectives", "attacks", "models", "data", "training", "certification", "results", "errors")


def write_reference(directory: Path) -> None:
    """Write one page per public module of macer.

    Warns:
        UserWarning: a name that a module exports is not there.
    """
    # pdoc lists what a module already holds, and macer imports its public names when they are first used.
    vars(macer).update({name: getattr(macer, name) for name in macer.__all__})
    pdoc.render.configure(docformat="google", math=True)
    others = (f"macer.{name}" for name in MODULES if name not in macer.__all__)  # those it adds by itself
    pdoc.pdoc("macer", *others, output_directory=directory)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
    print(f"the API reference begins at {Path(sys.argv[1], 'macer.html')}")
