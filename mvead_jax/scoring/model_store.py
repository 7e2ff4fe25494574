"""The state of any method on disk, and what goes with it.

models/<model>/state.safetensors       every array by its path in the state: "fusion/query/kernel"; of a memory
                                       bank "<path>/rows" [M,D] and "<path>/sample" [M]
models/<model>/facts.json              what the model was trained with
models/<model>/score_statistics.json   mean and deviation of normal scores in each view
models/<model>/decision.safetensors    scores of held-out samples (decision/calibration.py)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open

from mvead_jax.bank.fill import Bank
from mvead_jax.bank.nearest import ShardedRows, shard_rows
from mvead_jax.methods.base import State
from mvead_jax.runtime import sharding
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, remove, write_json, write_tensors

STATE, FACTS = "state.safetensors", "facts.json"
_ROWS, _SAMPLE = "rows", "sample"


def write_state(folder: Path, state: State, facts: Mapping[str, Any]) -> dict[str, int]:
    """Write the state of a model and what it was trained with; return the rows of each bank by its path.

    Files of an earlier training, or of a writer that was killed, go.
    """
    tensors, rows = {}, {}
    for name, leaf in named_leaves(state).items():
        if isinstance(leaf, Bank):
            tensors[f"{name}/{_ROWS}"] = np.asarray(leaf.rows, np.float32, order="C")
            tensors[f"{name}/{_SAMPLE}"] = np.asarray(leaf.sample, np.int32, order="C")
            rows[name] = len(leaf.rows)
        else:
            tensors[name] = np.asarray(leaf, order="C")  # np.ascontiguousarray would make a row of a scalar
    if folder.is_dir():
        for path in folder.iterdir():
            remove(path)
    write_tensors(folder / STATE, tensors)
    write_json(folder / FACTS, dict(facts))
    return rows


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what a model was trained with.

    Raises:
      UserError: not the folder of a model.
    """
    return read_json(folder / FACTS, "what a model was trained with; train again")


def read_state(folder: Path, like: State) -> State:
    """Return the state that `write_state` wrote.

    Arrays are on every device; the rows of a bank are divided over them, and a process reads only its own.

    Args:
      like: a state, or the shapes of one, with the same arrays; banks with any number of rows.

    Raises:
      UserError: a file that is missing or not a state like this.
    """
    wanted, path = named_leaves(like), folder / STATE
    found = {}
    with _opened(path) as file:
        expected = set()
        for name, leaf in wanted.items():
            expected |= {f"{name}/{_ROWS}", f"{name}/{_SAMPLE}"} if isinstance(leaf, Bank) else {name}
        if odd := sorted(set(file.keys()) ^ expected):
            raise ValueError(f"it {'has' if odd[0] in file.keys() else 'lacks'} {odd[0]}")  # noqa: SIM118
        for name, leaf in wanted.items():
            if isinstance(leaf, Bank):
                rows = map_rows(path, name)
                if rows.shape[1] != leaf.rows.shape[1]:
                    raise ValueError(f"{name} is {rows.shape[1]} wide, expected {leaf.rows.shape[1]}")
                sample = _tensor(file, f"{name}/{_SAMPLE}", (len(rows),), np.dtype(np.int32))
                found[name] = Bank(_on_devices(rows), sample)
                continue
            found[name] = sharding.replicate(_tensor(file, name, leaf.shape, leaf.dtype))
    return with_leaves(like, found)


def _tensor(file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a tensor of an open file. Raises ValueError: it has another shape or type."""
    value = file.get_tensor(name)
    if (value.shape, value.dtype) != (shape, dtype):
        raise ValueError(f"{name} is {value.dtype} {value.shape}, expected {dtype} {shape}")
    return value


def bank_sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return (rows, width) of each bank of a model. Raises UserError: not the folder of a model."""
    with _opened(folder / STATE) as file:
        names = [key.removesuffix(f"/{_ROWS}") for key in file.keys() if key.endswith(f"/{_ROWS}")]  # noqa: SIM118
        return {name: tuple(file.get_slice(f"{name}/{_ROWS}").get_shape()) for name in names}


def map_rows(path: Path, name: str) -> Float32[np.memmap, "M D"]:
    """Return the rows of a bank, memory-mapped: a slice reads its own rows from the disk and no others.

    Raises:
      ValueError, KeyError: there is no such bank.
    """
    with path.open("rb") as raw:
        header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))[f"{name}/{_ROWS}"]
        begin = raw.tell() + header["data_offsets"][0]
    shape = tuple(header["shape"])
    if header["dtype"] != "F32" or len(shape) != 2 or not all(shape):
        raise ValueError(f"{name} holds {header['dtype']} {list(shape)}, not rows of features")
    return np.memmap(path, np.dtype("<f4"), "r", begin, shape)


def named_leaves(state: State, prefix: str = "") -> dict[str, Any]:
    """Return arrays and banks of nested dicts by their path: "fusion/query/kernel"."""
    found = {}
    for key, value in state.items():
        place = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= named_leaves(value, f"{place}/")
        else:
            found[place] = value
    return found


def with_leaves(like: State, leaves: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a state of the form of `like` with leaves by their path."""
    return {
        key: with_leaves(value, leaves, f"{prefix}{key}/")
        if isinstance(value, Mapping)
        else leaves[f"{prefix}{key}"]
        for key, value in like.items()
    }


def _on_devices(rows: Float32[np.ndarray, "M D"]) -> jax.Array | ShardedRows:
    if sharding.mesh().size == 1:
        return jax.device_put(np.asarray(rows))
    return shard_rows(rows, sharding.mesh(), axis=sharding.AXIS)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not the state of this model ({error}); train again") from None
