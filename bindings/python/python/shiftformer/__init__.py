"""Transformers with integers only: convert ONNX models, measure them, run them as a device does.

>>> import shiftformer
>>> model = shiftformer.convert("model.onnx", {"image": images})        # doctest: +SKIP
>>> model.save("model.sfm")                                             # doctest: +SKIP
>>> model.run(image=images)["logits"]                                   # doctest: +SKIP

Importing this package needs numpy only. ``shiftformer.torch`` is for training.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from ._convert import convert
from ._errors import (
    AccuracyError,
    BackendError,
    ConversionError,
    DataError,
    DeviceError,
    DtypeError,
    ExecutorError,
    FileError,
    InternalError,
    ModelChangedError,
    ModelError,
    NotFoundError,
    OnnxError,
    ShapeError,
    ShiftformerError,
    ShiftformerWarning,
    TokenizerError,
    UsageError,
)
from ._model import Model
from ._native import backends
from ._results import (
    BoardFit,
    Conversion,
    Endpoint,
    Evaluation,
    Fit,
    Generation,
    Operand,
    Operator,
    OperatorError,
    OutputQuality,
    SequenceEvaluation,
    State,
    Summary,
    TokenizerInfo,
    Trial,
)

try:
    __version__ = version("shiftformer")
except PackageNotFoundError:  # run from the source tree
    __version__ = "0+unknown"

__all__ = [
    "AccuracyError",
    "BackendError",
    "BoardFit",
    "Conversion",
    "ConversionError",
    "DataError",
    "DeviceError",
    "DtypeError",
    "Endpoint",
    "Evaluation",
    "ExecutorError",
    "FileError",
    "Fit",
    "Generation",
    "InternalError",
    "Model",
    "ModelChangedError",
    "ModelError",
    "NotFoundError",
    "OnnxError",
    "Operand",
    "Operator",
    "OperatorError",
    "OutputQuality",
    "SequenceEvaluation",
    "ShapeError",
    "ShiftformerError",
    "ShiftformerWarning",
    "State",
    "Summary",
    "TokenizerError",
    "TokenizerInfo",
    "Trial",
    "UsageError",
    "backends",
    "convert",
]
