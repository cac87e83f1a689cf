"""The arithmetic of a certification: given, recorded by an earlier process, or chosen for this machine.

A certificate in bfloat16 is about another network than one in float32, and so is one of a compiled network in bfloat16.
So it is decided once per certification, and recorded.
"""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from macer.certification.settings import CertificationSettings
from macer.certification.shards import of_the_first
from macer.compute.device import find_device, has_fast_bfloat16
from macer.models.fast import compiled
from macer.models.programs import ProgramNetwork
from macer.runs.run import CertificationRun
from macer.runs.settings import require

_PIXELS_WORTH_COMPILING = 10**9
"""Pixels of noisy images from which on compiling pays in bfloat16: a minute of a small network. Counted, not measured,
so that all machines decide alike."""


def with_precision(
    settings: CertificationSettings, network: nn.Module, directory: Path | None, device: str
) -> CertificationSettings:
    """Return the settings with the precision, and in bfloat16 the form, that are asked for, recorded or chosen here.

    The shards of a certification have them in common. The first to start leaves them in a file beside their
    directories.

    Args:
        settings: of the certification; `precision` and `compile` may be "auto".
        network: what is certified.
        directory: of the certificates; None if nothing is written.
        device: what computes, as for `find_device`.

    Raises:
        SettingsError: the other shards have another arithmetic.
    """
    asked = {
        "precision": None if settings.precision == "auto" else settings.precision,
        "bf16_form": settings.bf16_form or {"yes": "compiled", "no": "folded"}.get(settings.compile),
    }
    places = [] if directory is None else [directory] if settings.shard is None else [directory, directory.parent]
    recorded: dict[str, Any] = next(
        filter(None, (CertificationRun(place).recorded("certification") for place in places)), {}
    )
    there = {name: recorded[name] for name in asked if name in recorded} or _chosen(settings, asked, network, device)
    if directory is not None and settings.shard is not None:
        there = of_the_first(CertificationRun(directory.parent).shards_precision_file, there)
    decided = {name: asked.get(name) or value for name, value in there.items()}
    if decided.get("precision") != "bf16-true":
        decided.pop("bf16_form", None)
    if settings.shard is not None:
        words = [", ".join(map(str, each.values())) for each in (there, decided)]
        require(there == decided, f"{directory}: the other shards are computed in {words[0]}, not {words[1]}")
    return replace(settings, **{"bf16_form": None, **decided})


def _chosen(settings: CertificationSettings, asked: dict[str, Any], network: nn.Module, device: str) -> dict[str, Any]:
    """Return the precision and the form that are asked for, or else suit the network and this machine."""
    here, precision = find_device(device), asked["precision"]
    if precision is None:
        kinds = {each.dtype for each in network.parameters() if each.is_floating_point()}
        can = kinds == {torch.float32} and not isinstance(network, ProgramNetwork)
        precision = "bf16-true" if can and has_fast_bfloat16(here.type) else "32-true"
    if precision != "bf16-true":
        return {"precision": precision}
    pixels = settings.num_img * settings.samples(settings.n) * prod(settings.shape or ())
    form = asked["bf16_form"] or ("compiled" if pixels >= _PIXELS_WORTH_COMPILING and _compiles(here) else "folded")
    return {"precision": precision, "bf16_form": form}


def _compiles(device: torch.device) -> bool:
    """Return whether this machine has what compiling takes; a small network answers that in some seconds."""
    network = nn.Conv2d(1, 1, 3).to(device, torch.bfloat16).eval()
    try:
        compiled(network, torch.rand(1, 1, 8, 8, device=device, dtype=torch.bfloat16))
    except Exception:  # compilers fail in many ways, and none is a reason not to certify
        return False
    return True
