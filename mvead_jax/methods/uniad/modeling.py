"""UniAD's transformer: it gives features back without a way to copy them.

You et al., "A unified model for multi-class anomaly detection", NeurIPS 2022, as the released code builds it: no
position attends to its own neighbourhood, and every layer of the decoder starts anew from a learned query. Written
for one image; N tokens are the positions of a map, row after row. The caller vmaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.methods.linear import Linear, uniform, xavier_uniform
from mvead_jax.methods.positions import position_map
from mvead_jax.methods.uniad.attention import Attention, dropout, neighbour_mask
from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class NetworkConfig:
    """Describe the network; the defaults are the released code's. inputs: width of the features it gives back."""

    inputs: int = 272
    grid: tuple[int, int] = (14, 14)
    width: int = 256
    heads: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 4
    feedforward: int = 1024
    neighbours: tuple[int, int] = (7, 7)
    position: Literal["learned", "sine"] = "learned"
    dropout: float = 0.1


Drop = Callable[[Array], Array]


class FeedForward(nnx.Module):
    """Linear layer, ReLU, dropout, linear layer."""

    def __init__(self, width: int, hidden: int, *, normal: Normal):
        self.linear1, self.linear2 = (
            Linear(width, hidden, normal=normal),
            Linear(hidden, width, normal=normal),
        )

    def __call__(self, x: Float[Array, "N C"], drop: Drop) -> Float[Array, "N C"]:
        return self.linear2(drop(jax.nn.relu(self.linear1(x))))


class EncoderLayer(nnx.Module):
    """Attention to the layer's own tokens, then the feed-forward part, each followed by its norm."""

    def __init__(self, config: NetworkConfig, *, packed: Array, normal: Normal):
        width = config.width
        self.self_attn = Attention(width, config.heads, packed=packed, normal=normal)
        self.feed = FeedForward(width, config.feedforward, normal=normal)
        self.norm1, self.norm2 = _norm(width), _norm(width)

    def __call__(
        self, x: Float[Array, "N C"], position: Float[Array, "N C"], mask: Bool[Array, "N N"], drop: Drop
    ) -> Float[Array, "N C"]:
        own = x + position
        x = self.norm1(x + drop(self.self_attn(own, own, x, mask, drop)))
        return self.norm2(x + drop(self.feed(x, drop)))


class DecoderLayer(nnx.Module):
    """A learned query attends to the encoder's output, then to the layer before; feed-forward; three norms."""

    def __init__(self, config: NetworkConfig, *, query: Array, packed: tuple[Array, Array], normal: Normal):
        width = config.width
        self.learned_embed = nnx.Param(query)
        self.self_attn = Attention(width, config.heads, packed=packed[0], normal=normal)
        self.multihead_attn = Attention(width, config.heads, packed=packed[1], normal=normal)
        self.feed = FeedForward(width, config.feedforward, normal=normal)
        self.norm1, self.norm2, self.norm3 = _norm(width), _norm(width), _norm(width)

    def __call__(
        self,
        before: Float[Array, "N C"],
        memory: Float[Array, "N C"],
        position: Float[Array, "N C"],
        mask: Bool[Array, "N N"],
        drop: Drop,
    ) -> Float[Array, "N C"]:
        """Return the layer's output. Args: before: output of the layer before. memory: of the encoder."""
        x = self.learned_embed[...]
        x = self.norm1(x + drop(self.self_attn(x + position, memory + position, memory, mask, drop)))
        x = self.norm2(x + drop(self.multihead_attn(x + position, before + position, before, mask, drop)))
        return self.norm3(x + drop(self.feed(x, drop)))


class LearnedPosition(nnx.Module):
    """A map of positions: half of the channels learned for each column, then half for each row."""

    def __init__(self, grid: tuple[int, int], width: int, *, normal: Normal):
        drawn = (0.5 + 0.5 * uniform(normal, (side, width // 2)) for side in grid)  # within 0 and 1
        self.row_embed, self.col_embed = (nnx.Param(own) for own in drawn)

    def __call__(self) -> Float[Array, "N C"]:
        rows, columns = self.row_embed[...], self.col_embed[...]
        shape = (len(rows), len(columns), rows.shape[1])
        parts = jnp.broadcast_to(columns[None], shape), jnp.broadcast_to(rows[:, None], shape)
        return jnp.concatenate(parts, axis=-1).reshape(len(rows) * len(columns), -1)


class Network(nnx.Module):
    """The transformer between two linear layers."""

    def __init__(self, config: NetworkConfig, *, normal: Normal):
        self.config, width = config, config.width
        tokens = config.grid[0] * config.grid[1]
        self.input_proj = Linear(config.inputs, width, normal=normal)
        learned = config.position == "learned"
        self.pos_embed = LearnedPosition(config.grid, width, normal=normal) if learned else None
        # One draw for all layers of a stack: the released code copies them before it draws the rest.
        packed = [xavier_uniform(normal, width, 3 * width) for _ in range(3)]
        query = jnp.asarray(normal((tokens, width)))
        self.encoder = nnx.List(
            [EncoderLayer(config, packed=packed[0], normal=normal) for _ in range(config.encoder_layers)]
        )
        self.decoder = nnx.List(
            [
                DecoderLayer(config, query=query, packed=tuple(packed[1:]), normal=normal)
                for _ in range(config.decoder_layers)
            ]
        )
        self.norm = _norm(width)
        self.output_proj = Linear(width, config.inputs, normal=normal)

    def __call__(self, tokens: Float[Array, "N C"], key: Key[Array, ""] | None = None) -> Float[Array, "N C"]:
        """Return the features of one image as the network gives them back. Args: key: of dropout; None: off."""
        return self.named(tokens, key)["reconstruction"]

    def named(
        self, tokens: Float[Array, "N C"], key: Key[Array, ""] | None = None
    ) -> dict[str, Float[Array, "N C"]]:
        """Return "encoder0" ... and "decoder0" ..., the outputs of the layers, and "reconstruction"."""
        position, mask = self.position(tokens.dtype), jnp.asarray(self.mask())
        drop = _drops(self.config.dropout, key)
        found, x = {}, self.input_proj(tokens)
        for number, layer in enumerate(self.encoder):
            found[f"encoder{number}"] = x = layer(x, position, mask, drop)
        memory = x
        for number, layer in enumerate(self.decoder):
            found[f"decoder{number}"] = x = layer(x, memory, position, mask, drop)
        return found | {"reconstruction": self.output_proj(self.norm(x))}

    def position(self, dtype: jnp.dtype = jnp.float32) -> Float[Array, "N C"]:
        """Return the map that is added to queries and keys."""
        if self.pos_embed is not None:
            return self.pos_embed()
        return position_map(*self.config.grid, self.config.width).reshape(-1, self.config.width).astype(dtype)

    def mask(self) -> Bool[Array, "N N"]:
        """Return which tokens may attend to which."""
        return neighbour_mask(*self.config.grid, self.config.neighbours)


def _drops(rate: float, key: Key[Array, ""] | None) -> Drop:
    """Return dropout whose every call draws anew."""
    if key is None:
        return lambda x: x

    def keys() -> Iterator[Array]:
        number = 0
        while True:
            yield jax.random.fold_in(key, number)
            number += 1

    own = keys()
    return lambda x: dropout(x, rate, next(own))


def _norm(width: int) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))


def check_map(height: int, width: int, neighbours: tuple[int, int]) -> None:
    """Raise a UserError where a position of the map has nothing that it may attend to."""
    if not neighbour_mask(height, width, neighbours).any(1).all():
        raise UserError(
            f"config uniad.neighbours={neighbours}: on a map of {height} x {width} positions they leave some "
            "nothing to attend to; take fewer, or a larger data.image_size"
        )
