"""The processes that certify together: which image is whose, what all of them have done, and how they end."""

import os
import pickle
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from macer.compute.device import did_not_meet, launch
from macer.compute.interruption import StopRequest
from macer.errors import MacerError

_SECONDS_BETWEEN_BEATS = 1.0
_PATIENCE = 60.0
"""Seconds without a beat after which a process counts as lost."""
_PATIENCE_WHEN_STOPPING = 10.0
"""The same once somebody asked to stop: launchers kill what has not ended after half a minute."""
_ALL = 2**40
"""Added to the count of images handed out, it ends the handing out."""


@runtime_checkable
class Store(Protocol):
    """What processes share: counters and words by name, as in PyTorch's stores."""

    def add(self, key: str, value: int, /) -> int:
        """Add to a counter, which begins at 0, and say what it is then."""
        ...

    def set(self, key: str, value: str, /) -> None:
        """Leave a word."""
        ...

    def get(self, key: str, /) -> bytes:
        """The word that was left."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether words were left under all these names."""
        ...


class _OwnStore:
    """The store of a process that is alone."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._words: dict[str, str] = {}

    def add(self, key: str, value: int, /) -> int:
        self._counts[key] = self._counts.get(key, 0) + value
        return self._counts[key]

    def set(self, key: str, value: str, /) -> None:
        self._words[key] = value

    def get(self, key: str, /) -> bytes:
        return self._words[key].encode()

    def check(self, keys: list[str], /) -> bool:
        return all(key in self._words for key in keys)


@dataclass(frozen=True)
class Totals:
    """What all processes have done in this run, together.

    Attributes:
        images: certified.
        correct: certified with the right class.
        samples: noisy images evaluated for them.
    """

    images: int
    correct: int
    samples: int


class Processes:
    """One process's view of those that share a list of images. Use as a context manager; iterate for its images.

    Whoever asks gets the next image, so that no process waits for a slower one. All they share is a small store of
    counters in the first process. On leaving, the first process waits for the others and raises what went wrong in one
    of them; the others say what went wrong and end in silence.

    Args:
        store: what they share.
        rank: this process's number; 0 is the first.
        size: how many there are.
        images: the list.
        run: a word that no other run has used.
        stop: whether this process was asked to stop; then all of them do.

    Raises:
        MacerError: on iterating or leaving, a process is gone.
    """

    def __init__(self, store: Store, rank: int, size: int, images: Sequence[int], run: str, stop: StopRequest) -> None:
        self.rank, self.size, self.images, self.name = rank, size, images, f"{rank}-{run}"
        self._store, self._stop = store, stop
        self._leaving = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heard: dict[int, tuple[int, float]] = dict.fromkeys(range(1, size), (0, time.monotonic()))
        """Of each process, in the first, that has not ended: the number of its beats, and when that was new."""

    def __enter__(self) -> "Processes":
        if self.rank > 0:
            self._heart.start()
        return self

    def __iter__(self) -> Iterator[int]:
        while (number := self._next()) < len(self.images):
            yield self.images[number]

    def _next(self) -> int:
        try:
            if self._stop.signal_number is not None or (self.rank == 0 and self._lost()):
                self._hand_out_no_more()
            return self._store.add("handed out", 1) - 1
        except RuntimeError as error:
            raise MacerError(
                "the first of the processes that certify together is gone, and so this one ends"
            ) from error

    def count(self, *, correct: bool, samples: int) -> None:
        """Count an image as done by this process; `samples` are the noisy images that it took."""
        with suppress(RuntimeError):  # the first process is gone; asking for the next image says so
            self._store.add("images", 1)
            self._store.add("correct", int(correct))
            self._store.add("samples", samples)

    @property
    def totals(self) -> Totals:
        """What all have counted."""
        return Totals(*(self._store.add(key, 0) for key in ("images", "correct", "samples")))

    @property
    def signal_number(self) -> int | None:
        """The signal by which one of the processes was asked to stop, known to the first process at the end."""
        return int(self._store.get("signal")) if self._store.check(["signal"]) else None

    def _hand_out_no_more(self) -> None:
        self._store.add("handed out", _ALL)
        if self._stop.signal_number is not None:
            self._store.set("signal", str(self._stop.signal_number))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False  # at once: somebody insists
        if self.rank == 0:
            if error is not None:
                self._hand_out_no_more()
            self._wait()
            if error is None:
                self._raise_for_others()
            return False
        self._leaving.set()
        self._heart.join()
        try:
            if error is not None:
                self._store.set("error", _pickled(error))
                self._hand_out_no_more()
            self._store.set(f"ended {self.rank}", "")
        except RuntimeError:
            return False
        return True

    def _wait(self) -> None:
        """Wait until every other process has ended or is lost."""
        while self._heard.keys() - self._lost():
            if self._stop.signal_number is not None:
                self._hand_out_no_more()
            time.sleep(0.02)

    def _raise_for_others(self) -> None:
        if self._store.check(["error"]):
            raise pickle.loads(bytes.fromhex(self._store.get("error").decode()))
        if self._heard:
            which = ", ".join(str(rank + 1) for rank in self._heard)
            raise MacerError(f"of the {self.size} processes that certify together, these are gone: {which}")

    def _lost(self) -> set[int]:
        """The processes that have not ended, and yet gave no sign of life for a while."""
        now = time.monotonic()
        for rank, (beat, _) in list(self._heard.items()):
            if self._store.check([f"ended {rank}"]):
                del self._heard[rank]
            elif (count := self._store.add(f"beat {rank}", 0)) != beat:
                self._heard[rank] = (count, now)
        patience = _PATIENCE if self._stop.signal_number is None else _PATIENCE_WHEN_STOPPING
        return {rank for rank, (_, when) in self._heard.items() if now - when > patience}

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the first process is gone; asking for the next image says so
            while not self._leaving.wait(_SECONDS_BETWEEN_BEATS):
                self._store.add(f"beat {self.rank}", 1)


def join(fabric: Any | None, images: Sequence[int], stop: StopRequest) -> Processes:
    """Start the processes of a fabric, or meet those that torchrun or Slurm started.

    Args:
        fabric: a Lightning Fabric that has not been launched; None for this process alone.
        images: the list to share; that of the first process counts.
        stop: whether this process was asked to stop.

    Raises:
        MacerError: they did not find each other.
    """
    if fabric is None or fabric.world_size == 1:
        return Processes(_OwnStore(), 0, 1, images, "", stop)
    launch(fabric)
    try:
        first = fabric.is_global_zero
        host = os.environ["MASTER_ADDR"]
        store = _tcp_store(host, 0, first=True) if first else None
        port, images, run = fabric.broadcast((store.port, images, secrets.token_hex(4)) if store else None)
        store = store or _tcp_store(host, port, first=False)
    except RuntimeError as error:
        raise did_not_meet(fabric, error) from error
    return Processes(store, fabric.global_rank, fabric.world_size, images, run, stop)


def _tcp_store(host: str, port: int, *, first: bool) -> Any:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # not in every build of PyTorch

    return TCPStore(host, port, is_master=first, wait_for_workers=False, timeout=timedelta(seconds=60))


def _pickled(error: Exception) -> str:
    """The error as the first process can raise it."""
    try:
        pickle.loads(content := pickle.dumps(error))
    except Exception:  # whatever a class of errors does that cannot be pickled
        content = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content.hex()
