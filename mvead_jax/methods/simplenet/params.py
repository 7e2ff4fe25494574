"""Weights of the released SimpleNet: one strict table from its names to ours."""

from __future__ import annotations

from functools import partial

from mvead_jax.backbones.checkpoint import Source, Tensors, batch_norm, fill, linear, same
from mvead_jax.backbones.random_weights import no_numbers
from mvead_jax.methods.simplenet.modeling import Network

_ADAPTOR, _HIDDEN = "pre_projection.layers.0fc", "discriminator.body.block1.0"
_NORM, _TAIL = "discriminator.body.block1.1", "discriminator.tail"


def key_table(width: int, hidden: int) -> dict[str, Source]:
    """Return every key that a checkpoint of this network has, but for the counter of its batch norm."""
    table = {
        f"{_ADAPTOR}.weight": Source("adaptor.kernel", (width, width), linear),
        f"{_ADAPTOR}.bias": Source("adaptor.bias", (width,), same),
        f"{_HIDDEN}.weight": Source("discriminator.hidden.kernel", (hidden, width), linear),
        f"{_HIDDEN}.bias": Source("discriminator.hidden.bias", (hidden,), same),
        f"{_TAIL}.weight": Source("discriminator.tail.kernel", (1, hidden), linear),
    }
    return table | batch_norm(_NORM, "discriminator.norm", hidden)


def from_released(tensors: Tensors, width: int, hidden: int) -> Network:
    """Return the network with the weights of an open checkpoint, running statistics included.

    Raises:
      UserError: an unknown, missing or misshapen key, or a number that is not finite; one line that names it.
    """
    empty = partial(Network, width, hidden, normal=no_numbers)
    what = f"SimpleNet of width {width} and {hidden}"
    left_out = {f"{_NORM}.num_batches_tracked"}
    return fill(empty, key_table(width, hidden), tensors, left_out=left_out, what=what)
