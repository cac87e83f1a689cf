"""Where independent pieces of work run: in this process, in several on this machine, or on a Dask cluster.

The caller is always the only process that reads items and receives results; workers hold no files and no state that
would have to survive them.
"""

import asyncio
import ipaddress
import json
import logging
import os
import pickle
import queue
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker, spawn
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import torch

import macer
from macer.compute.device import find_device
from macer.compute.interruption import SIGNALS, StopRequest
from macer.errors import MacerError, SettingsError, first_line, needs
from macer.files.reading import read_text

_WORKER_DEATHS = 4
"""How many workers may die while they have an item before it is given up."""
_ITEMS_PER_WORKER = 2
"""One item being worked on and one that is there when it is done."""
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_CONNECT = 30
_SECONDS_TO_CLOSE = 0.5
"""Workers at work are given this long to end by themselves."""
_SECONDS_WITHOUT_WORKERS = 120
"""After this long without any worker process, a cluster on this machine is given up: no other machine can join it."""


@runtime_checkable
class Work(Protocol):
    """What is to be done with each item. It is pickled once per worker, and each item and each result with it."""

    def start(self, device: torch.device) -> Callable[[Any], Any]:
        """Do what takes long and is needed once per worker; return the function that takes an item to its result."""
        ...


class Workers(ABC):
    """The workers that share a list of items."""

    finishes: bool
    """Whether the items at hand are finished after a request to stop."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are now."""

    @abstractmethod
    def map(self, work: Work, items: Iterable[Any], stop: StopRequest) -> Generator[Any, None, None]:
        """Yield the result of each item, in the order in which they are done; none after a request to stop.

        Raises:
            MacerError: the scheduler is lost, or an item was given up because several workers died with it.
            Exception: whatever the work raised for an item.
        """


@dataclass(frozen=True)
class Engine:
    """Where to run. Every choice gives the same results.

    Attributes:
        device: what each worker computes on: auto, cpu or cuda.
        devices: how many worker processes to start on this machine, each with a device of its own. With 1, everything
            runs in the calling process, without Dask.
        scheduler: the address of a Dask scheduler, such as tcp://10.0.0.1:8786, or the file that it wrote; its workers
            are used instead. None: this machine.

    Raises:
        SettingsError: the numbers are impossible, or this machine has no such devices.
    """

    device: str = "auto"
    devices: int = 1
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise SettingsError(f"devices must be at least 1, not {self.devices}")
        if self.scheduler is not None:
            if self.devices > 1:
                raise SettingsError("a scheduler has its own workers: give either devices or scheduler")
            return
        if find_device(self.device).type == "cuda" and self.devices > torch.cuda.device_count():
            raise SettingsError(f"this machine has {torch.cuda.device_count()} GPUs, not {self.devices}")

    @contextmanager
    def open(self) -> Iterator[Workers]:
        """Start or find the workers, and let go of them in the end: worker processes of this machine are ended.

        Raises:
            MissingLibrary: Dask is not installed.
            MacerError: worker processes do not start, or there is no scheduler at the address.
        """
        if self.devices == 1 and self.scheduler is None:
            yield _ThisProcess(find_device(self.device))
            return
        with needs("dask"):
            import distributed  # noqa: F401  # sets up its logging, which is silenced after it
            from dask import config
        with ExitStack() as stack:
            stack.enter_context(config.set(_CONFIGURATION))
            stack.enter_context(_quiet())
            if self.scheduler is None:
                stack.enter_context(_workers_do_not_run_the_script())
            cluster = None if self.scheduler else stack.enter_context(_cluster(find_device(self.device), self.devices))
            client = stack.enter_context(_client(cluster or self.scheduler))
            yield _Cluster(client, self.device, local=cluster is not None)


class _ThisProcess(Workers):
    """The calling process as the only worker."""

    finishes = True

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


class _Cluster(Workers):
    """The workers of a Dask cluster.

    Each gets its items by name, so that one that holds the work already is not preferred to those that do not yet. The
    scheduler gives the items of a worker that dies to another one.
    """

    finishes = False

    def __init__(self, client: Any, device: str, *, local: bool) -> None:
        self._client, self._device, self._local = client, device, local
        self._addresses: list[str] = []
        self._looked, self._seen = 0.0, time.monotonic()

    @property
    def count(self) -> int:
        self._look()
        return len(self._addresses)

    def map(self, work: Work, items: Iterable[Any], stop: StopRequest) -> Generator[Any, None, None]:
        from cloudpickle import dumps  # also takes classes of a notebook

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
        from distributed import KilledWorker

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
        try:
            work: Work = pickle.loads(pickled)
        except ImportError as error:
            raise MacerError(f"a worker lacks what the command has: {error}") from error
        return work.start(find_device(device))


def _versions() -> str:
    return f"macer {macer.__version__} and PyTorch {torch.__version__.partition('+')[0]}"


def _apply(work: _OnWorker, item: bytes) -> Any:
    return work(pickle.loads(item))


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
def _quiet() -> Iterator[None]:
    """Keep Dask's log off the terminal: what matters of it is raised as one line."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS]
    loggers = [logging.getLogger(name) for name in names]  # those below Dask's own have levels of their own
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _cluster(device: torch.device, devices: int) -> Iterator[Any]:
    """A cluster of this machine, closed to everybody else: on the loopback interface, with keys made for it alone."""
    from distributed import Nanny, Scheduler, Security, SpecCluster

    security = Security.temporary()
    common = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    worker = {**common, "nthreads": 1, "memory_limit": None, "silence_logs": logging.CRITICAL}
    try:
        with _interrupts_for_this_process_only():
            cluster = SpecCluster(
                scheduler={"cls": Scheduler, "options": {**common, "port": 0, "dashboard_address": "127.0.0.1:0"}},
                workers={
                    number: {"cls": Nanny, "options": {**worker, "env": _environment(device, number, devices)}}
                    for number in range(devices)
                },
                security=security,
            )
    except Exception as error:
        raise MacerError(f"the {devices} worker processes did not start: {error}") from error
    try:
        yield cluster
    finally:
        cluster.sync(_end, list(cluster.workers.values()))
        cluster.close()


@contextmanager
def _workers_do_not_run_the_script() -> Iterator[None]:
    """Start worker processes without the main module, which a script without `if __name__ == "__main__"` would repeat.

    They do not need it: what is defined there travels as a whole. Python has no other way to leave it out.
    """
    original = spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith("Dask"):
            data = {key: value for key, value in data.items() if not key.startswith("init_main")}
        return data

    spawn.get_preparation_data = without_main
    try:
        yield
    finally:
        spawn.get_preparation_data = original


async def _end(nannies: list[Any]) -> None:
    """End the worker processes, whatever they are doing."""
    await asyncio.gather(*(nanny.close(timeout=_SECONDS_TO_CLOSE) for nanny in nannies), return_exceptions=True)


def _environment(device: torch.device, number: int, devices: int) -> dict[str, str]:
    """The environment variables of a worker: its own GPU, or its share of the cores."""
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(devices)))).split(",")
        return {"CUDA_VISIBLE_DEVICES": visible[number]}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // devices)))}


@contextmanager
def _interrupts_for_this_process_only() -> Iterator[None]:
    """Let signals that all processes get, as a terminal sends them, not reach those started here: this one ends them.

    The mask of blocked signals is inherited by the threads that are started here, and from them by processes.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    blocked = set(SIGNALS) - {signal.SIGTERM}  # by which this process ends them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    resource_tracker.ensure_running()  # is started here as well, and unblocks SIGINT in the thread that starts it
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
def _client(cluster: Any) -> Iterator[Any]:
    """A connection to a scheduler: of a cluster, at an address, or as a scheduler file says."""
    from distributed import Client

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
