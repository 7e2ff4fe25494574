"""DINOv2 in Flax NNX: a frozen vision transformer whose every block is a tap.

A port of Hugging Face's `Dinov2Model` and `Dinov2WithRegistersModel` (Oquab et al. 2023, arXiv:2304.07193;
Darcet et al. 2023, arXiv:2309.16588). Tokens are ordered CLS, registers, patches (row by row).

Letters: B images, N patches, T = 1 + R + N tokens (R registers), D width, H heads, P patch size.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mvead_jax.backbones.dinov2.blocks import Block, Linear, layer_norm
from mvead_jax.backbones.dinov2.config import DinoV2Config
from mvead_jax.backbones.dinov2.positions import resize_positions
from mvead_jax.runtime.errors import UserError


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
        self.norm = layer_norm(config, rngs) if num_blocks == depth else None

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
