"""Progress of long work: a live bar with rate and time left on a terminal, a line every 30 seconds elsewhere."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 30.0


class ProgressView:
    """The progress of `total` units of work. Use as a context manager.

    Args:
        title: what is being done.
        total: number of units.
        done: number of units that an earlier process has done; they do not count for the rate.
        unit: what the rate counts, for example "images".
        console: where to write.

    Attributes:
        limit: the highest rate that the device allows; None while unknown. The rate is shown as a percentage of it.
    """

    limit: float | None = None

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str, console: Console) -> None:
        self.title, self.total, self.done, self.unit, self.console = title, total, done, unit, console
        self._before, self._counted, self._detail = done, 0, ""
        self._started = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),  # it may name a directory
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, detail="")

    def __enter__(self) -> "ProgressView":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self.console.is_terminal and kind is None:
            self._line(_joined(self._rate(), self._detail) if self._counted else "nothing was left to do")

    @property
    def seconds(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._started

    def advance(self, units: int, counted: int, detail: str = "") -> None:
        """Show that `units` more of the total are done, and that the rate counts `counted` more."""
        self.done += units
        self._counted += counted
        self._detail = detail
        text = _joined(self._left(), self._rate(), detail)
        self._bar.update(self._task, completed=self.done, detail=text)
        if not self.console.is_terminal and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._line(text)

    def _left(self) -> str:
        """Return the time that the rest takes at the pace so far, in words."""
        now = self.done - self._before
        if not 0 < self.done < self.total or now == 0:
            return ""
        return f"{timedelta(seconds=round((self.total - self.done) * self.seconds / now))} left"

    def _rate(self) -> str:
        rate = self._counted / max(self.seconds, 1e-9)
        # A rate above the limit means that other work slowed the measurement of the limit down.
        share = f" ({rate / self.limit:.0%} of the network's limit)" if self.limit and rate <= self.limit else ""
        return f"{rate:,.0f} {self.unit}/s{share}"

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        line = f"{self.title}: {self.done} of {self.total}, {self.seconds:.0f} s, {text}".rstrip()
        self.console.print(line, highlight=False, soft_wrap=True)


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)
