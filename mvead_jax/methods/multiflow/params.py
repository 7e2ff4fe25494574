"""Weights by the names of the released code: one strict table from its state dictionary to ours.

Its couplings are nodes of a graph of modules: one node for the condition, one for each view, then a
permutation and a coupling in turn. Coupling k of a flow with condition and five views is node 7 + 2 k.
View 0 is the camera above; the convolutions of its messages have names of their own. The names of the others
(cross_convAB from view A to view B) hold for at most ten views.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx

from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
from mvead_jax.methods.multiflow.graph import Graph
from mvead_jax.runtime.errors import UserError

_TYPES = ("F32", "F16", "BF16")


class Source(NamedTuple):
    """One tensor of the released code's state dictionary.

    Attributes:
      target: path of our parameter in `MultiFlow`.
      row: which row of it (a view or an edge) the tensor is.
      shape: in the state dictionary: kernels are [out, in, k, k], gains [1].
    """

    target: tuple[Any, ...]
    row: int
    shape: tuple[int, ...]


def key_table(config: FlowConfig) -> dict[str, Source]:
    """Return every key that a complete state dictionary of a flow has, and where its tensor goes."""
    views, half = config.graph.views, config.width // 2
    rest, extra = config.width - half, int(config.condition)
    table: dict[str, Source] = {}
    for number, side in enumerate(config.kernels):
        node = views + extra + 1 + 2 * number
        for network, inputs, outputs in (("s1", half + extra, 2 * rest), ("s2", rest + extra, 2 * half)):
            prefix = f"net.module_list.{node}.{network}."
            path = ("couplings", number, network)
            into, out_of = (config.hidden, inputs, side, side), (outputs, config.hidden, side, side)
            for view in range(views):
                table[f"{prefix}gamma{view}"] = Source((*path, "gain"), view, (1,))
                table |= _convolution(f"{prefix}conv_scale{view}_0", (*path, "inner"), view, into)
                table |= _convolution(f"{prefix}conv_scale{view}_1", (*path, "own"), view, out_of)
            for edge, ends in enumerate(config.graph.edges):
                table |= _convolution(prefix + _edge_name(*ends), (*path, "message"), edge, out_of)
    return table


def released_graph(keys: Iterable[str]) -> Graph:
    """Return the graph whose messages a state dictionary has, by the names of its convolutions."""
    views, edges = set(), set()
    for key in keys:
        if found := re.search(r"\.gamma(\d+)$", key):
            views.add(int(found[1]))
        elif found := re.search(r"\.topview_(up|down)(\d+)\.", key):
            ends = (0, int(found[2]) + 1)
            edges.add(ends if found[1] == "up" else ends[::-1])
        elif found := re.search(r"\.cross_conv(\d)(\d)\.", key):
            edges.add((int(found[1]), int(found[2])))
    return Graph(len(views), tuple(sorted(edges)))


def _edge_name(source: int, target: int) -> str:
    if source == 0:
        return f"topview_up{target - 1}"
    return f"topview_down{source - 1}" if target == 0 else f"cross_conv{source}{target}"


def _convolution(key: str, path: tuple, row: int, shape: tuple[int, ...]) -> dict[str, Source]:
    return {
        f"{key}.weight": Source((*path, "kernel"), row, shape),
        f"{key}.bias": Source((*path, "bias"), row, shape[:1]),
    }


def load_released(config: FlowConfig, tensors: Mapping[str, np.ndarray], name: str) -> MultiFlow:
    """Return the flow with the released code's weights.

    Args:
      config: of the flow that the weights belong to.
      tensors: the state dictionary; all keys of the table and no others.
      name: of the file, for messages.

    Raises:
      UserError: a missing or an unknown key, a wrong shape, or numbers that are not finite; it names the key.
    """
    table = key_table(config)
    _check_keys(table, set(tensors), name)
    graph, state = nnx.split(nnx.eval_shape(lambda: MultiFlow(config, nnx.Rngs(0))))
    flat = dict(nnx.to_flat_state(state))
    arrays = {path: np.zeros(leaf.shape, np.float32) for path, leaf in flat.items()}
    for key, source in table.items():
        tensor = np.asarray(tensors[key])
        if tensor.shape != source.shape:
            raise UserError(f"{name}: key {key} has shape {tensor.shape}; this flow needs {source.shape}")
        tensor = tensor.astype(np.float32)
        if bad := np.count_nonzero(~np.isfinite(tensor)):
            raise UserError(f"{name}: key {key} has {bad} numbers that are not finite; copy the file again")
        arrays[source.target][source.row] = _to_ours(tensor)
    loaded = [(path, leaf.replace(jnp.asarray(arrays[path]))) for path, leaf in flat.items()]
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def read_released(config: FlowConfig, path: Path) -> MultiFlow:
    """Return the flow of a checkpoint of the released code that was converted to safetensors.

    Raises:
      UserError: as `load_released`; or no such file, or other element types than floats of 16 or 32 bits.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            _check_keys(key_table(config), set(file.keys()), str(path))
            tensors = {}
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                if (kind := file.get_slice(key).get_dtype()) not in _TYPES:
                    raise UserError(f"{path}: key {key} is {kind}; weights must be {', '.join(_TYPES)}")
                tensors[key] = file.get_tensor(key)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); put the checkpoint there") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}); copy the file again") from None
    return load_released(config, tensors, str(path))


def released_tensors(config: FlowConfig, state: nnx.State) -> dict[str, np.ndarray]:
    """Return a state of `MultiFlow` (its parameters, or their gradients) by the released code's names."""
    flat = {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}
    return {key: _to_theirs(flat[own.target][own.row], own.shape) for key, own in key_table(config).items()}


def _to_ours(tensor: np.ndarray) -> np.ndarray:
    """Return a kernel [out,in,k,k] as [k,k,in,out]; a bias as it is; a gain [1] as a number."""
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor if len(tensor) > 1 else tensor[0]


def _to_theirs(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `_to_ours`."""
    # safetensors writes the bytes as they lie in memory.
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array).reshape(shape)


def _check_keys(table: Mapping[str, Source], keys: set[str], name: str) -> None:
    """Raise a UserError unless the keys are the table's."""
    for kind, odd in (("unknown", keys - set(table)), ("missing", set(table) - keys)):
        if odd:
            first, *rest = sorted(odd)
            more = f" and {len(rest)} more" if rest else ""
            raise UserError(
                f"{name}: {kind} key {first}{more}; the checkpoint must be of a flow with this number of "
                "views, this graph, these couplings and this noise"
            )
