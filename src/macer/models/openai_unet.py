"""Networks of OpenAI's improved and guided diffusion from their state dicts, as a UNet2DModel of diffusers.

Nichol and Dhariwal, ICML 2021 (arXiv 2102.09672); Dhariwal and Nichol, NeurIPS 2021 (arXiv 2105.05233).
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from macer.errors import CheckpointError, first_line, needs

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}
_SAMPLING = {"op": "conv", "conv": "conv"}
_WHOLE = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def is_openai(weights: Mapping[str, Tensor]) -> bool:
    """Return whether weights have the names of these networks. Guided diffusion's classifiers have no way up."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.0.weight"} <= weights.keys()


def from_openai(weights: Mapping[str, Tensor], head_channels: int) -> nn.Module:
    """Return the network of a state dict, unconditional, for `diffusion.OneStepDiffusion`.

    The file says neither its schedule nor its heads. Those of improved diffusion's cifar10_uncond_50M_500K.pt and of
    guided diffusion's 256x256_diffusion_uncond.pt have 64 channels each. Heads of another size at each level, and
    attention in guided diffusion's "new order", cannot be expressed and have the same shapes: such a network is taken
    for another one, which denoises badly. That costs accuracy alone.

    Args:
        weights: the state dict.
        head_channels: channels per head of attention, the same at every level.

    Raises:
        CheckpointError: it is another network, or one that diffusers cannot express: with classes or text, or without
            weights for changing the size.
        MissingLibrary: diffusers is not installed.
    """
    with needs("diffusion"):
        diffusers: Any = importlib.import_module("diffusers")
    if not is_openai(weights):
        raise CheckpointError("these are no weights of OpenAI's improved or guided diffusion")
    try:
        network = diffusers.UNet2DModel(**_configuration(weights, head_channels))
        network.load_state_dict(dict(_renamed(weights, head_channels)))
    except (IndexError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"a network of OpenAI's that diffusers cannot express with heads of {head_channels} channels: "
            f"{first_line(error)}"
        ) from error
    return network.eval()


def _levels(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return the number of levels, and of residual blocks per level, of which the way up has one more.

    Where the way up changes the size, after the last block of each level but one, there is a module more.
    """
    blocks = len({name.split(".")[1] for name in weights if name.startswith("output_blocks.")})
    per_level = next((at + 1 for at in range(blocks) if _sampling_up(weights, at) is not None), blocks)
    return blocks // per_level, per_level - 1


def _sampling_up(weights: Mapping[str, Tensor], block: int) -> int | None:
    """Return the place in a block of the way up of the module that doubles the size; None where there is none."""
    kinds = ("conv.weight", "in_layers.0.weight")
    return next((at for at in (1, 2) for kind in kinds if f"output_blocks.{block}.{at}.{kind}" in weights), None)


def _configuration(weights: Mapping[str, Tensor], head_channels: int) -> dict[str, Any]:
    levels, layers = _levels(weights)
    first = [1 + level * (layers + 1) for level in range(levels)]
    channels = [weights[f"input_blocks.{at}.0.out_layers.3.weight"].shape[0] for at in first]
    attention = [f"input_blocks.{at}.1.qkv.weight" in weights for at in first]
    by_residual = levels > 1 and f"input_blocks.{layers + 1}.0.in_layers.0.weight" in weights
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if by_residual else ("DownBlock2D", "UpBlock2D")
    scaled = weights["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * channels[0]
    return {
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": weights["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "down_block_types": ["AttnDownBlock2D" if each else plain[0] for each in attention],
        "up_block_types": ["AttnUpBlock2D" if each else plain[1] for each in reversed(attention)],
        "downsample_type": "resnet" if by_residual else "conv",
        "upsample_type": "resnet" if by_residual else "conv",
        "layers_per_block": layers,
        "attention_head_dim": head_channels,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift" if scaled else "default",
    }


def _places(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Yield each module of the state dict, its place in diffusers, and the names of its parts there."""
    levels, layers = _levels(weights)
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        for layer in range(layers + 1):
            at = level * (layers + 1) + layer
            yield f"output_blocks.{at}.0", f"{up}.resnets.{layer}", _RESIDUAL
            if f"output_blocks.{at}.1.qkv.weight" in weights:
                yield f"output_blocks.{at}.1", f"{up}.attentions.{layer}", _ATTENTION
            if (place := _sampling_up(weights, at)) is not None:
                yield f"output_blocks.{at}.{place}", f"{up}.upsamplers.0", _RESIDUAL | _SAMPLING
            if layer < layers:
                yield f"input_blocks.{at + 1}.0", f"{down}.resnets.{layer}", _RESIDUAL
                yield f"input_blocks.{at + 1}.1", f"{down}.attentions.{layer}", _ATTENTION
            elif level < levels - 1:
                yield f"input_blocks.{at + 1}.0", f"{down}.downsamplers.0", _RESIDUAL | _SAMPLING
    for block in range(2):
        yield f"middle_block.{2 * block}", f"mid_block.resnets.{block}", _RESIDUAL
    yield "middle_block.1", "mid_block.attentions.0", _ATTENTION


def _renamed(weights: Mapping[str, Tensor], head_channels: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights under their names in diffusers. Names without a place there stay as they are."""
    by_module = {
        f"{module}.{own}": f"{place}.{theirs}"
        for module, place, parts in _places(weights)
        for own, theirs in parts.items()
    } | _WHOLE
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        place = by_module.get(module, module)
        if module.endswith(".proj_out"):
            value = value.flatten(1) if kind == "weight" else value
        if not module.endswith(".qkv"):
            yield f"{place}.{kind}", value
            continue
        # Head by head, of each first the queries, then the keys, then the values.
        heads = (value.flatten(1) if kind == "weight" else value).unflatten(0, (-1, 3, head_channels))
        for part, letter in enumerate("qkv"):
            yield f"{place.removesuffix('qkv')}to_{letter}.{kind}", heads[:, part].flatten(0, 1)
