"""Networks that are programs in files: torch.export, TorchScript and ONNX.

Opening or evaluating a program runs code of its author. Only weights can be read without running code; see `weights`.
"""

import hashlib
import io
import logging
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.errors import CheckpointError, MacerError, needs
from macer.files.reading import open_file, read_bytes
from macer.models.onnx_files import self_contained
from macer.models.weights import check_sums

Evaluate = Callable[[Tensor], object]
"""From images (batch, channels, height, width) in [0, 1] to, if all is well, their logits (batch, classes)."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A network and its weights in one file.

    Attributes:
        kind: torch.export, TorchScript or ONNX.
        content: the file's bytes; of ONNX with weights in other files, a content that holds these, too.
        place: function from a device to the program on this device.
        shape: (channels, height, width) of the images; None if the file does not say.
        num_classes: number of logits; None if the file does not say.
    """

    kind: str
    content: bytes
    place: Callable[[torch.device], Evaluate]
    shape: tuple[int, int, int] | None = None
    num_classes: int | None = None

    def __reduce__(self) -> Any:  # a worker of another process reads the file anew
        return _read, (self.kind, self.content)


class ProgramNetwork(nn.Module):
    """A program as a module. It stays in eval mode, because its mode was chosen when the file was written.

    Its state dict contains the SHA-256 of its file, so that only equal programs have equal digests. The program moves
    to the device of the images that it gets.

    Args:
        program: the program.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.sha256 = nn.Parameter(
            torch.tensor(list(hashlib.sha256(program.content).digest()), dtype=torch.uint8), requires_grad=False
        )
        self._program = program
        self._placed: tuple[torch.device, Evaluate] | None = None

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits.

        Raises:
            CheckpointError: the program fails on these images, or returns something other than logits.
        """
        try:
            if self._placed is None or self._placed[0] != x.device:
                with torch.inference_mode(False), _quiet():  # attacks need gradients
                    self._placed = x.device, self._program.place(x.device)
            logits = self._placed[1](x)
        except Exception as error:  # a program may raise anything
            if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
                raise  # not caused by the program
            raise CheckpointError(f"the network fails on images of shape {tuple(x.shape)}: {_reason(error)}") from error
        if not isinstance(logits, Tensor):
            raise CheckpointError(f"the network returns {type(logits).__name__}, not a tensor of logits")
        if not logits.is_floating_point():
            raise CheckpointError(f"the network returns numbers of type {logits.dtype}, not floating-point logits")
        if logits.dim() != 2 or len(logits) != len(x):
            raise CheckpointError(
                f"the network returns shape {tuple(logits.shape)} for {len(x)} images, not ({len(x)}, classes)"
            )
        return logits

    def __reduce__(self) -> Any:
        return ProgramNetwork, (self._program,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProgramNetwork":
        return ProgramNetwork(self._program).to(self.sha256.device)


def read_program(file: Path) -> Program | None:
    """Return the program in a file, or None if the file contains something else.

    ONNX files end in .onnx and those of torch.export in .pt2. TorchScript is recognised by its content.

    Raises:
        CheckpointError: the file is damaged or cut off; the program takes anything but batches of images of any size;
            a file of torch.export does not end in .pt2; or TorchScript has a name that is used for weights.
        MissingLibrary: the file is an ONNX file and onnxruntime is not installed.
        OSError: the file cannot be read.
    """
    kind = {".onnx": "ONNX", ".pt2": "torch.export"}.get(file.suffix.lower()) or _kind_of_archive(file)
    if kind is None:
        return None
    check_sums(file)
    try:
        content = read_bytes(file, _LARGEST)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    try:
        return _read(kind, self_contained(content, file.parent) if kind == "ONNX" else content)
    except MacerError as error:
        raise type(error)(f"{file}: {error}") from error
    except Exception as error:  # these libraries raise many kinds on damaged files
        raise CheckpointError(f"{file}: damaged, cut off, or no {kind} file: {_reason(error)}") from error


def _read(kind: str, content: bytes) -> Program:
    with _quiet():
        return _READERS[kind](content)


@torch.inference_mode()
def check_program(network: nn.Module, num_classes: int, shape: tuple[int, int, int]) -> None:
    """Refuse a program that does not classify such images into as many classes, before anything is certified.

    Args:
        network: the program, on the CPU.
        num_classes: number of logits that it should return.
        shape: (channels, height, width) of the images.

    Raises:
        CheckpointError: the program fails, or returns logits of another shape.
    """
    found = network(torch.zeros(2, *shape, dtype=torch.float32)).shape[1]
    if found != num_classes:
        raise CheckpointError(f"the network returns {found} logits per image, the data have {num_classes} classes")


def _kind_of_archive(file: Path) -> str | None:
    """Recognise TorchScript by the constants beside its code; return None for any other file."""
    try:
        with open_file(file) as stream, zipfile.ZipFile(stream) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except Exception:  # zipfile raises many kinds on damaged files; the next reader says what is wrong
        return None
    if "archive_format" in names:  # the name of a checkpoint would hide that code is run
        raise CheckpointError(f"{file}: a torch.export program, which runs code when opened: rename it to end in .pt2")
    if "constants.pkl" not in names:
        return None
    if file.suffix.lower() in _CHECKPOINT_SUFFIXES:
        raise CheckpointError(f"{file}: a TorchScript program, which runs code: rename it to end in .pt")
    return "TorchScript"


def _read_export(content: bytes) -> Program:
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(io.BytesIO(content))
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs, outputs = ([values[name] for name in names] for names in (signature.user_inputs, signature.user_outputs))
    images, logits = _only(inputs, "input"), _only(outputs, "output")
    return Program(
        kind="torch.export",
        content=content,
        place=lambda device: move_to_device_pass(program, str(device)).module(),
        shape=_shape_of_images(images.shape),
        num_classes=_number_of_classes(logits.shape),
    )


def _read_torchscript(content: bytes) -> Program:
    module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    return Program(kind="TorchScript", content=content, place=module.to)


def _read_onnx(content: bytes) -> Program:
    with needs("onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    images = _only(session.get_inputs(), "input")
    if images.type != "tensor(float)":
        raise CheckpointError(f"the network takes {images.type}, not images of 32-bit floating-point numbers")

    def place(device: torch.device) -> Evaluate:
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            # Its float32 is TF32 otherwise, as in `exact_float32`.
            session.set_providers([("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0})])
        return untraced

    def evaluate(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {images.name: x.detach().cpu().numpy()})
        return torch.from_numpy(logits).to(x.device)

    # A compiled network may hold it. Traced, it fails at the first batch in inference mode.
    untraced: Any = torch.compiler.disable(evaluate)

    return Program(
        kind="ONNX",
        content=content,
        place=place,
        shape=_shape_of_images(images.shape),
        num_classes=_number_of_classes(_only(session.get_outputs(), "output").shape),
    )


_READERS = {"ONNX": _read_onnx, "torch.export": _read_export, "TorchScript": _read_torchscript}
_LARGEST = 2**32
"""Largest number of bytes of a program, all of which are kept in memory. Protocol buffers have at most 2^31."""
_CHECKPOINT_SUFFIXES = (".pth", ".tar", ".ckpt")
"""Names by which people expect weights and no code. TorchScript files are named .pt as well."""


def _only(found: Sequence[Any], what: str) -> Any:
    if len(found) != 1:
        raise CheckpointError(f"the network has {len(found)} {what}s, not one: images in, logits out")
    return found[0]


def _shape_of_images(sizes: Sequence[object]) -> tuple[int, int, int] | None:
    """Return the (channels, height, width) of a batch of these sizes; sizes that may vary are not numbers."""
    if len(sizes) != 4:
        raise CheckpointError(
            f"the network takes inputs of {len(sizes)} dimensions, not (batch, channels, height, width)"
        )
    batch, channels, height, width = sizes
    if isinstance(batch, int):
        raise CheckpointError(f"the network takes batches of exactly {batch}: export it with a dynamic batch dimension")
    if isinstance(channels, int) and isinstance(height, int) and isinstance(width, int):
        return channels, height, width
    return None


def _number_of_classes(sizes: Sequence[object]) -> int | None:
    return sizes[1] if len(sizes) == 2 and isinstance(sizes[1], int) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings and tracebacks that PyTorch logs while it reads: one line is enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    """Return the message of a library's error as part of one line."""
    text = str(error) or type(error).__name__
    if "TorchScript" in text:
        text = text.strip().splitlines()[-1]  # after two tracebacks
    return textwrap.shorten(text, 300)
