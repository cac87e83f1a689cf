"""Networks of OpenAI's improved and guided diffusion against a literal one with their names."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from macer.errors import CheckpointError
from macer.models.diffusion import OneStepDiffusion
from macer.models.openai_unet import from_openai
from macer.pretrained.denoisers import find_denoiser

diffusers = pytest.importorskip("diffusers")

WIDTH, HEAD = 32, 16
"""Channels of the first level, and of a head."""


class Residual(nn.Module):
    """A residual block that is told the time, and may halve or double the size (arXiv 2105.05233, section 3)."""

    def __init__(self, before: int, after: int, scaled: bool, size: str = "") -> None:
        super().__init__()
        self.scaled, self.size = scaled, size
        self.in_layers = nn.Sequential(nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * WIDTH, (1 + scaled) * after))
        conv = nn.Conv2d(after, after, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, after), nn.SiLU(), nn.Dropout(0.0), conv)
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def resized(self, x: Tensor) -> Tensor:
        if self.size == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0) if self.size == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resized(self.in_layers[:2](x)))
        told = self.emb_layers(emb)[:, :, None, None]
        if self.scaled:
            scale, shift = told.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(self.resized(x)) + h


class Attention(nn.Module):
    """Attention in heads, of which each one has its queries, keys and values side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(32, channels), nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        flat = x.flatten(2)
        out = []
        for head in self.qkv(self.norm(flat)).split(3 * HEAD, 1):
            q, k, v = head.split(HEAD, 1)
            weight = torch.einsum("bct,bcs->bts", q, k).div(math.sqrt(HEAD)).softmax(2)
            out.append(torch.einsum("bts,bcs->bct", weight, v))
        return (flat + self.proj_out(torch.cat(out, 1))).view_as(x)


class Resampling(nn.Module):
    """A change of size by a convolution: of stride 2, or after doubling."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)
        setattr(self, "conv" if up else "op", conv)
        self.up = up

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0)) if self.up else self.op(x)


class First(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return super().forward(x)


class Literal(nn.Module):
    """The network, with blocks and names as in the released state dicts."""

    def __init__(self, mult: tuple[int, ...], layers: int, attention: set[int], scaled: bool, residual: bool) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, 4 * WIDTH))

        def sampling(channels: int, direction: str) -> nn.Module:
            up = direction == "up"
            return Residual(channels, channels, scaled, direction) if residual else Resampling(channels, up)

        blocks, skips, ch = [nn.ModuleList([First(3, WIDTH, 3, padding=1)])], [WIDTH], WIDTH
        for level, times in enumerate(mult):
            for _ in range(layers):
                more = [Attention(times * WIDTH)] if level in attention else []
                blocks.append(nn.ModuleList([Residual(ch, times * WIDTH, scaled), *more]))
                ch = times * WIDTH
                skips.append(ch)
            if level < len(mult) - 1:
                blocks.append(nn.ModuleList([sampling(ch, "down")]))
                skips.append(ch)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = nn.ModuleList([Residual(ch, ch, scaled), Attention(ch), Residual(ch, ch, scaled)])
        blocks = []
        for level, times in reversed(list(enumerate(mult))):
            for layer in range(layers + 1):
                more = [Attention(times * WIDTH)] if level in attention else []
                block = [Residual(ch + skips.pop(), times * WIDTH, scaled), *more]
                ch = times * WIDTH
                if level and layer == layers:
                    block.append(sampling(ch, "up"))
                blocks.append(nn.ModuleList(block))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(nn.GroupNorm(32, ch), nn.SiLU(), nn.Conv2d(ch, 6, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype))
        skips: list[Any] = []
        for block in self.input_blocks:
            for module in block:
                x = module(x, emb)
            skips.append(x)
        for module in self.middle_block:
            x = module(x, emb)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for module in block:
                x = module(x, emb)
        return self.out(x)


CONFIGURATIONS = {
    "improved, CIFAR-10": ((1, 2, 2), 2, {1, 2}, True, False),
    "improved, one layer": ((1, 1), 1, {1}, False, False),
    "guided, by residual blocks": ((1, 2, 2), 2, {2}, True, True),
    "guided, attention everywhere": ((1, 1, 2), 1, {0, 1, 2}, True, True),
    "one level": ((1,), 2, set(), True, False),
}


def literal(name: str) -> Literal:
    torch.manual_seed(0)
    return Literal(*CONFIGURATIONS[name]).double().eval()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_network_computes_what_the_literal_one_does(name):
    network = literal(name)
    found = from_openai(network.state_dict(), HEAD).double()
    x, t = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([3.25, 801.5])
    with torch.no_grad():
        expected = network(x, t)
        torch.testing.assert_close(found(x, t).sample, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        wrong = from_openai(network.state_dict(), 2 * HEAD).double()(x, t).sample
        assert (wrong - expected).abs().max() > 1e-4  # heads are no matter of shapes, so they must be given rightly


def test_as_a_denoiser_with_rescaled_time_and_the_means_before_the_variances():
    network = literal("improved, CIFAR-10").float()
    levels = diffusers.DDPMScheduler(4000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    denoiser = OneStepDiffusion(from_openai(network.state_dict(), HEAD), levels, 0.25, time_scale=1000 / 4000)
    at = int((((1 - levels) / levels).sqrt() - 2 * 0.25).abs().argmin())
    assert levels[at] == pytest.approx(math.cos((at / 4000 + 0.008) / 1.008 * math.pi / 2) ** 2, rel=2e-3)
    y = torch.rand(2, 3, 8, 8)
    u = levels[at].sqrt() * (2 * y - 1)
    with torch.no_grad():
        noise = network(u, torch.full((2,), at / 4))[:, :3]
        expected = (((u - (1 - levels[at]).sqrt() * noise) / levels[at].sqrt()).clamp(-1, 1) + 1) / 2
        torch.testing.assert_close(denoiser(y), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("time_embed.0.weight"), "no weights of OpenAI's"),
        (lambda weights: weights.pop("out.0.bias"), "cannot express"),
        (lambda weights: weights.update({"label_emb.weight": torch.zeros(10, 128)}), "cannot express"),
        (lambda weights: weights.pop("input_blocks.3.0.op.weight"), "cannot express"),
        (lambda weights: weights.pop("input_blocks.1.0.out_layers.3.weight"), "cannot express"),
    ],
)
def test_other_networks_are_refused(change, said):
    weights = literal("improved, CIFAR-10").state_dict()
    change(weights)
    with pytest.raises(CheckpointError, match=said):
        from_openai(weights, HEAD)


def test_a_classifier_of_guided_diffusion_is_none():
    """It has the time and the way down, and no way up."""
    weights = literal("guided, by residual blocks").state_dict()
    way_down = {name: value for name, value in weights.items() if not name.startswith("output_blocks.")}
    with pytest.raises(CheckpointError, match="no weights of OpenAI's"):
        from_openai(way_down, HEAD)


def test_a_file_is_no_denoiser_by_itself(tmp_path):
    """It says neither levels nor heads, and the line says what to give."""
    file = tmp_path / "cifar10_uncond_50M_500K.pt"
    torch.save(literal("one level").state_dict(), file)
    with pytest.raises(CheckpointError, match="name a function that returns a OneStepDiffusion of from_openai"):
        find_denoiser(file)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(CheckpointError, match="with heads of 24 channels"):
        from_openai(literal("improved, CIFAR-10").state_dict(), 24)
