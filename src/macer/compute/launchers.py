"""Who started this process: nobody but a person, or a launcher that started others with it, and which of them it is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from macer.errors import SettingsError

_SPECIAL_STEPS = 0xFFFFFFF0
"""Slurm numbers from here on what is no srun: the batch script, and the shell of salloc."""
_PORTS = 15000, 10000
"""The first port that Slurm's processes may meet at, and how many there are to choose from."""


@dataclass(frozen=True, kw_only=True)
class Launched:
    """One of several processes that a launcher started together, or of one.

    Attributes:
        by: the launcher's name.
        local_rank: which process of its machine it is, from 0.
        local_size: how many processes each machine has.
        machine: which machine it is on, from 0.
        machines: how many there are.
        address: the machine of the first process.
        port: where the first process listens there.
    """

    by: str
    local_rank: int
    local_size: int
    machine: int
    machines: int
    address: str
    port: int

    @property
    def rank(self) -> int:
        """Which of all processes this is."""
        return self.machine * self.local_size + self.local_rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.machines * self.local_size


def find_launched(variables: Mapping[str, str]) -> Launched | None:
    """Return what a launcher says of this process in environment variables; None if there is none.

    A process in an allocation of Slurm is alone unless srun started it as a task of a step: salloc, sbatch and `srun
    --pty` leave variables of many tasks to a shell that is one process.

    Raises:
        SettingsError: the variables contradict each other, the machines have different numbers of processes, or
            mpirun started several, which do not learn where they could meet.
    """
    if "TORCHELASTIC_RUN_ID" in variables:
        return _of_torchrun(variables)
    task = _is_task(variables)
    # Open MPI's, which also starts processes inside a step; and that of MPICH and Intel, unless srun takes its part.
    of_mpi = variables.get("OMPI_COMM_WORLD_SIZE") or ("1" if task else variables.get("PMI_SIZE", "1"))
    if of_mpi != "1":
        raise SettingsError(
            f"mpirun started {of_mpi} processes, which do not know where to meet: start them by torchrun or srun"
        )
    return _of_slurm(variables) if task else None


def _of_torchrun(variables: Mapping[str, str]) -> Launched:
    size, local_size = (_number(variables, name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return Launched(
        by="torchrun",
        local_rank=_number(variables, "LOCAL_RANK"),
        local_size=local_size,
        machine=_number(variables, "GROUP_RANK"),
        machines=_divided(size, local_size),
        address=variables.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(variables, "MASTER_PORT"),
    )


def _is_task(variables: Mapping[str, str]) -> bool:
    """Return whether srun started this process, and not a shell that it is typed into."""
    step = variables.get("SLURM_STEP_ID", "")
    in_a_step = step.isdigit() and int(step) < _SPECIAL_STEPS
    return in_a_step and "SLURM_STEP_NUM_TASKS" in variables and "SLURM_PTY_PORT" not in variables


def _of_slurm(variables: Mapping[str, str]) -> Launched:
    machines = _number(variables, "SLURM_STEP_NUM_NODES", "1")
    job, step = (_number(variables, name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    hosts = variables.get("SLURM_STEP_NODELIST", variables.get("SLURM_NODELIST", "127.0.0.1"))
    return Launched(
        by="srun",
        local_rank=_number(variables, "SLURM_LOCALID"),
        local_size=_divided(_number(variables, "SLURM_STEP_NUM_TASKS"), machines),
        machine=_number(variables, "SLURM_NODEID"),
        machines=machines,
        address=variables.get("MASTER_ADDR") or _first_host(hosts),
        port=_number(variables, "MASTER_PORT", str(_PORTS[0] + (job + step) % _PORTS[1])),
    )


def _first_host(hosts: str) -> str:
    """Return the first host of a list as Slurm writes it: node7,node9 or gpu[003-005,9]-ib,login."""
    found = re.match(r"([^[,]*)(?:\[(\w+)[^]]*\])?([^,]*)", hosts)
    assert found is not None  # it matches the empty text
    return "".join(part or "" for part in found.groups())


def _number(variables: Mapping[str, str], name: str, default: str = "") -> int:
    text = variables.get(name, default)
    if not text.isdigit():
        raise SettingsError(f"the environment variable {name} is {text!r}, where a launcher writes a number")
    return int(text)


def _divided(processes: int, by: int) -> int:
    if by == 0 or processes % by:
        raise SettingsError(f"{processes} processes do not divide by {by}: each machine must have the same number")
    return processes // by
