"""What identifies a network: its weights, its code, and what it answers to fixed images.

Weights are bytes, the same on every machine. Code is the text of the classes and functions that compute the logits.
Answers are numbers, which machines round differently: they are recorded and compared, not hashed.
"""

import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.compute.device import exact_float32
from macer.smoothing.network import evaluating
from macer.smoothing.sampling import SampledNetwork

PROBES = 8
"""How many images a network is asked about."""

_LIBRARIES = {"torch", "numpy", "macer", *sys.stdlib_module_names}
"""Their code is known by its names alone. Another release of them must not end a certification."""

_BY_PYTHON = {"__firstlineno__", "__static_attributes__"}
"""What Python 3.13 notes in a class: its place in the file, and names in an order that differs between processes."""


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names and bytes of weights, which is the same for any file with these weights."""
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode())
        state.update(_bytes(weights[name]))
    return state.hexdigest()


def code_digest(network: nn.Module) -> str:
    """Return the SHA-256 of what a network computes beside its state dict, as far as Python shows it.

    It covers the modules and their settings as PyTorch prints them, buffers that are not in the state dict, attributes
    whose names begin with no underscore, and the source text of the modules' classes with all functions, classes,
    constants and other networks (with their weights) that these refer to. Of installed packages only the modules'
    classes themselves are read, and of PyTorch, NumPy, this package and the standard library only names. Not covered
    are compiled extensions, files that are read later, and the environment.

    Args:
        network: its code can be anybody's.
    """
    return _sha256(_texts_of_network(network, {id(network): network}))


def class_digest(code: type) -> str:
    """Return the SHA-256 of a class's code, with what it refers to, as `code_digest` does for those of a network."""
    return _sha256(_texts(code, {}))


@torch.no_grad()
def probe(network: nn.Module, num_classes: int | None, shape: tuple[int, int, int]) -> Float[Tensor, "probes classes"]:
    """Return a network's logits for PROBES fixed random images.

    Args:
        network: is evaluated in eval mode.
        num_classes: number of logits; None: as many as it returns.
        shape: (channels, height, width) of its images.

    Raises:
        SettingsError: the network fails on such images, or returns something other than so many logits.
    """
    classifier = SampledNetwork(network, 1.0, num_classes)
    images = torch.rand(PROBES, *shape, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    with evaluating(network), exact_float32(classifier.device):
        return classifier.logits(classifier.placed(images)).double().cpu()


def answers(logits: Float[Tensor, "probes classes"]) -> tuple[float, ...] | None:
    """Return one number per probe that depends on all of its logits; None where they are not finite.

    It is a weighted sum over classes, in six digits: 1,000 logits per probe would fill the record.
    """
    weights = torch.arange(logits.shape[1], dtype=logits.dtype).add(1).cos()
    numbers = (logits @ weights).tolist()
    return tuple(float(f"{each:.6g}") for each in numbers) if np.isfinite(numbers).all() else None


def _texts(value: Any, seen: dict[int, object], names: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield texts that stand for a value that code refers to, and for all that it refers to in turn.

    Args:
        value: a class, a function, a module, or a constant.
        seen: what was visited, by identity.
        names: what is asked of it, if it is a module.
    """
    if isinstance(value, int | float | complex | str | bytes | torch.dtype | None):
        yield repr(value)
        return
    if id(value) in seen and not isinstance(value, ModuleType):  # a module can be asked for other names
        return
    seen[id(value)] = value
    if isinstance(value, nn.Module):  # of a list, or around a function: no part of the network's state dict
        yield from (*_texts_of_network(value, seen), digest(value.state_dict()))
    elif isinstance(value, Tensor):
        yield hashlib.sha256(_bytes(value)).hexdigest()
    elif isinstance(value, np.ndarray):
        yield from _texts([str(value.dtype), value.tobytes() if value.dtype.kind in "biufc" else value.tolist()], seen)
    elif isinstance(value, ModuleType):
        if not _is_library(value.__name__) and not _is_installed(value):
            for name in sorted(names & vars(value).keys()):
                yield from _texts(vars(value)[name], seen)
    elif isinstance(value, type | FunctionType):
        yield from _texts_of_code(value, seen)
    elif isinstance(value, MethodType):
        yield from _texts([value.__func__, value.__self__], seen)
    elif isinstance(value, staticmethod | classmethod):
        yield from _texts(value.__func__, seen)
    elif isinstance(value, property):
        yield from _texts(value.fget, seen)
    elif isinstance(value, partial):
        yield from _texts([value.func, value.args, value.keywords], seen)
    elif isinstance(value, tuple | list | dict | set | frozenset):
        members = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        texts = ["/".join(_texts(each, seen)) for each in members]
        yield f"{type(value).__name__} of {sorted(texts) if isinstance(value, set | frozenset) else texts}"
    else:
        named = value if hasattr(value, "__qualname__") else type(value)  # a compiled function has a name
        yield f"{getattr(named, '__module__', '')}.{named.__qualname__}"  # a slot of a class belongs to no module


def _texts_of_network(network: nn.Module, seen: dict[int, object]) -> Iterator[str]:
    """Yield texts that stand for a network but for its weights."""
    yield _without_addresses(repr(network))
    for path, module in network.named_modules():
        yield from _texts(type(module), seen)
        own = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
        unsaved = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        for name, value in (own | unsaved).items():
            yield from (f"{path}.{name}: {text}" for text in _texts(value, seen))


def _texts_of_code(code: type | FunctionType, seen: dict[int, object]) -> Iterator[str]:
    yield f"{code.__module__}.{code.__qualname__}"
    if _is_library(code.__module__):
        return
    members = [each for name, each in vars(code).items() if name not in _BY_PYTHON] if isinstance(code, type) else []
    source = _source(code)
    if source is not None:
        yield source
    elif isinstance(code, FunctionType):
        yield from _instructions(code.__code__)
    if _is_installed(sys.modules.get(code.__module__)):
        return
    if isinstance(code, type):
        for each in (*code.__bases__, *members):
            yield from _texts(each, seen)
        return
    names = frozenset(_names(code.__code__))
    for name in sorted(names & code.__globals__.keys()):
        yield from (f"{name}: {text}" for text in _texts(code.__globals__[name], seen, names))
    for each in (*_enclosed(code), *(code.__defaults__ or ()), *(code.__kwdefaults__ or {}).values()):
        yield from _texts(each, seen, names)


def _source(code: type | FunctionType) -> str | None:
    """Return the text of a class or function; None where there is none, or where it is a lambda within a line."""
    try:
        return None if code.__name__ == "<lambda>" else inspect.getsource(code)
    except (OSError, TypeError):  # made by `exec`, or at a prompt
        return None


def _enclosed(function: FunctionType) -> Iterator[object]:
    """Yield the values of the variables that a function takes from around it."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not assigned yet
            yield cell.cell_contents


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names and attributes that code uses, with the functions inside it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


def _instructions(code: CodeType) -> Iterator[str]:
    """Yield what stands for code without source: the same in one version of Python."""
    yield code.co_code.hex()
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _instructions(each)
        else:  # the order of a set differs from process to process
            yield repr(sorted(each, key=repr) if isinstance(each, frozenset) else each)


def _is_library(name: str | None) -> bool:
    """Return whether code is the standard library's, PyTorch's or ours; code that `exec` made may have no module."""
    return (name or "").partition(".")[0] in _LIBRARIES


def _is_installed(module: ModuleType | None) -> bool:
    """Return whether a module comes from an installed package rather than from a person's own directory."""
    file = getattr(module, "__file__", None)
    return file is not None and any(
        Path(file).is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")
    )


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _sha256(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(sorted(set(texts))).encode()).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
