"""MVAD's trained network: window attention over views, a neck, and a mirrored decoder (seed 003).

The frozen teacher gives three feature maps of each view; `MVADNetwork` gives three maps that should equal
them. Facts of the released code; submodules carry the names of its checkpoint where that has one for them.
Letters: B samples, V views, N = B V images, H x W pixels of a feature map, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from mvead_jax.methods.mvad.decoder import Decoder
from mvead_jax.methods.mvad.fusion import FusionBlock
from mvead_jax.methods.mvad.neck import Neck
from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class NetworkConfig:
    """Describe the network; the defaults are the released code's for images of 256 pixels.

    Attributes:
      widths: of the teacher's three maps, from fine to coarse. The other widths follow from them: the neck
        passes from each to the next, its bottlenecks have half the last width inside and give twice that
        width, and the decoder goes back through the same widths.
      windows: windows a side at each scale; the paper (table VI) takes 8, 8, 8.
      top: windows that a window attends to at each scale; the paper takes 16, 32, 64.
      heads: of the attention; divides every width.
      blocks: fusion blocks at each scale.
      decoder_blocks: from coarse to fine, a ResNet-34's mirrored.
      projections: `linear` puts the paper's maps before the attention; the released code has `none`.
      keys: of the attention: the windows of the `others`, or for a control of the view's `own`.
      dropout: inside the fusion block's MLP. drop_path: of its attention, for a view of a sample at once.
    """

    widths: tuple[int, int, int] = (64, 128, 256)
    windows: tuple[int, int, int] = (14, 9, 6)
    top: tuple[int, int, int] = (4, 4, 4)
    heads: int = 8
    blocks: tuple[int, int, int] = (1, 2, 4)
    decoder_blocks: tuple[int, int, int] = (3, 4, 6)
    projections: Literal["none", "linear"] = "none"
    keys: Literal["others", "own"] = "others"
    dropout: float = 0.1
    drop_path: float = 0.1

    def __post_init__(self):
        for width in self.widths:
            if width % self.heads or width % 2:
                raise ValueError(
                    f"widths={self.widths}: each must be even and a multiple of heads={self.heads}"
                )


class MVADNetwork(nnx.Module):
    """Reconstruct the teacher's three maps after fusing them over views and passing them through the neck."""

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        self.config = config
        self.fusion = nnx.List([_fusion_blocks(config, scale, rngs) for scale in range(3)])
        self.neck = Neck(config.widths, rngs=rngs)
        self.decoder = Decoder(config.widths, config.decoder_blocks, rngs=rngs)

    def __call__(
        self,
        teacher: Sequence[Float[Array, "B V H W C"]],
        present: Bool[Array, "B V"] | None = None,
        *,
        train: bool = False,
        keys: Key[Array, " B"] | None = None,
        counted: Bool[Array, "B V"] | None = None,
    ) -> tuple[Float[Array, "B V H W C"], ...]:
        """Return the student's three maps, from fine to coarse; those of a missing view have no meaning.

        In training the running statistics of this module change: split it and merge it inside the function
        that is differentiated, and return its `nnx.BatchStat` state from there.

        Args:
          teacher: the frozen teacher's maps, from fine to coarse, after its ReLU.
          present: the views that each sample has; None: all. A missing view's maps may hold anything.
          train: batch norm by the statistics of this batch.
          keys: one for each sample, for dropout and drop path; None: both are off.
          counted: the images that count in the batch's statistics; None: those that are present.
        """
        return self.named(teacher, present, train=train, keys=keys, counted=counted)["student"]

    def named(self, teacher, present=None, *, train=False, keys=None, counted=None) -> dict:
        """Return intermediate results by name: "fused" and "student" (three maps each) and the neck's."""
        batch = teacher[0].shape[:2]
        present = jnp.ones(batch, bool) if present is None else jnp.asarray(present)
        counted = present if counted is None else jnp.asarray(counted)
        check_maps([x.shape[2:] for x in teacher], self.config)
        fused = tuple(self.fused(scale, x, present, keys) for scale, x in enumerate(teacher))
        norm = {"train": train, "weights": counted.reshape(-1)}
        named = self.neck(*(x.reshape(-1, *x.shape[2:]) for x in fused), **norm)
        student = self.decoder(named["neck"], **norm)
        student = tuple(x.reshape(*batch, *x.shape[1:]) for x in student)
        return named | {"fused": fused, "student": student}

    def fused(
        self,
        scale: int,
        teacher: Float[Array, "B V H W C"],
        present: Bool[Array, "B V"],
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B V H W C"]:
        """Return one scale's teacher maps after its fusion blocks."""
        x = teacher = jnp.where(present[:, :, None, None, None], teacher, 0)
        for number, block in enumerate(self.fusion[scale]):
            own = None if keys is None else _folded(keys, 100 * scale + number)
            x = block(x, teacher, present, own)["norm2"]
        return x


def _folded(keys: Key[Array, " B"], number: int) -> Key[Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _fusion_blocks(config: NetworkConfig, scale: int, rngs: nnx.Rngs) -> nnx.List:
    options = {
        "windows": config.windows[scale],
        "top": config.top[scale],
        "heads": config.heads,
        "projections": config.projections,
        "keys": config.keys,
        "dropout": config.dropout,
        "drop_path": config.drop_path,
    }
    return nnx.List(
        [FusionBlock(config.widths[scale], **options, rngs=rngs) for _ in range(config.blocks[scale])]
    )


def check_maps(shapes: Sequence[tuple[int, int, int]], config: NetworkConfig) -> None:
    """Raise a UserError unless the network takes teacher maps of these shapes (H, W, C), from fine to coarse.

    Each map has half the sides of the one before, and the coarsest has even sides, because the neck halves it
    and the decoder doubles three times.
    """
    widths = tuple(shape[2] for shape in shapes)
    if widths != config.widths:
        raise UserError(f"MVAD: feature maps of widths {widths} for a network of widths {config.widths}")
    sides = [shape[:2] for shape in shapes]
    halved = [(2 * coarse[0], 2 * coarse[1]) for coarse in sides[1:]]
    if halved != sides[:2] or sides[2][0] % 2 or sides[2][1] % 2:
        raise UserError(
            f"MVAD: feature maps of {', '.join(f'{h} x {w}' for h, w in sides)} pixels; the network halves "
            "the finest one three times: data.image_size must be a multiple of 8 times its stride, as 256 is"
        )
