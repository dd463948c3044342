"""What can go wrong. Every text says what to do, in the words of the command ``shiftformer``."""

from __future__ import annotations


class ShiftformerError(Exception):
    """Base of all exceptions of this package."""


class UsageError(ShiftformerError, ValueError):
    """An argument is unknown, out of range or contradicts another."""


class FileError(ShiftformerError, OSError):
    """A file cannot be read or written."""


class NotFoundError(FileError, FileNotFoundError):
    """There is no such file."""


class ModelError(ShiftformerError, ValueError):
    """The bytes are no valid ``.sfm`` model."""


class ModelChangedError(FileError):
    """The file of a model is no longer what was read."""


class OnnxError(ShiftformerError, ValueError):
    """The ONNX model cannot be imported or run."""


class ConversionError(ShiftformerError):
    """The model has no integer form with these options."""


class AccuracyError(ConversionError):
    """The outputs keep less than ``accept_sqnr``."""


class TokenizerError(ShiftformerError, ValueError):
    """The tokenizer cannot be stored with the model."""


class DataError(ShiftformerError, ValueError):
    """Samples, labels or references do not fit the model."""


class ShapeError(DataError):
    """An array has the wrong shape."""


class DtypeError(DataError, TypeError):
    """An array has an element type that cannot be used."""


class DeviceError(DataError):
    """A tensor is not in the memory of this machine's processor."""


class BackendError(ShiftformerError, RuntimeError):
    """A backend is unknown, missing or failed."""


class ExecutorError(ShiftformerError, RuntimeError):
    """Workers of an executor were lost again and again."""


class InternalError(ShiftformerError, RuntimeError):
    """A fault of this package; please report it."""


class ShiftformerWarning(UserWarning):
    """The result stands, but not for what one may think."""
