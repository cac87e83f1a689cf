"""Ctrl-C and SIGTERM as a request to stop, which long work honours at its next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Work was stopped at a safe point because of a signal.

    Attributes:
        signal_number: the signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """A request to stop.

    Attributes:
        signal_number: the signal that asked for it; None while there is no request.
    """

    signal_number: int | None = None

    def check(self, message: str) -> None:
        """Raise Interrupted if there was a request.

        Args:
            message: says what was done and how to continue.

        Raises:
            Interrupted: there was a request.
        """
        if self.signal_number is not None:
            raise Interrupted(message, self.signal_number)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request to stop; the second one ends the process as usual."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
