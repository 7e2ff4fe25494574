"""Weights of the released UniAD's reconstruction: one strict table from its names to ours."""

from __future__ import annotations

from functools import partial

from mvead_jax.backbones.checkpoint import Source, Tensors, fill, linear, same
from mvead_jax.backbones.random_weights import no_numbers
from mvead_jax.methods.uniad.modeling import Network, NetworkConfig


def key_table(config: NetworkConfig) -> dict[str, Source]:
    """Return every key that a checkpoint of this network has."""
    width, hidden = config.width, config.feedforward
    table = _linear("input_proj", "input_proj", config.inputs, width)
    table |= _linear("output_proj", "output_proj", width, config.inputs)
    if config.position == "learned":
        for name, side in zip(("row_embed", "col_embed"), config.grid, strict=True):
            table[f"pos_embed.{name}.weight"] = Source(f"pos_embed.{name}", (side, width // 2), same)
    stacks = (
        ("encoder", config.encoder_layers, ("self_attn",), 2),
        ("decoder", config.decoder_layers, ("self_attn", "multihead_attn"), 3),
    )
    for stack, layers, attentions, norms in stacks:
        for number in range(layers):
            theirs, ours = f"transformer.{stack}.layers.{number}", f"{stack}.{number}"
            if stack == "decoder":
                shape = (config.grid[0] * config.grid[1], width)
                table[f"{theirs}.learned_embed.weight"] = Source(f"{ours}.learned_embed", shape, same)
            for name in attentions:
                table |= _attention(f"{theirs}.{name}", f"{ours}.{name}", width)
            table |= _linear(f"{theirs}.linear1", f"{ours}.feed.linear1", width, hidden)
            table |= _linear(f"{theirs}.linear2", f"{ours}.feed.linear2", hidden, width)
            for own in range(1, norms + 1):
                table |= _norm(f"{theirs}.norm{own}", f"{ours}.norm{own}", width)
    return table | _norm("transformer.decoder.norm", "norm", width)


def from_released(tensors: Tensors, config: NetworkConfig) -> Network:
    """Return the network with the weights of an open checkpoint.

    Raises:
      UserError: an unknown, missing or misshapen key, or a number that is not finite; one line that names it.
    """
    empty = partial(Network, config, normal=no_numbers)
    return fill(empty, key_table(config), tensors, what=f"UniAD of {config}")


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> dict[str, Source]:
    return {
        f"{theirs}.weight": Source(f"{ours}.kernel", (outputs, inputs), linear),
        f"{theirs}.bias": Source(f"{ours}.bias", (outputs,), same),
    }


def _attention(theirs: str, ours: str, width: int) -> dict[str, Source]:
    packed = _linear("in_proj", f"{ours}.in_proj", width, 3 * width)
    renamed = {f"{theirs}.{key.replace('.', '_')}": source for key, source in packed.items()}
    return renamed | _linear(f"{theirs}.out_proj", f"{ours}.out_proj", width, width)


def _norm(theirs: str, ours: str, width: int) -> dict[str, Source]:
    leaves = {"weight": "scale", "bias": "bias"}
    return {f"{theirs}.{key}": Source(f"{ours}.{own}", (width,), same) for key, own in leaves.items()}
