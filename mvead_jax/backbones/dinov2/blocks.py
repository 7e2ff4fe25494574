"""DINOv2's transformer block and its parts: attention, feed-forward networks, and the linear layer of all.

Letters: B images, T tokens, D width, H heads, d = D / H.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.dinov2.config import DinoV2Config
from mvead_jax.runtime.plain import is_plain, mapped_on_cpu


def _einsum(subscripts: str, x: Array, y: Array, dtype: jnp.dtype) -> Array:
    """`jnp.einsum` on operands cast to `dtype`, accumulated and returned in float32."""
    # bfloat16 operands are exact inputs of a float32 sum; float32 ones must not be rounded on the way.
    precision = jax.lax.Precision.DEFAULT if dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return jnp.einsum(
        subscripts, x.astype(dtype), y.astype(dtype), precision=precision, preferred_element_type=jnp.float32
    )


class Linear(nnx.Module):
    """x [B,T,in] -> x kernel + bias [B,T,out]: `dtype` operands, float32 sum and result."""

    def __init__(
        self, inputs: int, outputs: int, *, stddev: float, dtype: jnp.dtype, rngs: nnx.Rngs, bias: bool = True
    ):
        # transformers truncates its normal at +-2, a hundred standard deviations: no truncation at all.
        kernel = jax.nn.initializers.normal(stddev)
        self.kernel = nnx.Param(kernel(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "B T inputs"]) -> Float[Array, "B T outputs"]:
        y = _einsum("bti,io->bto", x, self.kernel[...], self.dtype)
        return y if self.bias is None else y + self.bias[...][None, None, :]


def layer_norm(config: DinoV2Config, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return the norm of every token over its width D."""
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs
    )


class Attention(nnx.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, config: DinoV2Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        options = {"stddev": config.initializer_range, "dtype": dtype, "rngs": rngs}
        self.query = Linear(width, width, bias=config.qkv_bias, **options)
        self.key = Linear(width, width, bias=config.qkv_bias, **options)
        self.value = Linear(width, width, bias=config.qkv_bias, **options)
        self.projection = Linear(width, width, **options)
        self.num_heads = config.num_attention_heads
        self.dtype = dtype

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        batch, tokens, width = x.shape
        head_dim = width // self.num_heads
        query, key, value = (
            part(x).reshape(batch, tokens, self.num_heads, head_dim)
            for part in (self.query, self.key, self.value)
        )
        mixed = attend(query, key, value, self.dtype)
        return self.projection(mixed.reshape(batch, tokens, width))


def attend(
    query: Float[Array, "B T H d"],
    key: Float[Array, "B T H d"],
    value: Float[Array, "B T H d"],
    dtype: jnp.dtype,
) -> Float[Array, "B T H d"]:
    """Return softmax(query key^T / sqrt(d)) value, head by head; the operands of products are cast to `dtype`."""
    if (
        is_plain()
    ):  # other engines know attention by the form that JAX's own has, and have one operation for it
        own = (part.astype(dtype) for part in (query, key, value))
        return jax.nn.dot_product_attention(*own).astype(jnp.float32)
    # The weights of one image fit a CPU's cache, those of a batch do not.
    return mapped_on_cpu(partial(_attend_in_image, dtype=dtype), (query, key, value))


def _attend_in_image(parts: tuple[Float[Array, "T H d"], ...], *, dtype: jnp.dtype) -> Float[Array, "T H d"]:
    """`attend` in one image. Args: parts: query, key, value."""
    query, key, value = (part.transpose(1, 0, 2) for part in parts)
    logits = _einsum("hqd,hkd->hqk", query * query.shape[-1] ** -0.5, key, dtype)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    # Softmax divides after the product: before it, XLA on the CPU evaluates exp twice per weight.
    mixed = _einsum("hqk,hkd->hqd", weights, value, dtype) / weights.sum(axis=-1, keepdims=True)
    return mixed.transpose(1, 0, 2)


def gelu(x: Float[Array, "*cells"]) -> Float[Array, "*cells"]:
    """Return the exact GELU, x Phi(x), as PyTorch computes it: XLA takes twice as long for `nnx.gelu`'s erfc."""
    return 0.5 * x * (1 + jax.lax.erf(x * np.float32(np.sqrt(0.5))))


class MLP(nnx.Module):
    """Two layers with the exact (erf) GELU between."""

    def __init__(self, config: DinoV2Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"stddev": config.initializer_range, "dtype": dtype, "rngs": rngs}
        self.hidden = Linear(config.hidden_size, config.mlp_width, **options)
        self.output = Linear(config.mlp_width, config.hidden_size, **options)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.output(gelu(self.hidden(x)))


class SwiGLU(nnx.Module):
    """silu(gate) * value; `hidden` computes both, the gate in the first half of its outputs."""

    def __init__(self, config: DinoV2Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"stddev": config.initializer_range, "dtype": dtype, "rngs": rngs}
        self.hidden = Linear(config.hidden_size, 2 * config.mlp_width, **options)
        self.output = Linear(config.mlp_width, config.hidden_size, **options)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate, value = jnp.split(self.hidden(x), 2, axis=-1)
        return self.output(nnx.silu(gate) * value)


class Block(nnx.Module):
    """x + scale1 * attention(norm1(x)), then x + scale2 * mlp(norm2(x))."""

    def __init__(self, config: DinoV2Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        scale = jnp.full(config.hidden_size, config.layerscale_value, jnp.float32)
        self.norm1 = layer_norm(config, rngs)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.layer_scale1 = nnx.Param(scale)
        self.norm2 = layer_norm(config, rngs)
        self.mlp = (SwiGLU if config.use_swiglu_ffn else MLP)(config, dtype=dtype, rngs=rngs)
        self.layer_scale2 = nnx.Param(scale)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        x = x + self.layer_scale1[...][None, None, :] * self.attention(self.norm1(x))
        return x + self.layer_scale2[...][None, None, :] * self.mlp(self.norm2(x))
