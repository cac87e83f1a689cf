"""A Dask cluster as workers: its scheduler, found safely, and the work as it lies on each worker. Needs Dask."""

import ipaddress
import json
import logging
import pickle
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from cloudpickle import dumps  # also takes classes of a notebook
from dask import config
from distributed import Client, KilledWorker

import macer
from macer.compute.device import find_device
from macer.compute.interruption import StopRequest
from macer.compute.workers import Work, Workers
from macer.errors import MacerError, SettingsError, first_line
from macer.files.reading import read_text
from macer.importing import search_here_last

_WORKER_DEATHS = 4
"""How many workers may die while they have an item before it is given up."""
_ITEMS_PER_WORKER = 2
"""One item being worked on and one that is there when it is done."""
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_CONNECT = 30
_SECONDS_TO_CLOSE = 0.5
_SECONDS_WITHOUT_WORKERS = 120
"""After this long without any worker process, a cluster on this machine is given up: no other machine can join it."""

_CONFIGURATION = {
    "distributed.scheduler.allowed-failures": _WORKER_DEATHS - 1,
    "distributed.deploy.lost-worker-timeout": "1 hour",  # a worker that died is started again, which takes a while
    "distributed.scheduler.http.routes": [],  # no pages
    "distributed.worker.http.routes": [],
    "distributed.admin.large-graph-warning-threshold": "1 TB",  # a network is sent as the argument of a task
    "distributed.diagnostics.computations.nframes": 0,  # no source code with each task
}

_LOGGERS = ("distributed", "tornado", "asyncio")


@contextmanager
def quiet() -> Iterator[None]:
    """Configure Dask, and keep its log off the terminal: what matters of it is raised as one line."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS]
    loggers = [logging.getLogger(name) for name in names]  # those below Dask's own have levels of their own
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with config.set(_CONFIGURATION):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Cluster(Workers):
    """The workers of a Dask cluster.

    Each gets its items by name, so that one that holds the work already is not preferred to those that do not yet. The
    scheduler gives the items of a worker that dies to another one.
    """

    def __init__(self, client: Any, device: str, *, local: bool) -> None:
        self._client, self._device, self._local = client, device, local
        self._addresses: list[str] = []
        self._looked, self._seen = 0.0, time.monotonic()

    @property
    def count(self) -> int:
        self._look()
        return len(self._addresses)

    def map(self, work: Work, items: Iterable[Any], stop: StopRequest) -> Generator[Any, None, None]:
        stop.answer = lambda: None  # nothing is finished: the items at hand are given up at once
        shared = self._client.submit(_OnWorker, dumps(work), self._device, _versions(), pure=False)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        pending: dict[Any, str] = {}
        remaining, exhausted = iter(items), False
        while pending or not exhausted:
            if stop.signal_number is not None:
                return
            for address in () if exhausted else self._free(pending.values()):
                try:
                    item = dumps(next(remaining))
                except StopIteration:
                    exhausted = True
                    break
                future = self._client.submit(
                    _apply, shared, item, workers=[address], allow_other_workers=True, pure=False
                )
                pending[future] = address
                future.add_done_callback(done.put)
            with suppress(queue.Empty):
                future = done.get(timeout=_SECONDS_BETWEEN_LOOKS)
                del pending[future]
                yield self._result(future)

    def _free(self, busy: Iterable[str]) -> list[str]:
        """The workers that can take an item, once for each that they can take."""
        self._look()
        counts = Counter(busy)
        return [
            address
            for place in range(_ITEMS_PER_WORKER)
            for address in self._addresses
            if counts[address] <= place  # first those that have none
        ]

    def _look(self) -> None:
        """See which workers there are, at most once per second."""
        now = time.monotonic()
        if now - self._looked < 1 and self._addresses:
            return
        try:
            self._addresses, self._looked = list(self._client.nthreads()), now
        except Exception as error:  # Dask and tornado raise several kinds
            raise _lost() from error
        if self._addresses:
            self._seen = now
        elif self._local and now - self._seen > _SECONDS_WITHOUT_WORKERS:
            raise MacerError("no worker process is left on this machine")

    def _result(self, future: Any) -> Any:
        if future.status == "error":  # raised by the work, or by the scheduler for it
            error = future.exception()
            if isinstance(error, KilledWorker):
                deaths = error.allowed_failures + 1
                raise MacerError(f"{deaths} workers died while they had the same task: perhaps they lack memory")
            raise error
        try:
            return future.result()
        except Exception as error:  # Dask and tornado raise several kinds
            raise _lost() from error


def _lost() -> MacerError:
    return MacerError("the connection to Dask's scheduler was lost; the same command goes on")


class _OnWorker:
    """The work as it lies on a worker: started at the first item, and there until the client lets go of it."""

    def __init__(self, pickled: bytes, device: str, versions: str) -> None:
        self._arguments = pickled, device, versions
        self._lock = threading.Lock()
        self._function: Callable[[Any], Any] | None = None

    def __reduce__(self) -> tuple[type, tuple[bytes, str, str]]:
        return _OnWorker, self._arguments

    def __call__(self, item: Any) -> Any:
        with self._lock:  # a worker of several threads has one device all the same
            if self._function is None:
                self._function = self._start()
            return self._function(item)

    def _start(self) -> Callable[[Any], Any]:
        pickled, device, versions = self._arguments
        if versions != _versions():
            raise MacerError(f"a worker has {_versions()}, the command {versions}: install the same versions")
        search_here_last()  # there the command itself has found a person's own network
        try:
            work: Work = pickle.loads(pickled)
        except ImportError as error:
            raise MacerError(f"a worker lacks what the command has: {error}") from error
        return work.start(find_device(device))


def _versions() -> str:
    return f"macer {macer.__version__} and PyTorch {torch.__version__.partition('+')[0]}"


def _apply(work: _OnWorker, item: bytes) -> Any:
    return work(pickle.loads(item))


def _check_private(address: str) -> None:
    """Refuse a scheduler without TLS that other machines can reach.

    Dask's messages are pickles, which run code: whoever could send one would have this process. With TLS, only who has
    a key of the cluster's authority can.

    Raises:
        SettingsError: the address is neither encrypted nor of this machine's loopback interface.
    """
    protocol, _, place = address.rpartition("://")
    host = urlsplit(f"//{place}").hostname or ""
    try:
        private = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        private = False
    if not protocol and ":" not in place:
        raise SettingsError(f"{address}: no scheduler file there, and no address such as tcp://127.0.0.1:8786")
    if not private and protocol != "tls":
        raise SettingsError(
            f"the scheduler at {address} takes orders from everybody who can reach it, and they would run here: "
            "start it with TLS and give tls://..., or go through a tunnel to this machine (docs/scale.md)"
        )


def _address_in(file: Path) -> str:
    try:
        return str(json.loads(read_text(file))["address"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{file}: not the file of a Dask scheduler, which holds its address") from error


@contextmanager
def connected(cluster: Any) -> Iterator[Any]:
    """A connection to a scheduler: of a cluster, at an address, or as a scheduler file says."""
    file = cluster if isinstance(cluster, str) and Path(cluster).is_file() else None
    if isinstance(cluster, str):
        _check_private(cluster if file is None else _address_in(Path(file)))
    try:
        client = Client(
            None if file else cluster, scheduler_file=file, set_as_default=False, timeout=_SECONDS_TO_CONNECT
        )
    except Exception as error:  # Dask raises several kinds
        raise MacerError(f"no Dask scheduler answers at {cluster}: {first_line(error)}") from error
    try:
        yield client
    finally:
        client.close(timeout=_SECONDS_TO_CLOSE)
