"""How a checkpoint fills a network: one strict table for each way in which checkpoints name their tensors.

A table has every key of a complete checkpoint: its place in the network, its shape in the file, and the
transform to ours. An unknown or missing key, a wrong shape or element type, or a parameter in use that is not
finite is an error that names the file and the key: nothing is skipped silently, nothing keeps its random
initial value.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from mvead_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

WIDENED = ("F32", "F16", "BF16")  # element types of weights; halves are widened exactly
_WRAPPERS = r"(?:(?:module|model|backbone|dinov2)\.)*"  # what stands before the names of a wrapped network


Transform = Callable[[np.ndarray], Any]  # from an array of the file to one of the network, or to several


class Source(NamedTuple):
    """One tensor of a checkpoint.

    Attributes:
      target: its place in the network; several where the file holds them in one tensor.
      shape: in the file.
      transform: from the file's array to the network's; to as many arrays as there are targets.
    """

    target: str | tuple[str, ...]
    shape: tuple[int, ...]
    transform: Transform


class Tensors(Protocol):
    """A checkpoint that is open: what errors call it, its keys, and each tensor on demand."""

    name: str

    def keys(self) -> set[str]: ...

    def shape(self, key: str) -> tuple[int, ...]: ...

    def kind(self, key: str) -> str:
        """Return the element type, as safetensors names it."""
        ...

    def read(self, key: str) -> np.ndarray: ...


class Arrays:
    """A checkpoint whose tensors are arrays in memory."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]):
        self.name, self._arrays = name, arrays

    def keys(self) -> set[str]:
        return set(self._arrays)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._arrays[key].shape

    def kind(self, key: str) -> str:
        dtype = self._arrays[key].dtype
        return "BF16" if dtype == ml_dtypes.bfloat16 else f"{dtype.kind.upper()}{8 * dtype.itemsize}"

    def read(self, key: str) -> np.ndarray:
        return self._arrays[key]


class Renamed:
    """A checkpoint under other names: `keys` maps a name here to that of the file."""

    def __init__(self, tensors: Tensors, keys: Mapping[str, str]):
        self.name, self._tensors, self._keys = tensors.name, tensors, keys

    def keys(self) -> set[str]:
        return set(self._keys)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._tensors.shape(self._keys[key])

    def kind(self, key: str) -> str:
        return self._tensors.kind(self._keys[key])

    def read(self, key: str) -> np.ndarray:
        return self._tensors.read(self._keys[key])


# ---- transforms from PyTorch's layouts


def same(array: np.ndarray) -> np.ndarray:
    """Return the array as it is."""
    return array


def linear(array: np.ndarray) -> np.ndarray:
    """Return linear weights [out,in] as [in,out]."""
    return array.T


def convolution(array: np.ndarray) -> np.ndarray:
    """Return convolution kernels [out,in,row,column] as [row,column,in,out]."""
    return array.transpose(2, 3, 1, 0)


def batch_norm(theirs: str, ours: str, width: int) -> dict[str, Source]:
    """Return the rows of a table for one batch norm, by its name in the checkpoint and in the network."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    return {f"{theirs}.{key}": Source(f"{ours}.{own}", (width,), same) for key, own in names.items()}


# ---- filling a network


def fill(
    empty: Callable[[], nnx.Module],
    table: Mapping[str, Source],
    tensors: Tensors,
    *,
    left_out: Collection[str] = (),
    what: str,
) -> nnx.Module:
    """Return the network that `empty` makes, with the weights of a checkpoint.

    All keys are checked by name, shape and type; only those are read that the network has, which may be cut
    off. Parameters become float32.

    Args:
      empty: makes the network; only its shapes are used.
      table: every key that a complete checkpoint has.
      left_out: further keys that may be there; nothing reads them.
      what: the table describes, for errors, as "a resnet18".

    Raises:
      UserError: one line that names the file and the key.
    """
    check_keys(table, tensors, left_out=left_out, what=what)
    graph, state = nnx.split(nnx.eval_shape(empty))
    wanted = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    loaded = {}
    for key, source in table.items():
        targets = (source.target,) if isinstance(source.target, str) else source.target
        if not wanted.keys() & set(targets):
            continue
        array = tensors.read(key).astype(np.float32)
        if bad := np.count_nonzero(~np.isfinite(array)):
            raise UserError(f"{tensors.name}: key {key} has {bad} numbers that are not finite")
        arrays = source.transform(array)
        for target, one in zip(targets, arrays if len(targets) > 1 else (arrays,), strict=True):
            path, leaf = wanted[target]
            assert one.shape == leaf.shape, (key, target, one.shape, leaf.shape)
            loaded[target] = (path, leaf.replace(jnp.asarray(np.ascontiguousarray(one))))
    assert loaded.keys() == wanted.keys(), f"the table does not set {sorted(wanted.keys() ^ loaded.keys())}"
    return nnx.merge(graph, nnx.from_flat_state(list(loaded.values())))


def check_keys(
    table: Mapping[str, Source], tensors: Tensors, *, left_out: Collection[str] = (), what: str
) -> None:
    """Raise a UserError unless a checkpoint has the table's keys in their shapes, and no others."""
    keys = tensors.keys() - set(left_out)
    for kind, odd, said in (
        ("extra", keys - table.keys(), "no such key"),
        ("missing", table.keys() - keys, "such a key"),
    ):
        if odd:
            first, *rest = sorted(odd)
            more = f" and {len(rest)} more" if rest else ""
            raise UserError(
                f"{tensors.name}: {kind} key {first}{more}; {what} has {said}: use the files of one model"
            )
    for key, source in table.items():
        if (shape := tensors.shape(key)) != source.shape:
            raise UserError(f"{tensors.name}: key {key} has shape {shape}; in {what} it is {source.shape}")
        if (kind := tensors.kind(key)) not in WIDENED:
            raise UserError(f"{tensors.name}: key {key} is {kind}; weights must be {', '.join(WIDENED)}")


def unwrapped(tensors: Tensors, own: str, heads: Sequence[str], bare_heads: Sequence[str] = ()) -> Tensors:
    """Return a fine-tuned checkpoint as its network alone, and say what was taken off and left out.

    The prefix of a wrapper (module., model., backbone., dinov2., one in the other) is taken off all names.
    The head of a wrapped network stands beside it, inside of any of its wrappers: module.head.weight.

    Args:
      own: regular expression for the start of the network's own names, by which the prefix is found.
      heads: starts of the names of heads that a wrapped network may have.
      bare_heads: starts of those that a network without a prefix may have.

    Raises:
      UserError: a key that has neither the prefix nor the name of a head.
    """
    keys = sorted(tensors.keys())
    found = Counter(match[1] for key in keys if (match := re.match(f"({_WRAPPERS})(?:{own})", key)))
    prefix = found.most_common(1)[0][0] if found else ""
    outer = {prefix[: match.end()] for match in re.finditer(r"^|\.", prefix)}
    beside = tuple(before + head for before in outer for head in (heads if prefix else bare_heads))
    left = [key for key in keys if beside and key.startswith(beside)]
    for key in sorted(set(keys) - set(left)):
        if not key.startswith(prefix):
            raise UserError(
                f"{tensors.name}: extra key {key}; the names of the network begin with {prefix!r} here, and "
                f"beside it only {', '.join(heads)} may stand"
            )
    if prefix or left:
        said = [f"the prefix {prefix!r} is taken off all names"] if prefix else []
        said += [f"left out: {', '.join(left)}"] if left else []
        log.warning("%s: a fine-tuned checkpoint; %s", tensors.name, "; ".join(said))
    return Renamed(tensors, {key.removeprefix(prefix): key for key in keys if key not in left})
