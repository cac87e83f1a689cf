"""What the shards of a certification share: the first one to start decides it for all."""

import os
from pathlib import Path
from typing import Any

from macer.compute.seeding import seed_from_system
from macer.files.toml import read_toml, write_toml


def of_the_first(file: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Write a table to a file unless another shard did so before; return what is there then."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_name(f"{file.name}.{os.getpid()}-{seed_from_system()}")
        write_toml(own, table)
        try:
            os.link(own, file)  # a whole file at once, and only one
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return read_toml(file)
