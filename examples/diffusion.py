"""Train a small diffusion model on MNIST, as a denoiser for `macer certify`. Needs `pip install ".[diffusion]"`.

python examples/diffusion.py DIR OUT, where DIR holds MNIST. Takes four minutes of one core with bfloat16, and writes a
pipeline of diffusers to OUT. docs/results.md says what it attains.
"""

import sys

import diffusers
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from macer import data


def train(
    images: UInt8[Tensor, "images channels size size"], seen: int = 60_000, batch: int = 64
) -> diffusers.DDPMPipeline:
    """Return a diffusion model that predicts the noise in images (Ho et al. 2020, arXiv 2006.11239, algorithm 1).

    Args:
        images: each step draws a batch of them.
        seen: number of images in all steps together.
        batch: images per step.
    """
    torch.manual_seed(0)
    channels, size = images.shape[1:3]
    unet = diffusers.UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )
    scheduler = diffusers.DDPMScheduler()
    steps = seen // batch
    optimizer = torch.optim.Adam(unet.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        z = images[torch.randint(len(images), (batch,))] / 127.5 - 1
        noise, time = torch.randn_like(z), torch.randint(len(scheduler), (batch,))
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(scheduler.add_noise(z, noise, time), time).sample
        loss = F.mse_loss(predicted.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: {loss.item():.4f}", flush=True)
    return diffusers.DDPMPipeline(unet, scheduler)


if __name__ == "__main__":
    root, out = sys.argv[1:]
    train(data.load("mnist", root, "train").images).save_pretrained(out)
