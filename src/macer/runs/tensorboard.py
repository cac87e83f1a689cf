"""A run's training curves as a file of events for TensorBoard."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from macer.files.replacing import writing


class TensorBoardLog:
    """Writes curves at once. TensorBoard's own writer does it in a thread, which prints a traceback on a full disk.

    Args:
        folder: of the event files.
        purge_step: steps from this one on that earlier files hold are not shown.

    Raises:
        OSError: here and later, the disk is full or read-only.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._stream = self._file.open("ab", buffering=0)
        self._records = RecordWriter(self._stream)
        self._add(file_version="brain.Event:2")
        self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve, by its tag."""
        for tag, value in values.items():
            self._add(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _add(self, **content: Any) -> None:
        with writing(self._file):
            self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
