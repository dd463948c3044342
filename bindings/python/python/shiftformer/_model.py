"""A converted model."""

from __future__ import annotations

import html
import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Literal, Optional, Union

import numpy as np

from . import _native
from ._arrays import Array, Given, Path, batch, core, given, is_array, is_path, samples, to_numpy
from ._errors import (
    DataError,
    DtypeError,
    FileError,
    ModelChangedError,
    ShapeError,
    ShiftformerWarning,
    UsageError,
)
from ._executor import Executors, evaluate_on
from ._onnx import Dims, Onnx, dim_texts, is_onnx, on_disk, to_bytes
from ._progress import Progress, reporting
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
    of,
)

_DTYPES = {"i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32"}


def write(path: Path, data: bytes) -> None:
    """A file that appears whole or not at all."""
    target = os.fspath(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".shiftformer-", dir=os.path.dirname(target) or ".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            if os.name == "posix":
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}; choose another path") from error


class Report(str):
    """A page of HTML, shown inline in a notebook."""

    def _repr_html_(self) -> str:
        page = html.escape(str(self), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:640px;border:0" title="Shiftformer report"></iframe>'

    def save(self, path: Path) -> None:
        """Writes the page."""
        write(path, self.encode())


class Model:
    """A model with integers only. It lies in memory: what happens to its file later does not change it.

    Args:
        path: A ``.sfm`` file.

    Raises:
        FileError: It cannot be read.
        ModelError: It is not a valid model.
    """

    _model: _native.Model
    _path: Optional[str]

    def __init__(self, path: Path) -> None:
        if not is_path(path):
            raise UsageError(f"Model takes the path of a .sfm file, not {type(path).__name__}; see Model.from_bytes")
        self._model = _native.Model.read(os.fspath(path))
        self._path = os.fspath(path)

    @classmethod
    def _of(cls, native: _native.Model, path: Optional[str] = None) -> Model:
        model = cls.__new__(cls)
        model._model, model._path = native, path
        return model

    @classmethod
    def from_bytes(cls, data: Union[bytes, bytearray, memoryview], name: str = "model.sfm") -> Model:
        """A model in memory; errors call it ``name``."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UsageError(f"from_bytes takes the bytes of a .sfm file, not {type(data).__name__}")
        return cls._of(_native.Model.from_bytes(bytes(data), name))

    def to_bytes(self) -> bytes:
        """The ``.sfm`` file."""
        return self._model.to_bytes()

    def save(self, path: Path) -> None:
        """Writes the ``.sfm`` file, whole or not at all."""
        write(path, self.to_bytes())
        self._path = os.fspath(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.to_bytes(), self._path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    @property
    def path(self) -> Optional[str]:
        """Where it was read from or saved to."""
        return self._path

    @property
    def inputs(self) -> tuple[Endpoint, ...]:
        """The inputs in order."""
        return tuple(Endpoint(n, d, tuple(s), scale, zero, p) for n, d, s, scale, zero, p in self._model.inputs())

    @property
    def outputs(self) -> tuple[Endpoint, ...]:
        """The outputs in order."""
        return tuple(Endpoint(n, d, tuple(s), scale, zero, p) for n, d, s, scale, zero, p in self._model.outputs())

    @property
    def is_decoder(self) -> bool:
        """Whether it is a language model that keeps keys and values between runs."""
        return self._model.is_decoder()

    @property
    def conversion(self) -> Optional[Conversion]:
        """How the model came about; ``None`` for one that was read."""
        text = self._model.conversion()
        if text is None:
            return None
        fields = json.loads(text)
        fields["outputs"] = [of(OutputQuality, output) for output in fields["outputs"]]
        fields["trials"] = [of(Trial, trial) for trial in fields["trials"]]
        return of(Conversion, fields)

    def __repr__(self) -> str:
        def ends(endpoints: Sequence[Endpoint]) -> str:
            return ", ".join(f"{e.name} {e.dtype} {list(e.shape)}" for e in endpoints)

        return f"<shiftformer.Model {self._path or 'in memory'}: {ends(self.inputs)} -> {ends(self.outputs)}>"

    def __str__(self) -> str:
        """What the command prints of the conversion."""
        return self._model.conversion_text() or repr(self)

    def _repr_html_(self) -> str:
        summary = self.inspect()
        lines = [("flash", summary.flash_bytes), ("arena", summary.arena_bytes), ("MACs", summary.macs)]
        rows = "".join(f"<tr><th>{name}</th><td>{value:,}</td></tr>" for name, value in lines)
        return f"<table><caption>{html.escape(repr(self)[1:-1])}</caption>{rows}</table>"

    def run(
        self,
        inputs: Optional[Mapping[str, Any]] = None,
        /,
        *,
        raw: bool = False,
        raw_outputs: bool = False,
        backend: str = "native",
        threads: Optional[int] = None,
        progress: Progress = None,
        **named: Any,
    ) -> dict[str, Array]:
        """Runs one sample or a batch, on all cores, with the GIL released. Every backend gives the same integers.

        Args:
            inputs: Arrays by input name, where names are no identifiers; else as keywords.
            raw: Inputs and outputs are the integers of the model: ``real = scale * (q - zero)``. Without it inputs are
                real numbers, rounded to the grid of the input and saturated, or integers for ids; ``uint8`` arrays go
                unchanged into ``uint8`` inputs.
            raw_outputs: Real inputs, integer outputs.
            backend: Where to run, see :func:`shiftformer.backends`.
            threads: Threads, by default one per core.
            progress: A callable or ``True``, see :func:`shiftformer.convert`.
            named: Arrays by input name: ``[N, ...]``, or one sample without the batch axis. Any layout.

        Returns:
            An array by output name, ``float32`` or the output's integers: ``[N, ...]``, or without the batch axis where
            the inputs have none.

        Raises:
            DataError: An input is missing or does not fit: :class:`ShapeError`, :class:`DtypeError`,
                :class:`DeviceError`.
            BackendError: The backend is unknown, missing or fails.
        """
        feeds = {**(inputs or {}), **named}
        expected = self.inputs
        known = ", ".join(f"`{e.name}` {list(e.shape)}" for e in expected)
        for name in feeds:
            if name not in {e.name for e in expected}:
                raise DataError(f"the model has no input `{name}`; it takes {known}")
        arrays: dict[str, Array] = {}
        batched: dict[str, bool] = {}
        for endpoint in expected:
            if endpoint.name not in feeds:
                raise DataError(f"the input `{endpoint.name}` is missing; the model takes {known}")
            array = to_numpy(feeds[endpoint.name], endpoint.name)
            array, batched[endpoint.name] = batch(array, endpoint.name, endpoint.shape)
            arrays[endpoint.name] = _raw(array, endpoint) if raw else array
        sizes = {len(array) for array in arrays.values()}
        if len(sizes) > 1:
            have = ", ".join(f"`{name}` has {len(array)}" for name, array in arrays.items())
            raise ShapeError(f"all inputs need as many samples; {have}")
        count = next(iter(sizes), 0)
        integers = raw or raw_outputs
        results: dict[str, Array] = {}
        with reporting(progress) as call:
            if count == 0:
                blobs = [b""] * len(self.outputs)
            else:
                feed = [given(f"in_{name}", array) for name, array in arrays.items()]
                blobs = self._model.run(
                    feed,
                    raw_inputs=raw,
                    raw_outputs=integers,
                    backend=backend,
                    threads=threads,
                    progress=call,
                )
        for endpoint, blob in zip(self.outputs, blobs):
            dtype = np.dtype(endpoint.dtype if integers else np.float32).newbyteorder("<")
            array = np.frombuffer(blob, dtype).astype(dtype.newbyteorder("="))
            array = array.reshape(count, *core(endpoint.shape))
            results[endpoint.name] = array if any(batched.values()) else array[0]
        return results

    def evaluate(
        self,
        data: Any,
        labels: Any = None,
        reference: Any = None,
        *,
        dim: Dims = None,
        limit: Optional[int] = None,
        backend: str = "native",
        threads: Optional[int] = None,
        executor: Executors = None,
        shards: Optional[int] = None,
        progress: Progress = None,
    ) -> Evaluation:
        """Accuracy on labelled samples and the distance from the float model, as ``shiftformer eval``.

        Args:
            data: As ``calib`` of :func:`shiftformer.convert`. A dict or an npz file may hold ``label`` and
                ``out_<output>`` too. For a decoder: ``ids`` ``[sequences, length]``, perhaps with ``logits``.
            labels: Classes ``[N]``, or ``[N, rows]`` for models with several rows of logits, or one-hot rows.
            reference: What to compare with: the ONNX model (path, bytes, ``onnx.ModelProto``), arrays ``[N, ...]`` by
                output name, or one array for a model of one output.
            dim: Sizes of symbolic dimensions of the reference, by name.
            limit: Use only the first so many samples.
            backend: Where to run, see :func:`shiftformer.backends`.
            threads: Threads, by default one per core; with ``executor`` those of every worker, by default 1.
            executor: Anything with the interface of ``concurrent.futures``, or a function that makes one: the samples
                are divided among its workers. The figures are those of a single process to the last bit; the samples of
                a lost worker are done again.
            shards: Parts for the executor.
            progress: A callable or ``True``, see :func:`shiftformer.convert`.

        Returns:
            Figures; a :class:`SequenceEvaluation` for a decoder.

        Raises:
            DataError: The samples, labels or references do not fit the model.
            ExecutorError: Workers were lost again and again.
        """
        if limit is not None and limit < 1:
            raise UsageError(f"limit={limit} leaves no samples; give at least 1")
        if self.is_decoder:
            if labels is not None or reference is not None or executor is not None:
                raise UsageError(
                    "a decoder is compared with the array logits of the sequences; labels, reference and executor are "
                    "for other models"
                )
            return self._evaluate_sequences(data, limit, backend, threads, progress)
        onnx, arrays = None, {}
        if reference is not None:
            if is_onnx(reference):
                onnx = os.path.abspath(os.fspath(reference)) if is_path(reference) else to_bytes(reference)
            else:
                arrays = self._references(reference)
        plain = is_path(data) and labels is None and not arrays and limit is None and executor is None
        feeds = [] if plain else self._feeds(data, labels, arrays, limit)
        if executor is None:
            with reporting(progress) as call, float_model(onnx, dim) as graph:
                if plain:
                    text = self._model.evaluate(
                        path=os.fspath(data), float_model=graph, backend=backend, threads=threads, progress=call
                    )
                else:
                    text = self._model.evaluate(
                        samples=feeds, float_model=graph, backend=backend, threads=threads, progress=call
                    )
        else:
            with reporting(progress) as call:
                text = evaluate_on(
                    executor, self.to_bytes(), feeds, onnx, dim_texts(dim), backend, threads or 1, shards, call
                )
        found = json.loads(text)
        sums = json.dumps(found["sums"])
        for warning in [*found["warnings"], *self._model.edges(sums)]:
            warnings.warn(warning, ShiftformerWarning, stacklevel=2)
        return Evaluation.of_sums(sums)

    def _references(self, reference: Any) -> dict[str, Array]:
        if isinstance(reference, Mapping) or isinstance(reference, np.lib.npyio.NpzFile):
            return {str(name): to_numpy(array, str(name)) for name, array in reference.items()}
        outputs = self.outputs
        if len(outputs) != 1:
            names = ", ".join(f"`{output.name}`" for output in outputs)
            raise DataError(f"reference is one array, the model has the outputs {names}; give a dict of arrays by name")
        return {outputs[0].name: to_numpy(reference, outputs[0].name)}

    def _feeds(self, data: Any, labels: Any, references: Mapping[str, Array], limit: Optional[int]) -> list[Given]:
        """Arrays ``in_*``, ``out_*`` and ``label``, all of as many samples."""
        if is_path(data):
            try:
                with np.load(os.fspath(data), allow_pickle=False) as archive:
                    data = dict(archive)
            except FileNotFoundError as error:
                from ._errors import NotFoundError

                raise NotFoundError(f"cannot read {os.fspath(data)}: {error.strerror}; check the path") from error
            except (OSError, ValueError) as error:
                raise DataError(f"{data} is not an npz file ({error}); write one with numpy.savez") from error
        inputs = [(e.name, e.shape, True) for e in self.inputs]
        arrays = samples(data, inputs, "data", limit if limit is not None else 2**62)
        found = [(f"in_{name}", array) for name, array in arrays.items()]
        stored: Mapping[Any, Any] = data if isinstance(data, Mapping) else {}
        if labels is None and "label" in stored:
            labels = stored["label"]
        if labels is not None:
            found.append(("label", to_numpy(labels, "label")))
        outputs = {name if name.startswith("out_") else f"out_{name}": array for name, array in references.items()}
        known = {f"out_{output.name}" for output in self.outputs}
        for name in outputs:
            if name not in known:
                raise DataError(f"the model has no output `{name[4:]}`; it has {', '.join(f'`{k[4:]}`' for k in known)}")
        for name in stored:
            if str(name).startswith("out_") and name not in outputs:
                outputs[str(name)] = to_numpy(stored[name], str(name))
        found += list(outputs.items())
        count = len(found[0][1])
        for name, array in found:
            if array.ndim == 0 or (len(array) < count if limit is not None else len(array) != count):
                size = "no samples" if array.ndim == 0 else f"{len(array)} samples"
                raise ShapeError(f"`{name}` has {size}, `{found[0][0]}` has {count}; all arrays need the same first dimension")
        return [given(name, array[:count]) for name, array in found]

    def _evaluate_sequences(
        self, data: Any, limit: Optional[int], backend: str, threads: Optional[int], progress: Progress
    ) -> SequenceEvaluation:
        from ._convert import sequences

        with reporting(progress) as call:
            if is_path(data):
                text = self._model.evaluate_sequences(
                    path=os.fspath(data), limit=limit, backend=backend, threads=threads, progress=call
                )
            else:
                inputs = [(e.name, e.shape, False) for e in self.inputs]
                feeds = sequences(data, inputs, "data", 2**62)
                text = self._model.evaluate_sequences(
                    samples=feeds, limit=limit, backend=backend, threads=threads, progress=call
                )
        return SequenceEvaluation.of_json(json.loads(text))

    def inspect(self) -> Summary:
        """Sizes, operators and proven bounds, as ``shiftformer inspect``."""
        fields = json.loads(self._model.summary())

        def endpoint(e: Mapping[str, Any]) -> Endpoint:
            dtype = _DTYPES.get(e["dtype"], e["dtype"])
            return Endpoint(e["name"], dtype, tuple(e["shape"]), e["scale"], e["zero"], "normalization" in e)

        def operand(o: Mapping[str, Any]) -> Operand:
            return of(Operand, {**o, "dtype": _DTYPES.get(o["dtype"], o["dtype"])})

        def operator(op: Mapping[str, Any]) -> Operator:
            output = operand(op["out"]) if op["out"] else None
            return of(Operator, {**op, "inputs": [operand(o) for o in op["in"]], "output": output})

        fields["inputs"] = [endpoint(e) for e in fields["inputs"]]
        fields["outputs"] = [endpoint(e) for e in fields["outputs"]]
        fields["ops"] = [operator(op) for op in fields["ops"]]
        fields["state"] = of(State, fields["state"]) if fields.get("state") else None
        fields["tokenizer"] = of(TokenizerInfo, fields["tokenizer"]) if fields.get("tokenizer") else None
        return of(Summary, fields)

    def per_op(
        self,
        data: Any = None,
        reference: Optional[Onnx] = None,
        *,
        dim: Dims = None,
        limit: int = 32,
        threads: Optional[int] = None,
        progress: Progress = None,
    ) -> list[OperatorError]:
        """Every operator beside the float model, as ``shiftformer eval --per-op``.

        Args:
            data: Samples, as of :meth:`evaluate`; by default those that the model was converted with.
            reference: The ONNX model; by default the one that was converted.
            dim: Sizes of symbolic dimensions of the reference, by name.
            limit: Use at most so many samples.

        Raises:
            UsageError: The model was read from a file, and ``data`` or ``reference`` is missing.
        """
        if limit < 1:
            raise UsageError(f"limit={limit} leaves no samples; give at least 1")
        onnx = None if reference is None else (os.fspath(reference) if is_path(reference) else to_bytes(reference))
        path = os.fspath(data) if is_path(data) else None
        feeds = None
        if data is not None and path is None:
            inputs = [(e.name, e.shape, True) for e in self.inputs]
            feeds = [given(f"in_{name}", array) for name, array in samples(data, inputs, "data", limit).items()]
        with reporting(progress) as call, float_model(onnx, dim) as graph:
            text = self._model.per_op(
                path=path, samples=feeds, float_model=graph, limit=limit, threads=threads, progress=call
            )
        return [of(OperatorError, fields) for fields in json.loads(text)]

    def report(self, output: Optional[Path] = None) -> Report:
        """The report of the conversion as a page of HTML without scripts, shown inline in a notebook.

        A model that was read has what its file holds: sizes, memory, operators and boards.
        """
        page = Report(self._model.report())
        if output is not None:
            page.save(output)
        return page

    def fit(self, board: Optional[str] = None, *, count: bool = False) -> Fit:
        """The boards that the model fits, as ``shiftformer fit``.

        Args:
            board: Only this one, by key or name.
            count: Count instructions in the emulator (QEMU) instead of estimating them.
        """
        fields = json.loads(self._model.fit(board, count))
        fields["boards"] = [of(BoardFit, line) for line in fields["boards"]]
        return of(Fit, fields)

    def codegen(
        self,
        output: Optional[Path] = None,
        *,
        lang: Optional[Literal["rust", "c"]] = None,
        include: Optional[str] = None,
        name: Optional[str] = None,
    ) -> str:
        """A Rust module or a C header for firmware, as ``shiftformer codegen``.

        Args:
            output: Also write it here.
            lang: ``rust`` or ``c``; by default C where ``output`` ends in .h, .hpp or .c, else Rust.
            include: The path in ``include_bytes!``; by default that of the model's file, relative to ``output``.
            name: File name that the source states for a model that was never saved.

        Raises:
            UsageError: A Rust module of a model that was never saved, without ``include``.
            ModelChangedError: The file of the model is no longer what was read.
        """
        target = os.fspath(output) if output is not None else ""
        language = lang or ("c" if os.path.splitext(target)[1] in (".h", ".hpp", ".c") else "rust")
        path = self._path or name or "model.sfm"
        if language == "rust" and include is None:
            self._check_file()
        text = self._model.codegen(language, path, os.path.dirname(target), include)
        if output is not None:
            write(output, text.encode())
        return text

    def _check_file(self) -> None:
        """That the file which a source file is to include is this model."""
        if self._path is None:
            raise UsageError("the module includes the file of the model; save the model first, or pass include=")
        try:
            with open(self._path, "rb") as file:
                same = file.read() == self.to_bytes()
        except OSError as error:
            raise ModelChangedError(
                f"{self._path} cannot be read any more ({error.strerror}); save the model again: model.save(path)"
            ) from error
        if not same:
            raise ModelChangedError(
                f"{self._path} was changed since it was read; open it again: Model(path), or save this one elsewhere"
            )

    def generate(
        self,
        prompt: Union[str, Sequence[int], Array],
        *,
        tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        backend: str = "native",
        stream: Optional[Callable[[str], object]] = None,
    ) -> Generation:
        """Continues a prompt token by token, as ``shiftformer generate``; the same tokens on every backend.

        Args:
            prompt: Text, where the model has a tokenizer, or tokens.
            tokens: Tokens to generate; fewer where the context ends before.
            temperature: Logits are divided by it; 0 takes the most likely token.
            top_k: Draw among the most likely so many; 0 for all.
            top_p: Draw among the most likely that together have this share.
            repetition_penalty: Make tokens that are there already less likely; 1 is no penalty.
            seed: Of the draws.
            backend: ``native`` or ``portable``.
            stream: Called with the text (or ids) as it comes.

        Raises:
            UsageError: The model is no decoder, or the prompt is too long or of another vocabulary.
        """
        if isinstance(prompt, str):
            first = f"--prompt={prompt}"
        else:
            ids = to_numpy(prompt, "prompt") if is_array(prompt) else np.asarray(list(prompt))
            if ids.size == 0:
                raise DataError("the prompt has no tokens; give at least one")
            if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2) or (ids.ndim == 2 and len(ids) != 1):
                raise DtypeError("the prompt is no sequence of tokens; give a text or a list of integers")
            first = "--prompt-ids=" + ",".join(str(int(token)) for token in ids.reshape(-1))
        arguments = [
            f"--tokens={tokens}",
            f"--temperature={float(temperature)!r}",
            f"--top-k={top_k}",
            f"--top-p={float(top_p)!r}",
            f"--repetition-penalty={float(repetition_penalty)!r}",
            f"--seed={seed}",
            f"--backend={backend}",
            first,
            "--",
            self._path or "model.sfm",
        ]

        def call(part: Optional[str], done: int, total: int) -> None:
            if stream is not None and part is not None:
                stream(part)

        return of(Generation, json.loads(self._model.generate(arguments, call)))


class float_model:
    """The float graph of an ONNX model, as a context."""

    def __init__(self, onnx: Union[str, bytes, None], dim: Dims) -> None:
        self._onnx, self._dims = onnx, dim_texts(dim)

    def __enter__(self) -> Optional[_native.FloatModel]:
        if self._onnx is None:
            return None
        with on_disk(self._onnx, "reference.onnx") as (path, _):
            return _native.FloatModel.load(path, self._dims)

    def __exit__(self, *_: object) -> None:
        return None


def _raw(array: Array, endpoint: Endpoint) -> Array:
    """The bytes of integers of the model, ``[N, bytes of a sample]``."""
    dtype = np.dtype(endpoint.dtype)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"raw input `{endpoint.name}` takes {dtype}, the array given has {array.dtype}; quantize it first")
    if array.size and array.dtype != dtype:
        low, high = int(array.min()), int(array.max())
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise DtypeError(f"raw input `{endpoint.name}` takes {dtype}, the array holds {low} to {high}; clip it first")
    data = np.ascontiguousarray(array.astype(dtype.newbyteorder("<")))
    return data.reshape(len(array), -1).view(np.uint8).reshape(len(array), -1)


def _restored(data: bytes, path: Optional[str]) -> Model:
    model = Model.from_bytes(data)
    model._path = path
    return model
