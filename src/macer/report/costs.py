"""What training and certifying cost, as the original's table of training times has it."""

from collections.abc import Sequence

from macer.report.sources import Source
from macer.results.metrics import average_certified_radius
from macer.results.tables import Table, printable


def cost_table(sources: Sequence[Source]) -> Table | None:
    """Epochs, hours, noisy images and ACR an hour of training, and hours of certification; None where none is known.

    A row for each of the certificates whose training left its curve. Hours of training do not count certification
    between epochs.
    """
    rows, devices, unfinished = [], set(), []
    for source in sources:
        training = source.training
        if training is None or "seconds" not in training.curves:
            continue
        seconds = training.curves["seconds"]
        hours = float(seconds.sum()) / 3600
        acr = average_certified_radius(source.records)
        noisy = training.curves.get("noisy_images")
        certifying = source.records.seconds
        device = printable(str(training.environment.get("device", "")))
        threads = printable(str(training.environment.get("threads", "")))
        device += f", threads: {threads}" if device.startswith("cpu") and threads else ""
        devices.add(device)
        epochs = training.settings.get("epochs", len(seconds))
        if isinstance(epochs, int) and len(seconds) < epochs:
            unfinished.append(f"{training.name}: training is not finished")
        rows.append(
            (
                source.records.name,
                f"{len(seconds):,}",
                _number(float(seconds.mean())),
                _number(hours),
                "" if noisy is None else f"{noisy.sum() / 1e6:.3g}",
                "" if certifying is None else _number(float(certifying.sum()) / 3600),
                f"{acr.value:.3f}",
                _number(acr.value / hours) if hours > 0 else "",
                device,
            )
        )
    if not rows:
        return None
    notes = list(dict.fromkeys(unfinished))
    if len(devices) > 1:
        notes.append("these runs were trained on different devices: their hours are not comparable")
    header = ("", "epochs", "seconds an epoch", "hours", "million noisy images", "hours certifying")
    return Table((*header, "ACR", "ACR an hour", "device"), tuple(rows), notes=tuple(notes))


def _number(value: float) -> str:
    """Three digits, or whole numbers where that is more."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
