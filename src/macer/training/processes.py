"""The processes that train one network together: which images of a batch each takes, and what they exchange."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from macer.compute.device import find_device, has_fast_bfloat16, open_fabric
from macer.compute.launchers import find_launched
from macer.errors import MacerError, SettingsError
from macer.runs.run import Run
from macer.training.settings import TrainingSettings

_PATIENCE = timedelta(days=7)
"""How long processes wait while the first one certifies between epochs. The end of a process is noticed at once."""
_OF_GLOO = ("gloo", "Connection closed by peer")
"""Words by which gloo's errors are known, which PyTorch raises without a class of their own."""
_OPERATIONS = {"sum": distributed.ReduceOp.SUM, "max": distributed.ReduceOp.MAX} if distributed.is_available() else {}


def with_precision(settings: TrainingSettings, directory: Path) -> TrainingSettings:
    """Return the settings with the precision that "auto" means: the run's where there is one, else this machine's.

    Args:
        settings: of the training.
        directory: of its run.
    """
    if settings.precision != "auto":
        return settings
    here = "bf16-mixed" if has_fast_bfloat16(find_device(settings.device).type) else "32-true"
    return replace(settings, precision=Run(directory).recorded("training").get("precision", here))


def fabric_for(settings: TrainingSettings) -> Any:
    """Return the Lightning Fabric of the devices and the arithmetic of the settings, or as torchrun or Slurm says.

    Raises:
        SettingsError: this machine does not have them, or a launcher started another number of processes.
    """
    launched = find_launched(os.environ)
    here, machines = (launched.local_size, launched.machines) if launched else (1, 1)
    devices, num_nodes = settings.devices or here, settings.num_nodes or machines
    if launched and (devices, num_nodes) != (here, machines):
        raise SettingsError(
            f"{devices} devices on {num_nodes} machines take {devices * num_nodes} processes, but {launched.by} "
            f"started {launched.size}, {here} per machine"
        )
    return open_fabric(
        settings.device,
        settings.precision,
        devices=devices,
        num_nodes=num_nodes,
        launched=launched,
    )


class Processes:
    """One process's view of those that train one network, each on its part of every batch.

    PyTorch's DistributedDataParallel averages the gradients. What is exchanged here is little: whether to stop or to
    save, sums for the log, a checkpoint at the start. Methods are named as in torch.distributed; all processes must
    call them in the same order, and with a single process they return at once. Call `destroy_process_group` at the end.

    Args:
        fabric: a Lightning Fabric that has not been launched. Its processes are started, or connected to each other.

    Attributes:
        rank: this process's number, from 0.
        size: the number of processes.

    Raises:
        MacerError: the processes did not find each other; later, in any exchange: one of them has ended.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.size = fabric, fabric.global_rank, fabric.world_size
        self._group: Any = None
        if self.size > 1:
            from macer.compute.rendezvous import did_not_meet, launch  # slow to import

            launch(fabric)
            try:
                self._group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
            except RuntimeError as error:
                raise did_not_meet(fabric, error) from error

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def positions(self, batch: int) -> range:
        """Return which images of a batch of this size are this process's; none if there are fewer than processes."""
        return range(self.rank, batch, self.size)

    def all_reduce(self, values: Sequence[int | float], operation: Literal["sum", "max"]) -> list[Any]:
        """Return the sum, or the largest, of each value over the processes."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        with self._one_line_errors():
            distributed.all_reduce(shared, _OPERATIONS[operation], group=self._group)
        return shared.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank. They travel as JSON: nothing that arrives can run code."""
        if self.size == 1:
            return [value]
        text = json.dumps(value).encode()
        shared = torch.zeros(self.size, int(self.all_reduce([len(text)], "max")[0]), dtype=torch.uint8)
        shared[self.rank, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        with self._one_line_errors():
            distributed.all_reduce(shared, group=self._group)  # each row has one author, and JSON has no zero bytes
        return [json.loads(bytes(row.tolist()).rstrip(b"\0")) for row in shared]

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the first process's values, to the bit."""
        if self.size == 1:
            return
        for tensor in tensors:
            shared = tensor.detach().cpu().contiguous()
            with self._one_line_errors():
                distributed.broadcast(shared.reshape(-1).view(torch.uint8), src=0, group=self._group)
            tensor.copy_(shared)

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Replace batch norm's running statistics, which each process has of its own images, by their mean."""
        if self.size == 1:
            return
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for statistics in (module.running_mean, module.running_var):
                    if statistics is not None:
                        shared = statistics.cpu()
                        with self._one_line_errors():
                            distributed.all_reduce(shared, group=self._group)
                        statistics.copy_(shared / self.size)

    @contextmanager
    def no_sync(self, network: nn.Module, *, enabled: bool) -> Iterator[None]:
        """Run a forward and a backward pass, without averaging gradients over the processes while `enabled`.

        Args:
            network: as Fabric set it up.
            enabled: False for the last of several passes whose gradients add up.
        """
        with self._one_line_errors(), self.fabric.no_backward_sync(network, enabled=enabled and self.size > 1):
            yield

    def destroy_process_group(self) -> None:
        """Close the connections."""
        if self.size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            of_the_connection = isinstance(error, distributed.DistError) or any(word in str(error) for word in _OF_GLOO)
            if self.size == 1 or not of_the_connection:
                raise
            raise MacerError(
                f"another of the {self.size} processes that train together is gone, and so this one ends"
            ) from error
