"""How processes that train together find each other: start them or join those started, wait, say who is awaited.

On one machine they listen on its loopback interface alone.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed

from macer.compute.launchers import Launched
from macer.errors import MacerError, first_line

TIMEOUT = timedelta(minutes=10)
"""How long processes wait for each other at the start, and for each other's gradients in a step."""
_LOOPBACK = "127.0.0.1"
_SECONDS_UNTIL_SAID = 5.0
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_CONNECT = 30
_STARTED_BY = "MACER_STARTED_BY"
"""The environment variable that tells a process which process started it."""


class Environment(LightningEnvironment):
    """Tells Fabric which process this is, as a launcher says it.

    Args:
        launched: what the launcher says; None: this process starts the others, or a person has set Lightning's own
            variables, as LOCAL_RANK.
    """

    def __init__(self, launched: Launched | None) -> None:
        super().__init__()
        self.launched = launched

    @property
    def creates_processes_externally(self) -> bool:
        return self.launched is not None or super().creates_processes_externally

    @property
    def main_address(self) -> str:
        return self.launched.address if self.launched else super().main_address

    @property
    def main_port(self) -> int:
        return self.launched.port if self.launched else super().main_port

    def local_rank(self) -> int:
        return self.launched.local_rank if self.launched else super().local_rank()

    def node_rank(self) -> int:
        return self.launched.machine if self.launched else super().node_rank()


class Together(DDPStrategy):
    """DistributedDataParallel whose processes meet under our eyes: signals end the wait, and it says who is awaited."""

    def setup_environment(self) -> None:
        environment = self.cluster_environment
        assert environment is not None
        on_one_machine = self.num_nodes == 1
        if on_one_machine:
            _exchange_on_loopback()
        # torchrun's own process has the store already.
        of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address = _LOOPBACK if on_one_machine and not of_torchrun else environment.main_address
        place = address, environment.main_port
        wait = _Wait(self._own_processes())
        if self.global_rank == 0 and not of_torchrun:
            store = _serve(place)
        else:
            what = f"{_these([0])} of {self.world_size} at {address}, port {place[1]}"
            wait.until(lambda: _answers(place), lambda: what)
            store = _store(place, serves=False, timeout=timedelta(seconds=_SECONDS_TO_CONNECT))
        store.set(f"macer/{self.global_rank}", "here")

        def missing() -> list[int]:
            return [rank for rank in range(self.world_size) if not store.check([f"macer/{rank}"])]

        wait.silent = wait.silent or self.global_rank != 0
        wait.until(lambda: not missing(), lambda: f"{_these(missing())} of {self.world_size}")
        distributed.init_process_group(
            self.process_group_backend,
            store=store,
            rank=self.global_rank,
            world_size=self.world_size,
            timeout=TIMEOUT,
        )
        super().setup_environment()

    def _own_processes(self) -> list[Any]:
        launcher = self.launcher
        return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []


class _Wait:
    """A wait for other processes, which signals end.

    Args:
        started: the processes that this one started. It need not be told that they are on their way; but if one of them
            ends, the wait is over.
    """

    def __init__(self, started: list[Any]) -> None:
        self._started, self._since = started, time.monotonic()
        self.silent = bool(started)

    def until(self, done: Callable[[], bool], what: Callable[[], str]) -> None:
        """Return when it is done; say after some seconds what is awaited.

        Raises:
            MacerError: it took too long, or a process that this one started has ended.
        """
        while not done():
            waited = time.monotonic() - self._since
            if any(process.poll() for process in self._started):
                raise MacerError("a process that this one started has ended, and so this one ends")
            if waited > TIMEOUT.total_seconds():
                raise MacerError(f"{what()} did not come within {TIMEOUT.total_seconds() / 60:.0f} minutes")
            if waited > _SECONDS_UNTIL_SAID and not self.silent:
                print(f"macer: waiting for {what()}", file=sys.stderr, flush=True)
                self.silent = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _these(ranks: list[int]) -> str:
    """Return the numbers of processes in words, at most some of them."""
    shown = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"process {shown}" if len(ranks) == 1 else f"the processes {shown}"


def _serve(place: tuple[str, int]) -> Any:
    """Return the store that the others connect to. On a loopback address nobody else can."""
    if place[0] != _LOOPBACK:
        return _store(place, serves=True, timeout=TIMEOUT)
    try:
        listener = socket.create_server(place)
    except OSError as error:
        raise MacerError(f"cannot listen at {place[0]}, port {place[1]}: {error.strerror}") from error
    return _store(place, serves=True, timeout=TIMEOUT, master_listen_fd=listener.detach())


def _store(place: tuple[str, int], *, serves: bool, timeout: timedelta, **more: Any) -> Any:
    store: Any = distributed.TCPStore  # pyright: ignore[reportPrivateImportUsage]
    return store(*place, None, serves, timeout, wait_for_workers=False, **more)


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=1).close()
    except OSError:
        return False
    return True


def _exchange_on_loopback() -> None:
    """Let gloo and NCCL, too, listen on the loopback interface alone."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, loopback)


def launch(fabric: Any) -> None:
    """Start the processes of a fabric, or connect those that a launcher started.

    Raises:
        MacerError: they did not find each other.
    """
    try:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # processes started here print no stack traces of C++
        with quiet_fabric(), _ending_with_its_parent():
            fabric.launch()
    except RuntimeError as error:
        raise did_not_meet(fabric, error) from error


@contextmanager
def quiet_fabric() -> Iterator[None]:
    """Keep Lightning Fabric from announcing every process, and from giving advice on the arithmetic of GPUs."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def did_not_meet(fabric: Any, error: RuntimeError) -> MacerError:
    """Return the error for processes that did not find each other."""
    return MacerError(f"the {fabric.world_size} processes did not find each other: {first_line(error)}")


@contextmanager
def _ending_with_its_parent() -> Iterator[None]:
    """End this process if the one that started it dies before they are connected; it would wait for minutes."""
    parent, connected = os.environ.get(_STARTED_BY), threading.Event()
    os.environ[_STARTED_BY] = str(os.getpid())  # for those that this one starts

    def watch() -> None:
        while not connected.wait(1):
            if str(os.getppid()) != parent:
                print("macer: the process that started this one is gone, and so this one ends", file=sys.stderr)
                os._exit(2)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        connected.set()
        del os.environ[_STARTED_BY]
