"""Find a denoiser: a run, a published checkpoint, a diffusers pipeline, code, or an object in memory."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from macer import models
from macer.errors import MacerError, SettingsError, first_line
from macer.models.diffusion import from_diffusers, is_pipeline, read_pipeline
from macer.models.in_memory import module_name
from macer.pretrained import zoo
from macer.pretrained.find import find_network
from macer.training.settings import TrainedWith

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class FoundDenoiser:
    """A denoiser, and what is known about it.

    Attributes:
        source: where it was found: a file, a directory, or package.module:name.
        of_code: whether it computes something that its weights do not determine.
        sigma: the noise level of its training; None if unknown, or if it is for many.
        trained: what is known about its training.
        images: what tells its training images from others, as for `FoundNetwork`.
    """

    source: str
    of_code: bool
    sigma: float | None
    _make: Callable[[float, Shape], nn.Module]
    trained: TrainedWith = field(default_factory=TrainedWith)
    images: str | None = None

    def build(self, sigma: float, shape: Shape) -> nn.Module:
        """Return the denoiser for noise of sigma, in eval mode.

        Args:
            sigma: standard deviation of the noise, in units of [0, 1] pixels.
            shape: (channels, height, width) of the images.

        Raises:
            SettingsError: it is for images of other channels or sizes, or not for this sigma.
            CheckpointError: as for `find_network`.
        """
        try:
            denoiser = self._make(sigma, shape).eval()
            with torch.no_grad():
                found = denoiser(torch.zeros(2, *shape, dtype=torch.float32))
        except MacerError as error:
            raise type(error)(str(error) if self.source in str(error) else f"{self.source}: {error}") from error
        except Exception as error:  # their code may raise anything
            raise SettingsError(
                f"{self.source}: the denoiser fails on images of shape {shape}: {first_line(error)}"
            ) from error
        if not isinstance(found, torch.Tensor) or found.shape != (2, *shape):
            what = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise SettingsError(f"{self.source}: the denoiser returned {what} for 2 images of shape {shape}")
        return denoiser


def find_denoiser(denoiser: Any) -> FoundDenoiser:
    """Return a denoiser of images with noise.

    Args:
        denoiser: one of
            - the directory of a run that trained a denoiser, or its checkpoint;
            - a DnCNN that was published for denoised smoothing (Salman et al. 2020);
            - the directory of a diffusers pipeline;
            - package.module:function, which returns a module or a pipeline;
            - an `nn.Module` from noisy images to clean ones, of which a copy is used, or a pipeline of diffusers.

    Raises:
        SettingsError: it is none of these, or the code fails.
        CheckpointError: there is no such file, or it cannot be read.
        MissingLibrary: it needs diffusers, which is not installed.
    """
    if not isinstance(denoiser, str | os.PathLike):
        return _in_memory(denoiser, None)
    name, path = os.fspath(denoiser), Path(denoiser)
    if ":" in name and not path.exists() and not zoo.is_of_zoo(name):
        return _in_memory(models.call(name, 0), name)
    if path.is_dir() and is_pipeline(path):
        return _in_memory(read_pipeline(path), name)
    found = find_network(denoiser)
    return FoundDenoiser(
        source=found.source,
        of_code=":" in found.network,
        sigma=found.sigma,
        _make=lambda sigma, shape: found.build_denoiser(shape),
        trained=found.trained,
        images=found.images,
    )


def _in_memory(denoiser: Any, source: str | None) -> FoundDenoiser:
    """Return a module as it is, and a pipeline as the denoiser that it contains."""
    if isinstance(denoiser, nn.Module):
        name = source or module_name(denoiser)
        return FoundDenoiser(source=name, of_code=True, sigma=None, _make=lambda sigma, shape: copy.deepcopy(denoiser))
    kind = type(denoiser)
    if not (hasattr(denoiser, "unet") and hasattr(denoiser, "scheduler")):
        raise SettingsError(
            "a denoiser is a run, a file, a pipeline of diffusers, package.module:function or an nn.Module, not "
            f"{f'what {source} returned, ' if source else ''}{kind.__name__}"
        )
    return FoundDenoiser(
        source=source or f"{kind.__module__}:{kind.__qualname__}",
        of_code=True,
        sigma=None,
        _make=lambda sigma, shape: copy.deepcopy(from_diffusers(denoiser, sigma)),
    )
