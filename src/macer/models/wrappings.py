"""Find the state dict of a network in the content of a checkpoint, whatever lies around it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from macer.errors import CheckpointError
from macer.files.unpickling import Inert, InertArray

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What DataParallel, torch.compile, Lightning and many programs put in front of the names of weights."""
_COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step", "total_ops", "total_params")
"""Names of numbers that programs keep among the weights, and that no network computes with."""
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|average|averaged|shadow)([._]|$)")
"""What the key of a moving average contains."""
_MOST_NAMED = 8


@dataclass(frozen=True)
class StateDict:
    """The weights of one network in a file.

    Attributes:
        key: where in the file they are, as keys joined by dots; empty if they are the content of the file.
        weights: the tensors by name.
        choice: what was chosen among several, in words that follow a comma; empty if there is one only.
    """

    key: str
    weights: dict[str, Tensor]
    choice: str = ""


def find_state_dict(content: Any, key: str | None = None) -> StateDict:
    """Return the one state dict in the content of a file.

    A dictionary is one if it has a tensor of two or more dimensions, as each linear and convolutional layer has. The
    states of optimizers are none. Of two with the same names, one of which is a moving average by its key, the moving
    average is returned.

    Args:
        content: as `read_weights_file` returns it.
        key: which one is wanted: its last keys, joined by dots.

    Raises:
        CheckpointError: there is none, or none with this key; or there are several. The message names no file.
    """
    found = dict(_state_dicts(content))
    if not found:
        raise CheckpointError(_what_else(content))
    several = [f"{at!r} ({len(weights)} tensors)" for at, weights in found.items()]
    several = ", ".join([*several[:_MOST_NAMED], *(["..."] if len(several) > _MOST_NAMED else [])])
    wanted = {at: weights for at, weights in found.items() if key is None or f".{at}".endswith(f".{key}")}
    if not wanted:
        raise CheckpointError(f"holds no weights under the key {key!r}; it holds {several}")
    averages = [at for at in wanted if _AVERAGE.search(at)]
    same_names = len({frozenset(without_wrappers(weights)) for weights in wanted.values()}) == 1
    if len(wanted) == 2 and len(averages) == 1 and same_names:
        (other,) = wanted.keys() - averages
        choice = f", the moving average {averages[0]!r} (beside it are the weights {other!r})"
        return StateDict(averages[0], wanted[averages[0]], choice)
    if len(wanted) > 1:
        raise CheckpointError(f"holds several networks, {several}: give the key of one as `weights`")
    ((at, weights),) = wanted.items()
    return StateDict(at, weights, f", the weights {at!r} of {several}" if len(found) > 1 else "")


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes of wrappers that all names share, and without `_orig_mod.` inside them."""
    names = [name.replace("_orig_mod.", "") for name in weights]
    if len(set(names)) < len(names):
        names = list(weights)
    while names and (shared := next((each for each in _WRAPPERS if names[0].startswith(each)), None)):
        if not all(name.startswith(shared) for name in names):
            break
        names = [name.removeprefix(shared) for name in names]
    return dict(zip(names, weights.values(), strict=True))


def _state_dicts(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the state dicts in the content of a file, each with its place."""
    for place, value in _containers(content):
        if isinstance(value, dict):
            tensors = {key: tensor for key in value if (tensor := _weight(key, value[key])) is not None}
            for part, weights in _parts(tensors).items():
                if any(tensor.dim() >= 2 for tensor in weights.values()):
                    yield ".".join(filter(None, (place, part))), weights


def _containers(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield all dictionaries and sequences in a value once, but those in optimizers and pickled modules."""
    left, seen = [("", content)], set()
    while left:
        place, value = left.pop(0)
        if id(value) in seen or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        yield place, value
        if isinstance(value, dict) and ({"state", "param_groups"} <= value.keys() or _is_module(value)):
            continue
        items = value.items() if isinstance(value, dict) else enumerate(value)
        left += [(f"{place}.{key}" if place else str(key), each) for key, each in items]


def _weight(name: Any, value: Any) -> Tensor | None:
    """Return a value of a dictionary as a tensor, if it is a weight."""
    if not isinstance(name, str) or name.rpartition(".")[2] in _COUNTERS:
        return None
    if isinstance(value, InertArray) and value.values is not None:
        return torch.from_numpy(value.values)
    return value if isinstance(value, Tensor) else None


def _parts(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return weights by the first part of their names, if these are two networks, one a moving average; else whole."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = value
    averages = [first for first in parts if _AVERAGE.search(first)]
    twins = [first for first in parts if averages and parts[first].keys() == parts[averages[0]].keys()]
    return {first: parts[first] for first in twins} if len(twins) == 2 else {"": weights}


def _is_module(value: dict[Any, Any]) -> bool:
    return isinstance(value, Inert) and {"_parameters", "_modules"} <= value.keys()


def _what_else(content: Any) -> str:
    """Say what a file holds in place of weights."""
    objects = [value for _, value in _containers(content) if isinstance(value, Inert)]
    names = {id(each): f"{type(each).__module__}.{type(each).__qualname__}" for each in objects}
    modules = [names[id(each)] for each in objects if _is_module(each)]
    if modules:
        return (
            f"holds a pickled module, {modules[0]}, which is code and not only weights: save its state_dict() instead, "
            "and give the function package.module:function that builds the network"
        )
    others = ", ".join(list(dict.fromkeys(names.values()))[:3])
    return f"holds no state dict of tensors{f', but objects such as {others}, which were not made' if others else ''}"
