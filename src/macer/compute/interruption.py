"""Signals: what a person, a shell or a scheduler stops work with, now or at its next safe point.

Ctrl-C (SIGINT), SIGTERM, SIGHUP (a terminal that closes), SIGUSR1 and SIGUSR2 (Slurm's warnings) are treated alike.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them
)
"""What asks to stop."""
_ALWAYS = (signal.SIGINT, signal.SIGTERM)
_SECONDS_OF_ONE_REQUEST = 1.0
"""A terminal, torchrun and a shell each send a signal for one Ctrl-C."""
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Environment variables with the number of a process among several. The first speaks for all."""


class Interrupted(BaseException):
    """Work was stopped at a safe point because of a signal.

    As Python's KeyboardInterrupt it is no Exception: a script's `except Exception` does not go on with more work.

    Attributes:
        signal_number: the signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Stopped(BaseException):
    """A signal ended work at once.

    Attributes:
        signal_number: the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopRequest:
    """A request to stop.

    Attributes:
        signal_number: the signal that asked for it; None while there is no request.
        answer: is called by the signal: tells the person at once what is still being finished.
    """

    signal_number: int | None = None

    def __init__(self) -> None:
        self.answer: Callable[[], None] = lambda: None

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
    """Turn the first signal into a request to stop; the next one, a second later or more, ends the process."""
    request = StopRequest()
    asked = 0.0

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if request.signal_number is None:
            request.signal_number, asked = number, time.monotonic()
            request.answer()
        elif time.monotonic() - asked > _SECONDS_OF_ONE_REQUEST:
            for each, handler in previous.items():
                signal.signal(each, _beneath(handler, each))
            signal.raise_signal(number)

    with _handled_by(ask) as previous:
        vars(ask)["previous"] = previous
        yield request


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let signals raise Stopped, so that files are closed and processes ended on the way out.

    Raises:
        Stopped: there was a signal.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals end the process with one line and nothing else: for imports, in which an exception could get lost."""

    def end(number: int, _frame: FrameType | None) -> None:
        say_stopped()
        os._exit(128 + number)

    with _handled_by(end):
        yield


def say_stopped() -> None:
    """Write one line to standard error, in the first of several processes."""
    if all(os.environ.get(name, "0") == "0" for name in _RANKS):
        os.write(2, b"macer: stopped\n")


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Handle the signals, and yield their previous handlers.

    A program keeps its own handlers of SIGHUP, SIGUSR1 and SIGUSR2, and nohup's wish that SIGHUP be ignored.
    """
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        found = {number: signal.getsignal(number) for number in SIGNALS}
        previous = {
            each: now for each, now in found.items() if each in _ALWAYS or now == signal.SIG_DFL or _is_ours(now)
        }
    for number in previous:
        signal.signal(number, handler)
    try:
        yield previous
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _is_ours(handler: Any) -> bool:
    return getattr(handler, "__module__", None) == __name__


def _beneath(handler: Any, number: int) -> Any:
    """Return the handler that was there before all of `stop_on_signals`: nested work is stopped as a whole."""
    while _is_ours(handler) and "previous" in vars(handler):
        handler = handler.previous[number]
    return handler
