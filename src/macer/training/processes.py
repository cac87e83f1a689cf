"""The processes that train together: which images of a batch are whose, and what they tell each other."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from macer.compute.device import did_not_meet, launch
from macer.errors import MacerError

_PATIENCE = timedelta(days=7)
"""How long processes wait while the first certifies between epochs. One that dies is noticed at once all the same."""
_OF_GLOO = ("gloo", "Connection closed by peer")
"""Words by which gloo's errors are known, which PyTorch raises without a class of their own."""


class Processes:
    """One process's view of those that train one network, each on its part of every batch. Leave by `leave`.

    Gradients are averaged by PyTorch's DistributedDataParallel. What passes here is little: whether to stop or to save,
    sums for the log, a checkpoint at the start.

    Args:
        fabric: a Lightning Fabric that has not been launched; its processes are started, or met.

    Attributes:
        rank: this process's number; 0 is the first, who alone writes files.
        size: how many there are.

    Raises:
        MacerError: they did not find each other; later, on any exchange: one of them is gone.
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
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def positions(self, batch: int) -> range:
        """Which images of a batch of this size are this process's own; none where there are fewer than processes."""
        return range(self.rank, batch, self.size)

    def largest(self, values: list[int]) -> list[int]:
        """The largest of each value that any process gives."""
        if self.size == 1:
            return values
        shared = torch.tensor(values)
        with self._talking():
            distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self._group)
        return shared.tolist()

    def total(self, values: list[float]) -> list[float]:
        """The sum of each value over the processes."""
        if self.size == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64)
        with self._talking():
            distributed.all_reduce(shared, group=self._group)
        return shared.tolist()

    def smallest(self, found: tuple[int, Any] | None) -> tuple[int, Any] | None:
        """Of what processes found, the one of the smallest number; None if none found anything."""
        if self.size == 1:
            return found
        all_found: list[Any] = [None] * self.size
        with self._talking():
            distributed.all_gather_object(all_found, found, group=self._group)
        return min((each for each in all_found if each is not None), key=lambda each: each[0], default=None)

    def meet(self) -> None:
        """Wait for the others, however long they take."""
        self.largest([0])

    def first_says(self, value: Any) -> Any:
        """What the first process holds; the others' argument does not count."""
        if self.size == 1:
            return value
        said = [value]
        with self._talking():
            distributed.broadcast_object_list(said, group=self._group)
        return said[0]

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Replace each process's running statistics, of its own part of the images, by their mean."""
        if self.size == 1:
            return
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for statistics in (module.running_mean, module.running_var):
                    if statistics is not None:
                        shared = statistics.cpu()
                        with self._talking():
                            distributed.all_reduce(shared, group=self._group)
                        statistics.copy_(shared / self.size)

    @contextmanager
    def one_more(self, network: nn.Module, *, last: bool) -> Iterator[None]:
        """Around forward and backward pass of a part of a batch: gradients are exchanged after the last one."""
        waiting = nullcontext() if self.size == 1 or last else self.fabric.no_backward_sync(network)
        with self._talking(), waiting:
            yield

    def leave(self) -> None:
        """Close the connections."""
        if self.size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            of_the_connection = isinstance(error, distributed.DistError) or any(word in str(error) for word in _OF_GLOO)
            if self.size == 1 or not of_the_connection:
                raise
            raise MacerError(
                f"another of the {self.size} processes that train together is gone, and so this one ends"
            ) from error
