"""Progress of long work: a live bar with time left and rate on a terminal, a line every 30 seconds elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

_SECONDS_BETWEEN_LINES = 30.0
_BAR = 12
"""Width of the bar."""
_SHORTEST_TITLE = 8
_WORTH_SAYING = 2.0
"""Seconds: a shorter wait after a request to stop is not announced."""


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
        self._before, self._counted = done, 0
        self._details: tuple[str, ...] = ()
        self._started = self._advanced = self._last_line = time.monotonic()
        self._bar = Progress(
            _Part(lambda: self.fitted(console.width)[0]),
            BarColumn(bar_width=_BAR),
            _Part(lambda: self.fitted(console.width)[1]),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done)

    def __enter__(self) -> "ProgressView":
        self._bar.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.stop()
        if not self.console.is_terminal and kind is None:
            done = (self._rate(), ", ".join(self._details)) if self._counted else ("nothing was left to do",)
            self._line(*done)

    @property
    def seconds(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._started

    def advance(self, units: int, counted: int, *details: str) -> None:
        """Show that `units` more of the total are done, that the rate counts `counted` more, and what else there is."""
        self.done += units
        self._counted += counted
        self._details, self._advanced = details, time.monotonic()
        self._bar.update(self._task, completed=self.done)
        if not self.console.is_terminal and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._line(self._left(), self._rate(), ", ".join(details))

    def answer(self, what: str) -> None:
        """Answer a request to stop: a unit is being finished, and takes about so long. Nothing, if that is at once.

        Handlers of signals call this, so it writes past the console, which may be at work.

        Args:
            what: is being finished.
        """
        done = self.done - self._before
        took = (self._advanced - self._started) / done if done else None
        left = None if took is None else took - (time.monotonic() - self._advanced)
        if self.console.quiet or (took is not None and took < _WORTH_SAYING):
            return
        about = "" if left is None or left < _WORTH_SAYING else f" (about {_rounded(left)})"
        shows = self.console.is_terminal and self.console.file in (sys.stdout, sys.stderr)
        erased = "\r\x1b[2K" if shows else ""  # the bar, which is drawn again below the line
        os.write(2, f"{erased}macer: finishing {what}{about}; again to stop now\n".encode())

    def fitted(self, width: int) -> tuple[str, str]:
        """Return what stands before and behind the bar in so many columns: all, or what matters most.

        First the share of the limit goes, then the details, the unit of the rate, the title's end, the rate, the time.
        """
        count, left = f"{self.done}/{self.total}", self._left() or f"{self._duration(self.seconds)} so far"
        number = f"{self._per_second():,.0f}" if self._counted else ""
        share, rate, short_rate = (self._rate(), f"{number} {self.unit}/s", f"{number}/s") if number else ("", "", "")
        fewer = [", ".join(self._details[:kept]) for kept in range(len(self._details), -1, -1)]
        full = [_joined(count, left, share, fewer[0]), *(_joined(count, left, rate, some) for some in fewer)]
        short = [_joined(count, left, short_rate), _joined(count, left), count]
        room = width - _BAR - 2
        for text in [*full, short[0]]:
            if len(self.title) + len(text) <= room:
                return self.title, text
        text = next((text for text in short if _SHORTEST_TITLE + len(text) <= room), count)
        title = Text(self.title)
        title.truncate(max(room - len(text), 1), overflow="ellipsis")
        return title.plain, text

    def _left(self) -> str:
        """Return the time that the rest takes at the pace so far, in words."""
        now = self.done - self._before
        if not 0 < self.done < self.total or now == 0:
            return ""
        expected = (self.total - self.done) * (self._advanced - self._started) / now
        return f"{self._duration(max(0.0, expected - (time.monotonic() - self._advanced)))} left"

    def _per_second(self) -> float:
        return self._counted / max(self._advanced - self._started, 1e-9)

    def _rate(self) -> str:
        rate = self._per_second()
        # A rate above the limit means that other work slowed the measurement of the limit down.
        share = f" ({rate / self.limit:.0%} of the network's limit)" if self.limit and rate <= self.limit else ""
        return f"{rate:,.0f} {self.unit}/s{share}"

    @staticmethod
    def _duration(seconds: float) -> str:
        return str(timedelta(seconds=round(seconds)))

    def _line(self, *parts: str) -> None:
        self._last_line = time.monotonic()
        line = f"{self.title}: {self.done} of {self.total}, {self.seconds:.0f} s, {_joined(*parts)}".rstrip()
        self.console.print(line, soft_wrap=True)


class _Part(ProgressColumn):
    """A part of the line whose text is asked for whenever the bar is drawn.

    Args:
        text: returns it.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._text = text

    def render(self, task: Task) -> Text:
        """Return the text."""
        return Text(self._text())


def _rounded(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)
