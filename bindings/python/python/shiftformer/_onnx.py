"""ONNX models as files: what the command reads has a path."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from ._arrays import Path, is_path
from ._errors import OnnxError, ShiftformerError, UsageError

#: A path, the bytes of a file, or an ``onnx.ModelProto``.
Onnx = Any
Dims = Union[Mapping[str, int], Sequence[str], None]


def is_onnx(value: object) -> bool:
    return is_path(value) or isinstance(value, (bytes, bytearray, memoryview)) or hasattr(value, "SerializeToString")


def to_bytes(model: Onnx) -> bytes:
    """The bytes of a model in memory."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model)
    try:
        data: bytes = model.SerializeToString()
    except ValueError as error:
        raise OnnxError(f"the model cannot be serialized ({error}); save it with external data and pass its path") from error
    return data


def dim_texts(dims: Dims) -> list[str]:
    """``NAME=VALUE`` for every symbolic dimension."""
    if dims is None:
        return []
    if isinstance(dims, Mapping):
        return [f"{name}={size}" for name, size in dims.items()]
    if isinstance(dims, str):
        return [dims]
    return [str(dim) for dim in dims]


@contextlib.contextmanager
def on_disk(model: Onnx, name: str = "model.onnx") -> Iterator[tuple[str, str | None]]:
    """The path of a model, and a folder for what else is to be a file. Errors name ``name``, not the folder."""
    if not is_onnx(model):
        hint = "; export it first: torch.onnx.export(model, args, 'model.onnx')" if hasattr(model, "state_dict") else ""
        raise UsageError(
            f"a model of type {type(model).__name__} cannot be read; give a path, bytes or an onnx.ModelProto{hint}"
        )
    if os.path.basename(name) != name or not name:
        raise UsageError(f"name={name!r} is not a file name")
    with tempfile.TemporaryDirectory(prefix="shiftformer-") as folder:
        try:
            if is_path(model):
                yield os.fspath(model), folder
            else:
                path = os.path.join(folder, name)
                with open(path, "wb") as file:
                    file.write(to_bytes(model))
                yield path, folder
        except ShiftformerError as error:
            if folder not in str(error):
                raise
            raise type(error)(str(error).replace(folder + os.sep, "")) from None


def path_text(path: Path) -> str:
    return os.fspath(path)
