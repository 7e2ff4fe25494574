"""Weights of the released RD4AD: one strict table from its names, "neck." and "decoder." before them, to ours."""

from __future__ import annotations

import re
from functools import partial

from flax import nnx

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.backbones.checkpoint import Source, Tensors, batch_norm, convolution, fill
from mvead_jax.backbones.random_weights import no_numbers
from mvead_jax.backbones.resnet.blocks import Convolution, Enlargement
from mvead_jax.methods.rd4ad.modeling import Network, NetworkConfig

# What nothing computes with: a convolution and a batch norm of the neck, and the counters of batch norms.
_LEFT_OUT = re.compile(r"neck\.(conv4|bn4)\..+|.+\.num_batches_tracked")


def key_table(config: NetworkConfig) -> dict[str, Source]:
    """Return every key that a checkpoint of this network has, but for those left out."""
    table = {}
    for path, module in nnx.iter_modules(nnx.eval_shape(partial(Network, config, normal=no_numbers))):
        name = ".".join(map(str, path))
        match module:
            case BatchNorm():
                table |= batch_norm(name, name, module.scale.shape[0])
            case Convolution():
                rows, columns, inputs, outputs = module.kernel.shape
                shape = outputs, inputs, rows, columns
                table[f"{name}.weight"] = Source(f"{name}.kernel", shape, convolution)
            case Enlargement():
                rows, columns, inputs, outputs = module.kernel.shape
                shape = inputs, outputs, rows, columns
                table[f"{name}.weight"] = Source(f"{name}.kernel", shape, lambda x: x.transpose(2, 3, 0, 1))
    return table


def from_released(tensors: Tensors, config: NetworkConfig) -> Network:
    """Return the network with the weights of an open checkpoint, evaluation statistics included.

    Raises:
      UserError: an unknown, missing or misshapen key, or a number that is not finite; one line that names it.
    """
    left_out = {key for key in tensors.keys() if _LEFT_OUT.fullmatch(key)}  # noqa: SIM118
    empty = partial(Network, config, normal=no_numbers)
    return fill(empty, key_table(config), tensors, left_out=left_out, what=f"RD4AD of {config}")


def unused(tensors: Tensors) -> set[str]:
    """Return the parameters of a released checkpoint that no result depends on."""
    return {key for key in tensors.keys() if re.match(r"neck\.(conv4|bn4)\.(weight|bias)$", key)}  # noqa: SIM118
