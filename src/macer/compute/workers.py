"""Workers that share a list of independent pieces of work, and the simplest of them: this process.

The caller is always the only process that reads items and receives results; workers hold no files and no state that
would have to survive them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol, runtime_checkable

import torch

from macer.compute.interruption import StopRequest


@runtime_checkable
class Work(Protocol):
    """What is to be done with each item. It is pickled once per worker, and each item and each result with it."""

    def start(self, device: torch.device) -> Callable[[Any], Any]:
        """Do what takes long and is needed once per worker; return the function that takes an item to its result."""
        ...


class Workers(ABC):
    """The workers that share a list of items."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are now."""

    @abstractmethod
    def map(self, work: Work, items: Iterable[Any], stop: StopRequest) -> Generator[Any, None, None]:
        """Yield the result of each item, in the order in which they are done; none after a request to stop.

        Workers that give up the items at hand then, in place of finishing them, leave such a request without an answer.

        Raises:
            MacerError: the scheduler is lost, or an item was given up because several workers died with it.
            Exception: whatever the work raised for an item.
        """


class ThisProcess(Workers):
    """The calling process as the only worker."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def count(self) -> int:
        return 1

    def map(self, work: Work, items: Iterable[Any], stop: StopRequest) -> Generator[Any, None, None]:
        function = work.start(self._device)
        for item in items:
            if stop.signal_number is not None:
                return
            yield function(item)
