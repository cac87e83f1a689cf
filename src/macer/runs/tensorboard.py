"""A run's training curves as a file of events for TensorBoard."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from macer.files.replacing import writing

_events: Any = event_pb2  # the classes in these two are made when they are imported
_summaries: Any = summary_pb2


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
        self._add(step=purge_step, session_log=_events.SessionLog(status=_events.SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve, by its tag."""
        for tag, value in values.items():
            point = _summaries.Summary.Value(tag=tag, simple_value=value)
            self._add(step=step, summary=_summaries.Summary(value=[point]))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _add(self, **content: Any) -> None:
        with writing(self._file):
            self._records.write(_events.Event(wall_time=time.time(), **content).SerializeToString())
