"""Progress of long work: a live bar with rate and time left on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0


class ProgressView:
    """Shows `total` units of work being done. Use as a context manager.

    Args:
        title: what is being done.
        total: how many units there are.
        done: how many were done before, by an earlier process; they do not count for the rate.
        unit: what is counted in the rate, for example "images".
        console: where to write.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str, console: Console) -> None:
        self.title, self.total, self.done, self.unit, self.console = title, total, done, unit, console
        self._counted = 0
        self._started = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),  # it may name a directory
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[detail]}"),
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
            self._line(self._rate() if self._counted else "all of it before")

    def advance(self, units: int, counted: int, detail: str = "") -> None:
        """Report `units` of the total as done, which took `counted` of what the rate counts."""
        self.done += units
        self._counted += counted
        text = f"{self._rate()}  {detail}"
        self._bar.update(self._task, completed=self.done, detail=text)
        if not self.console.is_terminal and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._line(text)

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._started
        return f"{self._counted / max(elapsed, 1e-9):,.0f} {self.unit}/s"

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._started
        line = f"{self.title}: {self.done} of {self.total}, {elapsed:.0f} s, {text}".rstrip()
        self.console.print(line, highlight=False, soft_wrap=True)
