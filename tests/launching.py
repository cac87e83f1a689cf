"""Several processes of the command that find each other as a launcher makes them."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from command import Macer, Result, Running


def lightning(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables of processes that somebody starts by hand."""
    return {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def torchrun(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets on one machine."""
    sizes = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    return {**lightning(rank, size, port), "RANK": str(rank), **sizes}


def srun(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that Slurm's srun sets, for as many machines as processes."""
    return {
        **{"SLURM_NTASKS": str(size), "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": str(size)},
        **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank), "SLURM_STEP_ID": "0"},
        **{
            "SLURM_STEP_NUM_NODES": str(size),
            "SLURM_STEP_NUM_TASKS": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        },
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_together(macer: "Macer", size: int, *words: object, launcher=lightning, before: str = "") -> list["Running"]:
    """Start the command in so many processes, told of each other as a launcher does it."""
    port = free_port()
    return [
        macer.start(*words, before=f"os.environ.update({launcher(rank, size, port)!r})\nrank = {rank}\n{before}")
        for rank in range(size)
    ]


def together(macer: "Macer", size: int, *words: object, launcher=lightning, before: str = "") -> list["Result"]:
    return [each.wait() for each in start_together(macer, size, *words, launcher=launcher, before=before)]


def only_the_first_speaks(results: list["Result"]) -> "Result":
    first, *others = results
    assert {(each.code, each.out, each.err) for each in others} == {(0, "", "")}
    return first


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # one per thread
    return [int(child) for file in lists for child in file.read_text().split()]


def listening(pid: int) -> set[str]:
    """The addresses of this machine at which a process takes connections."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and cells[9] in sockets:
                packed = bytes.fromhex(cells[1].split(":")[0])
                words = [packed[at : at + 4][::-1] for at in range(0, len(packed), 4)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found
