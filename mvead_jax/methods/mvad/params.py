"""Weights of the released MVAD: how its checkpoint becomes the state of `MVADNetwork`.

One strict table names every key. An unknown, missing or misshapen key, or a number that is not finite, is an
error that names the file and the key. Left out, because nothing computes with them, are the teacher
("net_t", which is a backbone here), the counters of batch norm, and the two linear layers that the class of
the released log had in each attention and never called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.methods.mvad.layers import Conv, Linear, Upsample
from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig
from mvead_jax.runtime.errors import UserError

_LEFT_OUT = re.compile(r"net_t\..+|.+\.num_batches_tracked|mff_oce\.mvas\d+\.(cv|mv)_linear\.(weight|bias)")


class Source(NamedTuple):
    """Say which of our leaves a key of the checkpoint fills, and how.

    Attributes:
      path: of the leaf, as in `nnx.to_flat_state`.
      transform: from PyTorch's layout to ours.
    """

    path: tuple[str | int, ...]
    transform: Callable[[np.ndarray], np.ndarray]


def key_table(network: MVADNetwork) -> dict[str, Source]:
    """Return the table of all keys that fill a network, by the released names."""
    table = {}
    for path, module in nnx.iter_modules(network):
        leaves = _leaves(module)
        if not leaves:
            continue
        prefix = _released_prefix(path)
        for theirs, (ours, transform) in leaves.items():
            if getattr(module, ours) is not None:
                table[f"{prefix}.{theirs}"] = Source((*path, ours), transform)
    return table


def _leaves(module: nnx.Module) -> dict[str, tuple[str, Callable]]:
    """Return {released leaf: (our leaf, transform)} of a module that has parameters of its own."""
    same = {"bias": ("bias", np.asarray)}
    match module:
        case BatchNorm():
            running = {"running_mean": ("mean", np.asarray), "running_var": ("variance", np.asarray)}
            return same | running | {"weight": ("scale", np.asarray)}
        case nnx.LayerNorm():
            return same | {"weight": ("scale", np.asarray)}
        case Conv():  # output, input, height, width
            return same | {"weight": ("kernel", lambda x: x.transpose(2, 3, 1, 0))}
        case Upsample():  # input, output, height, width
            return {"weight": ("kernel", lambda x: x.transpose(2, 3, 0, 1))}
        case Linear():  # output, input
            return same | {"weight": ("kernel", np.transpose)}
    return {}


def _released_prefix(path: tuple[str | int, ...]) -> str:
    """Return the released name of a module.

    norm11 is the first norm of the first block of scale 1, norm121 the second norm of its second block, and
    mlp11 the MLP of that block.
    """
    part, *rest = path
    if part != "fusion":
        return ".".join([{"neck": "mff_oce", "decoder": "net_s"}[part], *map(str, rest)])
    scale, block, module, *inner = rest
    number = str(block) if block else ""
    match module:
        case "norm1" | "norm2":
            return f"mff_oce.norm{scale}{module[-1]}{number}"
        case "mlp":
            return f"mff_oce.mlp{scale}{number}.{ {'hidden': 0, 'output': 3}[inner[0]] }"
    raise UserError(
        "MVAD: the released code has no projections before the attention, so its weights fit only "
        "projections=none"
    )


def load_released(path: Path | str, config: NetworkConfig) -> MVADNetwork:
    """Return the network with the weights of a safetensors file in the released names.

    Raises:
      UserError: the file can't be read, or does not fit; one line that names file and key.
    """
    try:
        arrays = safetensors.numpy.load_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path}: cannot be read as safetensors ({error}); save a PyTorch checkpoint's state dictionary "
            "with safetensors.torch.save_file first"
        ) from None
    return from_released(arrays, config, str(path))


def from_released(arrays: Mapping[str, np.ndarray], config: NetworkConfig, name: str) -> MVADNetwork:
    """Return the network with a state dictionary in the released names; `name` is the file's, for errors.

    Raises:
      UserError: an unknown, missing or misshapen key, or a number that is not finite.
    """
    network = nnx.eval_shape(lambda: MVADNetwork(config, nnx.Rngs(0)))
    graph, state = nnx.split(network)
    table = key_table(network)
    keys = {key for key in arrays if not _LEFT_OUT.fullmatch(key)}
    for kind, odd in (("unknown", keys - set(table)), ("missing", set(table) - keys)):
        if odd:
            first, *rest = sorted(odd)
            more = f" and {len(rest)} more" if rest else ""
            raise UserError(f"{name}: {kind} key {first}{more}; this is no MVAD checkpoint of {config}")
    leaves = dict(nnx.to_flat_state(state))
    loaded = []
    for key, source in table.items():
        leaf = leaves[source.path]
        array = np.asarray(arrays[key], np.float32)
        if array.ndim != len(leaf.shape) or source.transform(array).shape != leaf.shape:
            raise UserError(f"{name}: key {key} of shape {array.shape} does not fit {config}")
        if not np.isfinite(array).all():
            raise UserError(f"{name}: key {key} has numbers that are not finite")
        array = np.ascontiguousarray(source.transform(array))
        loaded.append((source.path, leaf.replace(jnp.asarray(array))))
    return nnx.merge(graph, nnx.from_flat_state(loaded))
