"""What computes: a device and an arithmetic, by name."""

from typing import Any

import torch

from macer.errors import SettingsError


def open_fabric(device: str, precision: str = "32-true") -> Any:
    """The Lightning Fabric of one device.

    Args:
        device: cpu, cuda, or auto: cuda where there is one. (Apple's mps has no float64, which certificates need.)
        precision: arithmetic, as Lightning Fabric names it.

    Raises:
        SettingsError: this machine has no such device, or there is no such arithmetic.
    """
    from lightning_fabric import Fabric  # slow to import, and most commands do without

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if device == "mps":
            raise ValueError("it has no float64")
        return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]
    except Exception as error:  # Fabric raises several kinds
        raise SettingsError(
            f"device {device!r} with precision {precision!r} is not to be had here: {str(error).splitlines()[0]}"
        ) from error
