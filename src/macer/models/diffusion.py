"""A diffusion model as a denoiser of images with noise of one sigma, in a single step.

Carlini et al., (Certified!!) Adversarial Robustness for Free! (ICLR 2023, arXiv 2206.10550).
"""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.errors import CheckpointError, SettingsError, needs
from macer.files.reading import read_text
from macer.models.weights import readable

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a diffusion model predicts, as the `prediction_type` of diffusers names it: noise, velocity, or the image."""


class OneStepDiffusion(nn.Module):
    """The clean images that a diffusion model predicts from y = x + sigma * noise, with x and y in units of [0, 1].

    A diffusion model knows u_t = sqrt(abar_t) z + sqrt(1 - abar_t) noise, where z = 2 x - 1. As 2 y - 1 is
    z + 2 sigma * noise, sqrt(abar_t) (2 y - 1) is such a u_t where sqrt((1 - abar_t) / abar_t) = 2 sigma. The time t of
    the nearest level is taken. The result is a function of y whatever t is, so certificates hold for sigma exactly; a
    distant level only costs accuracy. (Carlini et al. add noise of the level itself, in the units of the model.)

    Args:
        model: from (u, t) to its prediction, or to an object that holds it as `sample`, as those of diffusers do. Of
            twice as many channels as the images have the first half is taken; the others are variances.
        alphas_cumprod: abar_t for t = 0, 1, ...
        sigma: standard deviation of the noise in y, in [0, 1] pixel units.
        prediction: what the model predicts, one of PREDICTIONS.
        time_scale: the model gets t times this: 1000 / T in the released code of improved diffusion with T steps.

    Raises:
        SettingsError: an unknown prediction, or a sigma beyond the levels of the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        alphas_cumprod: Float[Tensor, " steps"],
        sigma: float,
        *,
        prediction: str = "epsilon",
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise SettingsError(f"a diffusion model predicts one of {', '.join(PREDICTIONS)}, not {prediction!r}")
        abar = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        levels = ((1 - abar) / abar).sqrt() / 2
        least, most = float(levels.min()), float(levels.max())
        if not least <= sigma <= most:
            raise SettingsError(
                f"the diffusion model knows noise of sigma {least:.3g} to {most:.3g} in units of [0, 1] pixels, not "
                f"{sigma:g}"
            )
        self.model = model
        self.prediction = prediction
        step = int((levels - sigma).abs().argmin())
        self.time = step * time_scale
        self.signal, self.noise = float(abar[step].sqrt()), float((1 - abar[step]).sqrt())

    def forward(self, y: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        u = self.signal * (2 * y - 1)
        time = torch.full((len(y),), self.time, device=y.device, dtype=torch.float32)
        output: Any = self.model(u, time)
        predicted = getattr(output, "sample", output)[:, : y.shape[1]]
        if self.prediction == "epsilon":
            z = (u - self.noise * predicted) / self.signal
        elif self.prediction == "v_prediction":
            z = self.signal * u - self.noise * predicted
        else:
            z = predicted
        return (z.clamp(-1, 1) + 1) / 2


def from_diffusers(pipeline: Any, sigma: float) -> OneStepDiffusion:
    """Return the denoiser of a diffusers pipeline: of its `unet`, and of its `scheduler`'s levels and prediction.

    Args:
        pipeline: such as a DDPMPipeline, or any object with `unet` and `scheduler`.
        sigma: standard deviation of the noise, in [0, 1] pixel units.

    Raises:
        SettingsError: as for `OneStepDiffusion`, or the scheduler has no levels of noise.
    """
    scheduler = pipeline.scheduler
    if not hasattr(scheduler, "alphas_cumprod"):
        raise SettingsError(
            f"{type(scheduler).__name__} has no alphas_cumprod, the levels of noise: give a DDPMScheduler"
        )
    return OneStepDiffusion(pipeline.unet, scheduler.alphas_cumprod, sigma, prediction=scheduler.config.prediction_type)


def read_pipeline(folder: Path) -> Any:
    """Return unet and scheduler of a diffusers pipeline on disk, as `save_pretrained` writes it. No code is run.

    Both lie in the folder itself, as in the first published ones, or below it in `unet` and `scheduler`.

    Raises:
        CheckpointError: files are missing or damaged, or it is a pipeline of another kind.
        MissingLibrary: diffusers is not installed.
    """
    with needs("diffusion"):
        diffusers: Any = importlib.import_module("diffusers")
    places = {name: folder / name if (folder / name).is_dir() else folder for name in ("unet", "scheduler")}
    unet_file, scheduler_file = places["unet"] / "config.json", places["scheduler"] / "scheduler_config.json"
    with readable(folder, "diffusers pipeline"):
        kind, levels = (json.loads(read_text(file)) for file in (unet_file, scheduler_file))
        if kind["_class_name"] != "UNet2DModel":
            raise CheckpointError(f"its unet is a {kind['_class_name']}: only an unconditional UNet2DModel can be used")
        if "beta_schedule" not in levels:
            raise CheckpointError(
                f"its {levels['_class_name']} has no beta_schedule, from which levels of noise follow"
            )
        diffusers.utils.logging.set_verbosity_error()
        scheduler = diffusers.DDPMScheduler.from_config(levels)
        unet, told = diffusers.UNet2DModel.from_pretrained(
            places["unet"], local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
        if told["missing_keys"] or told["mismatched_keys"]:
            raise CheckpointError(f"its weights lack {[*told['missing_keys'], *told['mismatched_keys']][0]}")
    return SimpleNamespace(unet=unet.eval(), scheduler=scheduler)


def is_pipeline(folder: Path) -> bool:
    """Return whether a folder is a diffusers pipeline, or at least was one."""
    return (folder / "model_index.json").exists() or (folder / "unet").is_dir()
