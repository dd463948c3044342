"""Evaluation on the workers of an executor: other processes, or other machines."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from typing import Any, Callable, Optional, Union

from . import _native
from ._arrays import Given
from ._errors import ExecutorError, ShiftformerError, UsageError
from ._progress import Call

#: An executor, or a function that makes one: then a broken one is replaced by another.
Executors = Union[Any, Callable[[], Any], None]
#: How often the samples of lost workers are done again.
RETRIES = 3
#: Samples of a shard at least, unless told otherwise: less would be mostly transport.
SAMPLES = 256
#: Shards at most, unless told otherwise.
SHARDS = 64
#: Other libraries' words for a worker that is gone.
_LOST = {"KilledWorker", "CommClosedError", "WorkerCrashedError", "NodeDiedError", "TerminatedWorkerError"}


@functools.lru_cache(maxsize=2)
def _model(data: bytes) -> _native.Model:
    return _native.Model.from_bytes(data, "model.sfm")


def _shard(
    model: bytes,
    feeds: list[Given],
    onnx: Union[str, bytes, None],
    dims: Sequence[str],
    backend: str,
    threads: int,
) -> str:
    """One shard, in a worker."""
    from ._model import float_model

    with float_model(onnx, dims) as graph:
        return _model(model).evaluate(samples=feeds, float_model=graph, backend=backend, threads=threads)


def _part(feed: Given, start: int, end: int) -> Given:
    name, kind, shape, data = feed
    size = len(data) // shape[0] if shape[0] else 0
    return name, kind, [end - start, *shape[1:]], data[start * size : end * size]


def _lost(error: BaseException) -> bool:
    """Whether a worker, not the work, is at fault."""
    if isinstance(error, ShiftformerError):
        return False
    return isinstance(error, (BrokenExecutor, CancelledError, ConnectionError, EOFError)) or (
        type(error).__name__ in _LOST
    )


def _another(executor: Any) -> Optional[Executor]:
    """A pool of processes like a broken one."""
    if not isinstance(executor, ProcessPoolExecutor):
        return None
    return ProcessPoolExecutor(
        max_workers=getattr(executor, "_max_workers", None),
        mp_context=getattr(executor, "_mp_context", None),
        initializer=getattr(executor, "_initializer", None),
        initargs=getattr(executor, "_initargs", ()),
    )


def evaluate_on(
    executor: Executors,
    model: bytes,
    feeds: list[Given],
    onnx: Union[str, bytes, None],
    dims: Sequence[str],
    backend: str,
    threads: int,
    shards: Optional[int],
    progress: Optional[Call],
) -> str:
    """Divides the samples among the workers; joins the results in the order of the samples.

    The sums are exact, so that the figures do not depend on how the samples are divided.
    """
    make = executor if callable(executor) and not hasattr(executor, "submit") else None
    if make is None and not hasattr(executor, "submit"):
        raise UsageError(f"executor of type {type(executor).__name__} has no submit(); give a concurrent.futures.Executor")
    total = feeds[0][2][0]
    if shards is not None and shards < 1:
        raise UsageError(f"shards={shards} leaves no work; give at least 1")
    count = min(total, shards if shards is not None else max(1, min(SHARDS, -(-total // SAMPLES))))
    bounds = [(total * i // count, total * (i + 1) // count) for i in range(count)]
    results: dict[int, str] = {}
    own: list[Any] = []
    pool = executor
    if make is not None:
        pool = make()
        own.append(pool)
    try:
        for attempt in range(1 + RETRIES):
            last = _round(pool, bounds, results, (model, feeds, onnx, dims, backend, threads), total, progress)
            if last is None:
                break
            if isinstance(last, (BrokenExecutor, RuntimeError)) and attempt < RETRIES:
                replacement = make() if make is not None else _another(pool)
                if replacement is not None:
                    pool = replacement
                    own.append(pool)
        missing = [i for i in range(count) if i not in results]
        if missing:
            start, end = bounds[missing[0]]
            raise ExecutorError(
                f"the worker of samples {start} to {end - 1} was lost {1 + RETRIES} times; give workers more memory or "
                "more shards, or pass a function that makes executors: executor=lambda: ProcessPoolExecutor()"
            )
    finally:
        for pool in own:
            pool.shutdown(wait=False, cancel_futures=True) if isinstance(pool, Executor) else pool.shutdown()
    parts = [json.loads(results[i]) for i in range(count)]
    sums = _native.merge([json.dumps(part["sums"]) for part in parts])
    warnings = list(dict.fromkeys(text for part in parts for text in part["warnings"]))
    return json.dumps({"sums": json.loads(sums), "warnings": warnings, "data_samples": total})


def _round(
    pool: Any,
    bounds: list[tuple[int, int]],
    results: dict[int, str],
    work: tuple[bytes, list[Given], Union[str, bytes, None], Sequence[str], str, int],
    total: int,
    progress: Optional[Call],
) -> Optional[BaseException]:
    """Does what is missing of the shards; returns the last fault of a worker."""
    model, feeds, *rest = work
    last: Optional[BaseException] = None
    futures: dict[int, Any] = {}
    try:
        for index, (start, end) in enumerate(bounds):
            if index in results:
                continue
            parts = [_part(feed, start, end) for feed in feeds]
            try:
                futures[index] = pool.submit(_shard, model, parts, *rest)
            except RuntimeError as error:  # broken, or shut down
                last = error
                break
        for index, future in futures.items():
            try:
                results[index] = future.result()
            except BaseException as error:
                if not _lost(error):
                    raise
                last = error
                continue
            if progress is not None:
                progress(None, sum(bounds[i][1] - bounds[i][0] for i in results), total)
    except BaseException:
        for future in futures.values():
            future.cancel()
        raise
    return last if len(results) < len(bounds) else None
