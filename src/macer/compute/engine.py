"""Where independent pieces of work run: in this process, in several on this machine, or on a Dask cluster."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from macer.compute.device import check_gpus, find_device
from macer.compute.workers import ThisProcess, Workers
from macer.errors import SettingsError, needs


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
                raise SettingsError("a scheduler has its own workers: give either `devices` or `scheduler`")
            return
        if find_device(self.device).type == "cuda":
            check_gpus(self.devices)

    @contextmanager
    def open(self) -> Iterator[Workers]:
        """Start or find the workers, and let go of them in the end: worker processes of this machine are ended.

        Raises:
            MissingLibrary: Dask is not installed.
            MacerError: worker processes do not start, or there is no scheduler at the address.
        """
        if self.devices == 1 and self.scheduler is None:
            yield ThisProcess(find_device(self.device))
            return
        with needs("dask"):
            import distributed  # noqa: F401  # sets up its logging, which is silenced after it
        from macer.compute.cluster import Cluster, connected, quiet
        from macer.compute.local_cluster import local_cluster

        with ExitStack() as stack:
            stack.enter_context(quiet())
            cluster = None
            if not self.scheduler:  # else the workers have the device, which this machine need not have
                cluster = stack.enter_context(local_cluster(find_device(self.device), self.devices))
            client = stack.enter_context(connected(cluster or self.scheduler))
            yield Cluster(client, self.device, local=cluster is not None)
