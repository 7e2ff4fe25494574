"""The parts of a DINOv2 block by XLA and by PyTorch, for the benchmark `layers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from mvead_jax.backbones.dinov2.blocks import attend, gelu

PRODUCTS, ATTENTION, REST = "products with weights", "attention", "norms, GELU, residuals"
_HEAD = 64  # the width of a head of every DINOv2

Parts = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Inputs:
    """What the parts of a block are given, as random numbers.

    Letters: B images, T tokens, D width, W width within the MLP (another than D), H heads, d = D / H.

    Attributes:
      x: features. later: those of the second norm. wide: those within the MLP. weights: of the six products. heads:
        query, key and value.
    """

    x: Float32[np.ndarray, "B T D"]
    later: Float32[np.ndarray, "B T D"]
    wide: Float32[np.ndarray, "B T W"]
    weights: list[Float32[np.ndarray, "inputs outputs"]]
    heads: list[Float32[np.ndarray, "B T H d"]]

    @classmethod
    def drawn(cls, batch: int, tokens: int, width: int, hidden: int) -> Inputs:
        """Return inputs of batch x tokens features of this width, and of the MLP's hidden width."""
        random = np.random.default_rng(0)

        def draw(*shape: int) -> Float32[np.ndarray, "*shape"]:
            return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))

        shapes = [(width, width)] * 4 + [(width, hidden), (hidden, width)]
        return cls(
            draw(batch, tokens, width),
            draw(batch, tokens, width),
            draw(batch, tokens, hidden),
            [draw(*shape) for shape in shapes],
            [draw(batch, tokens, width // _HEAD, _HEAD) for _ in range(3)],
        )


def by_xla(inputs: Inputs, precision: str) -> Parts:
    """Return the parts as compiled by XLA; in bfloat16 only the operands of products are rounded."""
    dtype = jnp.dtype(precision)
    x, later, wide = (jnp.asarray(own) for own in (inputs.x, inputs.later, inputs.wide))
    weights, heads = jax.tree.map(jnp.asarray, (inputs.weights, inputs.heads))

    @jax.jit
    def products(x, wide, weights):
        options = {
            "precision": "highest" if precision == "float32" else None,
            "preferred_element_type": jnp.float32,
        }
        given = [wide if len(own) == wide.shape[-1] else x for own in weights]
        return [
            jnp.matmul(a.astype(dtype), own.astype(dtype), **options)
            for a, own in zip(given, weights, strict=True)
        ]

    @jax.jit
    def left(x, later, wide):
        def norm(x):
            centred = x - x.mean(-1, keepdims=True)
            return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)

        return norm(x), norm(later) + x, gelu(wide)

    attention = jax.jit(partial(attend, dtype=dtype))
    return {
        PRODUCTS: lambda: jax.block_until_ready(products(x, wide, weights)),
        ATTENTION: lambda: jax.block_until_ready(attention(*heads)),
        REST: lambda: jax.block_until_ready(left(x, later, wide)),
    }


def by_torch(inputs: Inputs, precision: str) -> Parts:
    """Return the parts by PyTorch, which holds all in this precision."""

    def typed(own: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(own).to(getattr(torch, precision))

    x, later, wide = (typed(own) for own in (inputs.x, inputs.later, inputs.wide))
    weights, heads = [[typed(own) for own in every] for every in (inputs.weights, inputs.heads)]

    def products():
        given = [wide if len(own) == wide.shape[-1] else x for own in weights]
        return [torch.matmul(a, own) for a, own in zip(given, weights, strict=True)]

    def attention():
        return functional.scaled_dot_product_attention(*(own.transpose(1, 2) for own in heads))

    def left():
        normed = functional.layer_norm(x, x.shape[-1:])
        return normed, functional.layer_norm(later, x.shape[-1:]) + x, functional.gelu(wide)

    parts = {PRODUCTS: products, ATTENTION: attention, REST: left}
    return {name: torch.inference_mode()(part) for name, part in parts.items()}
