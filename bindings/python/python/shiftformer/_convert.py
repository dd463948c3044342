"""``convert``: the command of the same name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Optional, Union

import numpy as np

from . import _native
from ._arrays import Given, Input, Path, given, is_array, is_path, samples, to_numpy
from ._errors import DataError, FileError, ShiftformerWarning
from ._model import Model, write
from ._onnx import Dims, Onnx, dim_texts, on_disk
from ._progress import Progress, reporting

Switch = Union[Literal["auto", "on", "off"], bool]


def convert(
    model: Onnx,
    calib: Any = None,
    *,
    output: Optional[Path] = None,
    calib_samples: int = 256,
    mean: Optional[float] = None,
    std: Optional[float] = None,
    labels: Union[Path, Sequence[str], None] = None,
    profile: str = "shift",
    lmul_format: Optional[str] = None,
    lmul_layers: Optional[Sequence[str]] = None,
    range: str = "auto",
    weights: Union[int, str] = 8,
    flash_budget: Union[int, str, None] = None,
    equalize: Switch = "auto",
    no_bias_correction: bool = False,
    wide_exp: Switch = "auto",
    activations: Union[int, str] = "auto",
    embeddings: Optional[str] = None,
    unfused_attention: bool = False,
    row_blocks: Switch = "auto",
    dim: Dims = None,
    context: Optional[int] = None,
    window: Optional[int] = None,
    prefill: Optional[int] = None,
    receipts: int = 2,
    strip: bool = False,
    accept_sqnr: Optional[float] = None,
    tokenizer: Optional[Path] = None,
    report: Optional[Path] = None,
    name: str = "model.onnx",
    threads: Optional[int] = None,
    progress: Progress = None,
    **options: Any,
) -> Model:
    """Quantizes an ONNX model: the file of the command ``shiftformer convert`` with the same options, to the byte.

    Args:
        model: A path, the bytes of an ONNX file, or an ``onnx.ModelProto``.
        calib: Samples that the ranges are taken from: a dict of arrays ``[N, ...]`` by input name, one such array for
            a model of one input, an iterable of samples or batches (arrays, tuples in the order of the inputs, dicts),
            such as a torch ``DataLoader`` (labels behind the inputs are ignored), or the path of an npz file with
            arrays ``in_<input>``. ``uint8`` values are raw pixels, see ``mean``. With ``context``: sequences of tokens,
            ``ids`` ``[sequences, length]``, or the path of an npz file or of a text. ``None`` for a model with scales
            of its own (QDQ).
        output: Also write the file here.
        calib_samples: Use at most the first so many samples; an iterable is not read beyond them.
        mean, std: The device takes raw ``uint8`` pixels ``x``; the model wants ``(x / 255 - mean) / std``.
        labels: Names of the classes, or the path of a file with one per line.
        profile: Definition of the nonlinearities, those of ``shiftformer convert --profile``, such as ``shift``, ``ivit``,
            ``lut``.
        lmul_format, lmul_layers: Of the profile ``lmul``, as ``--lmul-format`` and ``--lmul-layers``.
        range: How ranges of activations are chosen: ``minmax``, ``percentile``, ``mse``, ``entropy``, ``auto``.
        weights: Bits of the weights: those of ``shiftformer convert --weights``, such as 8, 4, 3, 2 or ``mixed``.
        flash_budget: Maximum file size for ``mixed``, in bytes or with a suffix (``"64k"``).
        equalize: Move scale from normalized activations into the weights that follow.
        no_bias_correction: Do not correct biases for the mean error of the rounded weights.
        wide_exp: 16-bit exponentials in attention.
        activations: Bits of activations: 8, 16 or ``auto``.
        embeddings: How tables that ids are looked up in are stored, as ``--embeddings``.
        unfused_attention: Compute attention as three operators, with the score matrix in memory.
        row_blocks: Run operators together in blocks of rows: less RAM, more instructions.
        dim: Sizes of symbolic dimensions, by name.
        context: The model is a decoder: keep keys and values of so many positions.
        window: A token of a decoder sees the last so many positions only; keys and values are kept for as many.
        prefill: Tokens of a run of a decoder at most.
        receipts: Reference runs stored in the file for self-tests of a device.
        strip: Leave out names and scales.
        accept_sqnr: Accept outputs down to this SQNR in dB (the command's default without it).
        tokenizer: A Hugging Face ``tokenizer.json``, ``bytes``, or ``characters:ABC``.
        report: Write the report here; :meth:`Model.report` has it too.
        name: File name of a model in memory; it is stored in the file.
        threads: Threads of this machine, by default one per core. The bytes do not depend on it.
        progress: See :data:`shiftformer._progress.Progress`: a callable, or ``True`` for a bar of tqdm.
        options: Further options of the command, by their long names with underscores.

    Returns:
        The model; ``conversion`` of it says how it came about.

    Raises:
        OnnxError: The model cannot be imported.
        DataError: The samples do not fit it.
        ConversionError: It has no integer form; :class:`AccuracyError` where it keeps less than ``accept_sqnr``.
        UsageError: Options contradict each other.
        FileError: A file cannot be read or written.
        KeyboardInterrupt: On Ctrl-C, between two trials.
    """
    with on_disk(model, name) as (path, folder), reporting(progress) as call:
        if labels is not None and not is_path(labels):
            texts = [labels] if isinstance(labels, str) else list(labels)  # type: ignore[arg-type]
            if any("\n" in str(text) for text in texts):
                raise DataError("the name of a class has a line break; labels are one per line")
            labels = os.path.join(folder or "", "labels.txt")
            with open(labels, "w", encoding="utf-8") as file:
                file.writelines(f"{text}\n" for text in texts)
        for target in (output, report):
            _check_target(target)
        arguments = _arguments(
            {
                "output": "model.sfm" if output is None else os.fspath(output),
                "calib_samples": calib_samples,
                "mean": mean,
                "std": std,
                "labels": labels,
                "profile": profile,
                "lmul_format": lmul_format,
                "lmul_layers": [lmul_layers] if isinstance(lmul_layers, str) else lmul_layers,
                "range": range,
                "weights": weights,
                "flash_budget": flash_budget,
                "equalize": _switch(equalize),
                "no_bias_correction": no_bias_correction,
                "wide_exp": _switch(wide_exp),
                "activations": activations,
                "embeddings": embeddings,
                "unfused_attention": unfused_attention,
                "row_blocks": _switch(row_blocks),
                "dim": dim_texts(dim),
                "context": context,
                "window": window,
                "prefill": prefill,
                "receipts": receipts,
                "strip": strip,
                "accept_sqnr": accept_sqnr,
                "tokenizer": tokenizer,
                **options,
            }
        )
        converter = _native.Converter.load([*arguments, "--", path], call)
        source = os.fspath(calib) if is_path(calib) else None
        arrays: Optional[list[Given]] = None
        if calib is not None and source is None:
            if context is not None:
                arrays = sequences(calib, converter.inputs(), "calib", int(calib_samples))
            else:
                found = samples(calib, converter.inputs(), "calib", max(int(calib_samples), 1))
                arrays = [given(f"in_{input}", array) for input, array in found.items()]
        made = converter.convert(
            path=source, samples=arrays, sequences=context is not None, threads=threads, progress=call
        )
        converted = Model._of(made)
    conversion = converted.conversion
    for warning in conversion.warnings if conversion is not None else ():
        warnings.warn(warning, ShiftformerWarning, stacklevel=2)
    if output is not None:
        converted.save(output)
    if report is not None:
        write(report, converted.report().encode())
    return converted


def _switch(value: Switch) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """The command line of the options that are set."""
    arguments = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            arguments.append(option)
        elif isinstance(value, (list, tuple)):
            arguments += [f"{option}={item}" for item in value]
        elif isinstance(value, (float, np.floating)):
            arguments.append(f"{option}={float(value)!r}")
        else:
            arguments.append(f"{option}={os.fspath(value) if is_path(value) else value}")
    return arguments


def _check_target(target: Optional[Path]) -> None:
    if target is None:
        return
    folder = os.path.dirname(os.fspath(target)) or "."
    if not os.path.isdir(folder) or os.path.isdir(target):
        why = "is a directory" if os.path.isdir(target) else "no such folder"
        raise FileError(f"cannot write {os.fspath(target)}: {why}; choose another path")


def sequences(data: Any, inputs: Sequence[Input], what: str, limit: int) -> list[Given]:
    """Arrays ``ids`` ``[sequences, length]`` and, where there are, ``logits``."""
    names = ["ids", "input_ids", *(name for name, _, _ in inputs), *(f"in_{name}" for name, _, _ in inputs)]

    def ids_of(item: Any) -> Any:
        if isinstance(item, Mapping) or (hasattr(item, "keys") and not is_array(item)):
            key = next((name for name in names if name in item), None)
            if key is None:
                raise DataError(f"{what} has no array `ids`; it has {', '.join(f'`{k}`' for k in item)}")
            return item[key]
        if isinstance(item, (tuple, list)) and item and is_array(item[0]) and np.ndim(item[0]) > 0:
            return item[0]
        return item

    whole = isinstance(data, (Mapping, np.lib.npyio.NpzFile)) or is_array(data)
    if whole:
        ids = to_numpy(ids_of(data), "ids")
        ids = ids[np.newaxis] if ids.ndim == 1 else ids
    else:
        if isinstance(data, (bytes, bytearray)) or not isinstance(data, Iterable):
            raise DataError(f"{what} of type {type(data).__name__} holds no sequences of tokens; give ids [sequences, length]")
        parts: list[Any] = []
        for item in data:
            array = to_numpy(ids_of(item), "ids")
            parts += list(array) if array.ndim == 2 else [array]
            if len(parts) >= max(limit, 1):
                break
        if not parts:
            raise DataError(f"{what} holds no samples: the iterator is empty or was used up; give at least one")
        if any(np.ndim(part) != 1 for part in parts):
            raise DataError(f"an item of {what} is no sequence of tokens; give one-dimensional arrays of integers")
        lengths = sorted({len(part) for part in parts})
        if len(lengths) > 1:
            raise DataError(f"{what}: the sequences have {lengths[0]} to {lengths[-1]} tokens; cut them to one length")
        ids = np.stack(parts)
    arrays = [given("ids", ids)]
    if isinstance(data, (Mapping, np.lib.npyio.NpzFile)) and "logits" in data:
        arrays.append(given("logits", to_numpy(data["logits"], "logits")))
    return arrays
