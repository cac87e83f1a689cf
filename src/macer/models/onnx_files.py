"""ONNX files whose weights lie in other files: put together, so that one content is all that is certified."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from macer.errors import CheckpointError, first_line, needs

_LARGEST = 2**31 - 1
"""Bytes that protocol buffers can hold."""


def self_contained(content: bytes, folder: Path) -> bytes:
    """Return an ONNX model with all its weights inside: the content itself, where they are inside already.

    Tensors are looked for in every part of the model that the format has, now and in later versions.

    Args:
        content: the model.
        folder: where it lies. Data outside of this folder, and links, are not read.

    Raises:
        CheckpointError: data are missing, too large, or elsewhere.
        MissingLibrary: onnx is not installed.
    """
    with needs("onnx"):
        import onnx
        from onnx import external_data_helper
    model = onnx.ModelProto.FromString(content)
    outside = [each for each in _tensors(model, onnx.TensorProto) if each.data_location or each.external_data]
    if not outside:
        return content
    names = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    if len(content) + sum(_size(folder / name) for name in names) > _LARGEST:
        raise CheckpointError("its weights in other files have more than 2 GiB: use TorchScript or torch.export")
    for tensor in outside:
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # of the library, which says what is missing or refused
            raise CheckpointError(f"its weights in another file cannot be read: {first_line(error)}") from error
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    return model.SerializeToString(deterministic=True)


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """Yield all tensors in a message, at any depth."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(each, kind)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
