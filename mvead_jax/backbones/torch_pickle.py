"""State dicts in PyTorch's legacy file format (before the zip format of 1.6), read with NumPy alone.

The file is five pickles (a magic number, the format version, the writer's type sizes, the state dict with its
tensors as references to storages, the list of storage keys) and then each storage in the order of that list:
its element count as eight bytes, then its elements, little-endian.

A pickle is a program. This unpickler looks up nothing but the few names that a state dict of tensors needs,
so no other code can run; the caller should pin the file by its digest all the same.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from mvead_jax.runtime.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Storage(NamedTuple):
    """What the pickle says of a storage; its elements come after the pickles."""

    dtype: np.dtype
    key: str
    count: int


class _Tensor(NamedTuple):
    """A strided window on a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise UserError(f"it asks for {module}.{name}, which no state dict needs; do not trust it")
        return _ALLOWED[module, name]

    def persistent_load(self, reference) -> _Storage:
        _, dtype, key, _device, count, _view = reference
        return _Storage(dtype, key, count)


def parse_state_dict(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The float32 and int64 tensors of a legacy PyTorch file.

    Args:
      data: the whole file.
      name: what to call it in errors, its path.

    Returns:
      C-contiguous arrays by key, in the order of the file.

    Raises:
      UserError: another format, a foreign name, or sizes that disagree with the bytes that are there.
    """
    try:
        return _parse(io.BytesIO(data), len(data))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise UserError(f"{name}: no undamaged PyTorch state dict in the legacy format ({error})") from error


def _parse(stream: io.BytesIO, length: int) -> dict[str, np.ndarray]:
    magic, version, system, tensors, keys = (_Unpickler(stream).load() for _ in range(5))
    if magic != _MAGIC or version != _VERSION or system["little_endian"] is not True:
        raise ValueError(f"magic number {magic}, version {version}, {system}")
    expected = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if sorted(keys) != sorted(expected):
        raise ValueError("the list of storages is not the one that the tensors use")
    storages = {key: _read_storage(stream, expected[key], length) for key in keys}
    if stream.read(1):
        raise ValueError("bytes after the last storage")
    return {key: _read_tensor(storages[tensor.storage.key], tensor) for key, tensor in tensors.items()}


def _read_storage(stream: io.BytesIO, storage: _Storage, length: int) -> np.ndarray:
    count = int.from_bytes(stream.read(8), "little")
    size = count * storage.dtype.itemsize
    if count != storage.count or size > length - stream.tell():
        raise ValueError(f"storage {storage.key} of {storage.count} elements is not there")
    return np.frombuffer(stream.read(size), storage.dtype)


def _read_tensor(elements: np.ndarray, tensor: _Tensor) -> np.ndarray:
    _, offset, shape, strides = tensor
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or last >= len(elements) or np.prod(shape) > len(elements):
        raise ValueError(f"a tensor of shape {shape}, strides {strides} in {len(elements)} elements")
    size = elements.itemsize
    window = np.lib.stride_tricks.as_strided(elements[offset:], shape, [stride * size for stride in strides])
    return np.array(window, order="C")
