"""DINOv2 in Flax NNX: a frozen vision transformer whose every block is a tap.

A port of Hugging Face's `Dinov2Model` and `Dinov2WithRegistersModel` (Oquab et al. 2023, arXiv:2304.07193;
Darcet et al. 2023, arXiv:2309.16588). Tokens are ordered CLS, registers, patches (row by row).

Letters: B images, N patches, T = 1 + R + N tokens (R registers), D width, H heads, P patch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.plain import is_plain


@dataclass(frozen=True)
class DinoV2Config:
    """The fields of a Hugging Face `config.json` that shape the network; defaults of its `Dinov2Config`.

    `num_register_tokens > 0` is the model type `dinov2_with_registers`, which also resizes its position
    embeddings by another rule (`resize_positions`).
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    use_swiglu_ffn: bool = False
    initializer_range: float = 0.02
    with_registers: bool = False
    num_register_tokens: int = 0

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's feed-forward part."""
        width = int(self.hidden_size * self.mlp_ratio)
        # SwiGLU has three matrices where the MLP has two: two thirds of the width, rounded up to 8s.
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else width

    @property
    def trained_grid(self) -> int:
        """Patches along one side of the square grid that the position embeddings were trained on."""
        return self.image_size // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch: CLS and registers."""
        return 1 + self.num_register_tokens


def _size(width: int, blocks: int, heads: int, swiglu: bool, registers: bool) -> DinoV2Config:
    return DinoV2Config(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=518,
        use_swiglu_ffn=swiglu,
        with_registers=registers,
        num_register_tokens=4 if registers else 0,
    )


_SHAPES = {
    "small": (384, 12, 6, False),
    "base": (768, 12, 12, False),
    "large": (1024, 24, 16, False),
    "giant": (1536, 40, 24, True),
}
DINOV2_SIZES: dict[str, DinoV2Config] = {
    f"dinov2-{size}{suffix}": _size(*shape, registers=bool(suffix))
    for suffix in ("", "-registers")
    for size, shape in _SHAPES.items()
}


def resize_positions(
    positions: Float[Array, "1 cells+1 D"], grid: tuple[int, int], antialias: bool
) -> Float[Array, "1 N+1 D"]:
    """Position embeddings for another patch grid: the CLS one is kept, the square of patch ones is resized.

    Args:
      positions: CLS first, then the trained square grid row by row.
      grid: patch rows and columns wanted.
      antialias: False follows `Dinov2Model` (PyTorch's bicubic, a = -0.75, border cells repeated), True
        `Dinov2WithRegistersModel` (Keys' a = -0.5, support widened when the grid shrinks, no border cells).
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    width = positions.shape[2]
    cells = positions[0, 1:].reshape(side, side, width)
    if is_plain():
        rows, columns = (_resizing(side, size, antialias) for size in grid)
        cells = jnp.einsum("rs,stw,ct->rcw", rows, cells, columns, precision="highest")
    else:
        cells = jax.image.resize(cells, (*grid, width), "cubic-pytorch", antialias=antialias)
    return jnp.concatenate([positions[:, :1], cells.reshape(1, grid[0] * grid[1], width)], axis=1)


def _resizing(side: int, size: int, antialias: bool) -> Float[np.ndarray, "size side"]:
    """Return the matrix that resizes one axis of the square as `resize_positions` does.

    In NumPy, not as a resized identity: while jax2onnx traces, `jax.image.resize` cannot be called.
    """
    centre = (np.arange(size)[:, None] + 0.5) * side / size - 0.5  # in cells of the square
    if antialias:
        weight = _cubic(np.abs(centre - np.arange(side)) / max(side / size, 1), -0.5)
        return (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    found = np.zeros((size, side))
    cells = np.floor(centre).astype(int) + np.arange(-1, 3)  # the four around each place; border cells repeat
    np.add.at(
        found, (np.arange(size)[:, None], np.clip(cells, 0, side - 1)), _cubic(np.abs(centre - cells), -0.75)
    )
    return found.astype(np.float32)


def _cubic(x: Float[np.ndarray, ...], a: float) -> Float[np.ndarray, ...]:
    """Return the cubic kernel at distances from its middle."""
    inner, outer = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))


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


def _layer_norm(config: DinoV2Config, rngs: nnx.Rngs) -> nnx.LayerNorm:
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
    parts, at_once = (query, key, value), jax.vmap(partial(_attend_in_image, dtype=dtype))
    if is_plain():
        return at_once(*parts)
    # The weights of one image fit a CPU's cache, those of a batch do not.
    one_by_one = partial(jax.lax.map, lambda own: _attend_in_image(*own, dtype=dtype))
    return jax.lax.platform_dependent(parts, cpu=one_by_one, default=lambda own: at_once(*own))


def _attend_in_image(
    query: Float[Array, "T H d"],
    key: Float[Array, "T H d"],
    value: Float[Array, "T H d"],
    *,
    dtype: jnp.dtype,
) -> Float[Array, "T H d"]:
    query, key, value = (part.transpose(1, 0, 2) for part in (query, key, value))
    logits = _einsum("hqd,hkd->hqk", query * query.shape[-1] ** -0.5, key, dtype)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    # Softmax divides after the product: before it, XLA on the CPU evaluates exp twice per weight
    # (base to block 7 at 224 px: 116 against 84 ms an image with jax 0.10.2).
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
        self.norm1 = _layer_norm(config, rngs)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.layer_scale1 = nnx.Param(scale)
        self.norm2 = _layer_norm(config, rngs)
        self.mlp = (SwiGLU if config.use_swiglu_ffn else MLP)(config, dtype=dtype, rngs=rngs)
        self.layer_scale2 = nnx.Param(scale)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        x = x + self.layer_scale1[...][None, None, :] * self.attention(self.norm1(x))
        return x + self.layer_scale2[...][None, None, :] * self.mlp(self.norm2(x))


class DinoV2(nnx.Module):
    """DINOv2 cut off after `num_blocks` blocks; `norm` exists only when none is cut.

    Block k (1-based, as in "block7") is `blocks[k - 1]`. Parameters are float32; with `dtype` bfloat16 the
    operands of matrix products are cast, everything else (residual stream, norms, softmax, GELU) stays
    float32, and so do the outputs.

    Args:
      patches: the block after which patch tokens are the patch features; None = the last that is there.
    """

    def __init__(
        self,
        config: DinoV2Config,
        num_blocks: int | None = None,
        *,
        patches: int | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        depth = config.num_hidden_layers
        num_blocks = depth if num_blocks is None else num_blocks
        if not 1 <= num_blocks <= depth:
            raise UserError(f"num_blocks={num_blocks}: this backbone has blocks 1 to {depth}")
        dtype = jnp.dtype(dtype)
        if dtype not in (jnp.float32, jnp.bfloat16):
            raise UserError(f"dtype={dtype}: the backbone computes in float32 or bfloat16")
        self.config = config
        self.num_blocks = num_blocks
        self.patches = num_blocks if patches is None else patches
        width, cells = config.hidden_size, config.trained_grid**2
        normal = jax.nn.initializers.normal(config.initializer_range)
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, width), jnp.float32))
        self.position_embeddings = nnx.Param(normal(rngs.params(), (1, 1 + cells, width), jnp.float32))
        self.register_tokens = (
            nnx.Param(jnp.zeros((1, config.num_register_tokens, width), jnp.float32))
            if config.num_register_tokens
            else None
        )
        # The strided convolution as one matrix product; input order: row in patch, column in patch, channel.
        self.patch_embedding = Linear(
            config.patch_size**2 * config.num_channels,
            width,
            stddev=config.initializer_range,
            dtype=dtype,
            rngs=rngs,
        )
        self.blocks = nnx.List([Block(config, dtype=dtype, rngs=rngs) for _ in range(num_blocks)])
        self.norm = _layer_norm(config, rngs) if num_blocks == depth else None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch rows and columns of an image size in pixels; UserError when patches do not tile it."""
        patch = self.config.patch_size
        if height % patch or width % patch or not (height and width):
            raise UserError(
                f"image size {height} x {width} (height x width) is not a multiple of the backbone's "
                f"patch size {patch}: use for example {_tiled(height, patch)} x {_tiled(width, patch)}"
            )
        return height // patch, width // patch

    def embed(self, images: Float[Array, "B height width C"]) -> Float[Array, "B T D"]:
        """Patch embeddings plus positions, behind CLS and registers (which carry no position)."""
        assert jnp.issubdtype(images.dtype, jnp.floating), f"{images.dtype} images are not normalised"
        batch, height, width, channels = images.shape
        if channels != self.config.num_channels:
            raise UserError(
                f"images of {channels} channels for a backbone of {self.config.num_channels}: shape "
                f"{images.shape} must be [batch, height, width, channels]"
            )
        rows, columns = self.grid(height, width)
        patch = self.config.patch_size
        pixels = images.astype(jnp.float32).reshape(batch, rows, patch, columns, patch, channels)
        pixels = pixels.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch * patch * channels)
        patches = self.patch_embedding(pixels)
        positions = resize_positions(
            self.position_embeddings[...], (rows, columns), antialias=self.config.with_registers
        )
        cls = jnp.broadcast_to(self.cls_token[...] + positions[:, :1], (batch, 1, patches.shape[2]))
        tokens = [cls, patches + positions[:, 1:]]
        if self.register_tokens is not None:
            registers = self.register_tokens[...]
            tokens.insert(1, jnp.broadcast_to(registers, (batch, *registers.shape[1:])))
        return jnp.concatenate(tokens, axis=1)

    def tokens(self, images: Float[Array, "B height width C"]) -> dict[str, Float[Array, "B T D"]]:
        """Return every intermediate by name, with all its tokens.

        Args:
          images: already normalised by the ImageNet mean and deviation; height and width any multiples of
            the patch size, else UserError.

        Returns:
          "embeddings", "block1" ... "block<num_blocks>" and, when no block is cut off, "norm" (the final
          layer norm), each [B, 1 + R + N, D] float32. Under `jax.jit` what the caller drops is not kept.
        """
        x = self.embed(images)
        named = {"embeddings": x}
        for number, block in enumerate(self.blocks, start=1):
            named[f"block{number}"] = x = block(x)
        if self.norm is not None:
            named["norm"] = self.norm(x)
        return named

    def __call__(
        self, images: Float[Array, "B height width C"], taps: Sequence[str]
    ) -> dict[str, Float[Array, "B h w D"]]:
        """Return the patch tokens of some intermediates as maps, float32.

        Args:
          images: as of `tokens`.
          taps: of "block1" ... "block<num_blocks>", "norm" if it is there, and "patches".
        """
        named, grid = self.tokens(images), self.grid(*images.shape[1:3])
        named["patches"] = named[f"block{self.patches}"]
        maps = {tap: named[tap][:, self.config.num_prefix_tokens :] for tap in taps}
        return {tap: x.reshape(x.shape[0], *grid, x.shape[2]) for tap, x in maps.items()}


def _tiled(size: int, patch: int) -> int:
    return max(patch, round(size / patch) * patch)


def random_dinov2(
    config: DinoV2Config,
    seed: int,
    num_blocks: int | None = None,
    *,
    patches: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> DinoV2:
    """Return an untrained DINOv2 with transformers' initial distribution; a function of (config, seed) alone.

    Cutting blocks off does not change the ones that stay.
    """
    return DinoV2(config, num_blocks, patches=patches, dtype=dtype, rngs=nnx.Rngs(seed))
