"""The live bar at every width: first what matters most."""

import io

import pytest
from rich.console import Console

from macer.compute import progress
from macer.compute.progress import ProgressView

CERTIFYING = ("certifying runs/mnist-macer-0.25", 500, 37, 31.0, ("certified accuracy 0.750 [0.612, 0.843]",))
TRAINING = ("training cifar10-macer-0.25", 171_600, 1234, 0.5, ("epoch 3", "loss 3.210", "robustness 2.000"))


def drawn(monkeypatch, work, width: int | None, limit: float | None = None) -> str:
    """What is drawn after so many units of so many seconds each with 100,000 noisy images; no terminal for no width."""
    title, total, done, seconds, details = work
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    console = Console(file=stream, width=width or 300, force_terminal=width is not None, color_system=None)
    view = ProgressView(title, total, unit="noisy images", console=console)
    view.limit = limit
    for _ in range(done):
        clock[0] += seconds
        view.advance(1, 100_000, *details)
    if width is None:
        return stream.getvalue().splitlines()[-1]
    with console.capture() as captured:
        console.print(view._bar.get_renderable())
    (line,) = captured.get().splitlines()
    assert len(line) <= width
    return line.rstrip()


BAR = "╸            "
SHORT = "37/500  3:59:13 left  3,226/s"
LONG = "37/500  3:59:13 left  3,226 noisy images/s"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (40, f"certifying runs/mni… {BAR}37/500"),
        (60, f"certifying runs/… {BAR}{SHORT}"),
        (80, f"certifying runs/mnist-macer-0.25 {BAR}{SHORT}"),
        (100, f"certifying runs/mnist-macer-0.25 {BAR}{LONG}"),
        (120, f"certifying runs/mnist-macer-0.25 {BAR}{LONG}"),
        (140, f"certifying runs/mnist-macer-0.25 {BAR}{LONG}  certified accuracy 0.750 [0.612, 0.843]"),
        (
            200,
            f"certifying runs/mnist-macer-0.25 {BAR}{LONG} (65% of the network's limit)  "
            "certified accuracy 0.750 [0.612, 0.843]",
        ),
        (
            None,
            "certifying runs/mnist-macer-0.25: 37 of 500, 1147 s, 3:59:13 left  3,226 noisy images/s "
            "(65% of the network's limit)  certified accuracy 0.750 [0.612, 0.843]",
        ),
    ],
)
def test_certifying(monkeypatch, width, line):
    assert drawn(monkeypatch, CERTIFYING, width, 5000.0) == line


@pytest.mark.parametrize(
    ("width", "end"),
    [
        (60, "1234/171600  23:39:43 left  200,000/s"),
        (80, "1234/171600  23:39:43 left  200,000/s"),
        (120, "1234/171600  23:39:43 left  200,000 noisy images/s  epoch 3, loss 3.210"),
        (200, "1234/171600  23:39:43 left  200,000 noisy images/s  epoch 3, loss 3.210, robustness 2.000"),
        (None, "1220 of 171600, 610 s, 23:39:50 left  200,000 noisy images/s  epoch 3, loss 3.210, robustness 2.000"),
    ],
)
def test_training(monkeypatch, width, end):
    line = drawn(monkeypatch, TRAINING, width)
    assert line.endswith(end)
    assert line.startswith("training")


def test_time_goes_on_between_units(monkeypatch):
    """An image may take 20 minutes: the time left falls meanwhile, the rate stays."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    view = ProgressView("certifying", 3, unit="images", console=Console(file=io.StringIO()))
    clock[0] = 60.0
    assert view.fitted(80)[1] == "0/3  0:01:00 so far"
    view.advance(1, 600)
    assert view.fitted(80)[1] == "1/3  0:02:00 left  10 images/s"
    clock[0] = 90.0
    assert view.fitted(80)[1] == "1/3  0:01:30 left  10 images/s"
    clock[0] = 900.0
    assert view.fitted(80)[1] == "1/3  0:00:00 left  10 images/s"
