"""The processes that train one network together: which images of a batch each takes, and what they exchange."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import distributed, nn

from macer.compute.device import did_not_meet, launch, open_fabric, started_processes
from macer.errors import MacerError
from macer.training.settings import TrainingSettings

_PATIENCE = timedelta(days=7)
"""How long processes wait while the first one certifies between epochs. The end of a process is noticed at once."""
_OF_GLOO = ("gloo", "Connection closed by peer")
"""Words by which gloo's errors are known, which PyTorch raises without a class of their own."""
_OPERATIONS = {"sum": distributed.ReduceOp.SUM, "max": distributed.ReduceOp.MAX} if distributed.is_available() else {}


def fabric_for(settings: TrainingSettings) -> Any:
    """Return the Lightning Fabric of the devices and the arithmetic of the settings, or as torchrun or Slurm says.

    Raises:
        SettingsError: this machine does not have them.
    """
    started = started_processes()
    return open_fabric(
        settings.device,
        settings.precision,
        devices=settings.devices or started[0],
        num_nodes=settings.num_nodes or started[1],
        gradients=True,
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
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with self._one_line_errors():
            distributed.all_gather_object(gathered, value, group=self._group)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value."""
        if self.size == 1:
            return value
        shared = [value]
        with self._one_line_errors():
            distributed.broadcast_object_list(shared, group=self._group)
        return shared[0]

    def barrier(self) -> None:
        """Wait until all processes are here, however long that takes."""
        self.all_reduce([0], "max")

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
