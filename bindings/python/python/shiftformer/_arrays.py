"""Arrays from whatever holds numbers, without importing what they come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from ._errors import DataError, DeviceError, DtypeError, ShapeError

Array = npt.NDArray[Any]
Path = Union[str, "os.PathLike[str]"]
#: Name, kind, shape and bytes: what the native half takes.
Given = tuple[str, str, list[int], bytes]
#: Name, shape, and whether it takes floats.
Input = tuple[str, Sequence[int], bool]


def is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def is_array(value: object) -> bool:
    """Whether ``value`` is an array or a tensor of any library."""
    return hasattr(value, "shape") and (hasattr(value, "__array__") or hasattr(value, "__dlpack__"))


def to_numpy(value: object, name: str) -> Array:
    """``value`` as an array of numbers, any layout; a tensor of another library is not copied where it can be shared."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DataError(f"`{name}` is a masked array with masked values; fill them first: array.filled(...)")
    device = getattr(getattr(value, "device", None), "type", None)
    if isinstance(device, str) and device != "cpu":
        raise DeviceError(f"`{name}` is a tensor on {getattr(value, 'device')}; move it first: tensor.cpu()")
    tensor: Any = value
    if getattr(tensor, "requires_grad", False) and hasattr(tensor, "detach"):
        tensor = tensor.detach()
    if str(getattr(tensor, "dtype", "")) == "torch.bfloat16":
        tensor = tensor.float()
    try:
        array = np.asarray(tensor)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise DtypeError(f"`{name}` of type {type(value).__name__} is no array of numbers ({error})") from error
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise DtypeError(
            f"`{name}` has element type {array.dtype}; use u8, i8, i16, i32, i64, f16, f32, f64 or bool"
            + (": all samples need the same shape" if array.dtype.kind == "O" else "")
        )
    return array


def given(name: str, array: Array) -> Given:
    """What the native half takes: raw bytes and pixels as they are, other integers in 64 bits, floats in 32."""
    shape = [int(d) for d in array.shape]
    if array.dtype == np.uint8:
        return name, "u1", shape, array.tobytes()
    if array.dtype.kind in "bi":
        return name, "i8", shape, array.astype("<i8").tobytes()
    if array.dtype.kind == "u":
        if array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise DtypeError(f"`{name}` holds {array.max()}, beyond 64 bits with sign; clean the data")
        return name, "i8", shape, array.astype("<i8").tobytes()
    with np.errstate(over="ignore"):
        return name, "f4", shape, array.astype("<f4").tobytes()


def _dims(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


def core(shape: Sequence[int]) -> list[int]:
    """``shape`` without the batch axis of one sample."""
    return list(shape[1:]) if len(shape) > 1 and shape[0] == 1 else list(shape)


def _fits(sample: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether the dimensions are the same after those of size 1 are removed, neighbours merged at most."""

    def ends(dims: Sequence[int]) -> list[int]:
        product, found = 1, []
        for dim in dims:
            if dim != 1:
                product *= dim
                found.append(product)
        return found

    own, other = ends(sample), ends(shape)
    if (own[-1] if own else 1) != (other[-1] if other else 1):
        return False
    return set(own) <= set(other) or set(other) <= set(own)


def batch(array: Array, name: str, shape: Sequence[int]) -> tuple[Array, bool]:
    """``array`` with the sample as its first axis, and whether it had that axis.

    A sample is of ``shape``, of which a first dimension of 1 and others of 1 may be missing.
    """
    one, size = core(shape), int(np.prod(shape, dtype=np.int64))
    if array.ndim > 0 and list(array.shape[1:]) in (one, list(shape)):
        return array, True
    if list(array.shape) in (one, list(shape)):
        return array[np.newaxis], False
    if array.ndim > 0 and int(np.prod(array.shape[1:], dtype=np.int64)) == size and _fits(array.shape[1:], shape):
        return array, True
    if array.size == size and _fits(array.shape, shape):
        return array[np.newaxis], False
    raise ShapeError(
        f"input `{name}` takes samples of shape {_dims(one)}, as one array [N, {', '.join(map(str, one))}]; "
        f"the array given has shape {_dims(array.shape)}"
        + ("; transpose it" if array.ndim > 0 and int(np.prod(array.shape[1:], dtype=np.int64)) == size else "")
    )


def _named(sample: Mapping[Any, Any], inputs: Sequence[Input], what: str) -> dict[str, Any]:
    found = {}
    for name, _, _ in inputs:
        key = name if name in sample else f"in_{name}"
        if key not in sample:
            have = ", ".join(f"`{k}`" for k in sample) or "nothing"
            raise DataError(f"{what} has no array for the input `{name}`; it has {have}")
        found[name] = sample[key]
    return found


def _positional(values: Sequence[Any], inputs: Sequence[Input], what: str) -> dict[str, Any]:
    if len(values) < len(inputs):
        names = ", ".join(f"`{name}`" for name, _, _ in inputs)
        raise DataError(f"{what} holds {len(values)} arrays, the model takes {len(inputs)} ({names}); give one for each")
    # What follows the inputs are labels.
    return {name: value for (name, _, _), value in zip(inputs, values)}


def _one(item: Any, inputs: Sequence[Input], what: str) -> dict[str, Any]:
    if isinstance(item, Mapping) or (hasattr(item, "keys") and hasattr(item, "__getitem__") and not is_array(item)):
        return _named(item, inputs, what)
    if isinstance(item, (tuple, list)) and item and all(is_array(part) for part in item):
        return _positional(item, inputs, what)
    if isinstance(item, tuple) and len(item) == 2 and len(inputs) == 1 and is_array(item[0]):
        return {inputs[0][0]: item[0]}
    if len(inputs) == 1:
        return {inputs[0][0]: item}
    names = ", ".join(f"`{name}`" for name, _, _ in inputs)
    raise DataError(f"{what} is one array, the model takes {len(inputs)} ({names}); give a dict of arrays by name")


def _batches(items: Iterator[Any], inputs: Sequence[Input], what: str, limit: int) -> dict[str, Array]:
    parts: dict[str, list[Array]] = {name: [] for name, _, _ in inputs}
    count = 0
    for item in items:
        sample = _one(item, inputs, f"an item of {what}")
        sizes = set()
        for name, shape, _ in inputs:
            array, _ = batch(to_numpy(sample[name], name), name, shape)
            parts[name].append(array.reshape(len(array), *core(shape)))
            sizes.add(len(array))
        if len(sizes) > 1:
            raise ShapeError(f"an item of {what} has inputs of {sorted(sizes)} samples; all need as many")
        count += sizes.pop()
        if count >= limit:
            break
    if count == 0:
        raise DataError(f"{what} holds no samples: the iterator is empty or was used up; give at least one")
    joined = {}
    for name, arrays in parts.items():
        types = {array.dtype for array in arrays}
        if len(types) > 1 and np.dtype(np.uint8) in types:
            raise DtypeError(f"`{name}`: some items of {what} are u8 (raw pixels), others are not; give all the same type")
        joined[name] = np.concatenate(arrays)[:limit]
    return joined


def samples(data: Any, inputs: Sequence[Input], what: str, limit: int = 2**62) -> dict[str, Array]:
    """Arrays ``[N, ...]`` by input name, of a dict of arrays, one array, or an iterable of samples or batches.

    At most ``limit`` samples are taken; an iterable is not read beyond them.
    """
    mapping = isinstance(data, Mapping) or isinstance(data, np.lib.npyio.NpzFile)
    if mapping or is_array(data):
        named = _named(data, inputs, what) if mapping else _one(data, inputs, what)
        arrays = {}
        for name, shape, _ in inputs:
            array, _ = batch(to_numpy(named[name], name), name, shape)
            arrays[name] = array
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) > 1:
            have = ", ".join(f"`{name}` has {size}" for name, size in sizes.items())
            raise ShapeError(f"{what}: all arrays need as many samples; {have}")
        if sizes and next(iter(sizes.values())) == 0:
            raise DataError(f"{what} holds no samples; give at least one")
        return {name: array[:limit] for name, array in arrays.items()}
    if isinstance(data, (bytes, bytearray)) or not isinstance(data, Iterable):
        raise DataError(
            f"{what} of type {type(data).__name__} cannot be used; give a dict of arrays by input name, an array, an "
            "iterable of samples or batches, or the path of an npz file"
        )
    return _batches(iter(data), inputs, what, limit)
