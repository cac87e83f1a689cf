"""A Dask cluster of this machine: one worker process for each device, started and ended here. Needs Dask."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker, spawn
from typing import Any

import torch
from distributed import Nanny, Scheduler, Security, SpecCluster

from macer.compute.interruption import SIGNALS
from macer.errors import MacerError

_SECONDS_TO_CLOSE = 0.5
"""Workers at work are given this long to end by themselves."""


@contextmanager
def local_cluster(device: torch.device, devices: int) -> Iterator[Any]:
    """A cluster of this machine, closed to everybody else: on the loopback interface, with keys made for it alone."""
    security = Security.temporary()
    common = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    worker = {**common, "nthreads": 1, "memory_limit": None, "silence_logs": logging.CRITICAL}
    with _workers_do_not_run_the_script():  # nor do those that take the place of a worker that died
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
