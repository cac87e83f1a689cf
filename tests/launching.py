"""Several processes of the command that find each other as a launcher makes them."""

import socket
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
        **{"SLURM_STEP_NUM_NODES": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }


def start_together(macer: "Macer", size: int, *words: object, launcher=lightning, before: str = "") -> list["Running"]:
    """Start the command in so many processes, told of each other as a launcher does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
