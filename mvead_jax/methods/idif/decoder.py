"""IDIF's decoders: one a view, which gives the teacher's feature maps from the view's code and the voxel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.backbones.resnet.blocks import BasicBlock, Convolution
from mvead_jax.methods.resizing import enlarge_features

Maps = Sequence[tuple[int, int, int]]  # (h, w, channels), from fine to coarse


class Decoder(nnx.Module):
    """From coarse to fine: resize bilinearly, residual blocks, and a 1 x 1 convolution to the teacher's features.

    The convolution is there because the features of some teachers may be negative and a block's are not.
    """

    def __init__(self, inputs: int, maps: Maps, blocks: int, *, normal: Normal):
        self.sizes = tuple(shape[:2] for shape in reversed(maps))
        widths = [inputs, *(shape[2] for shape in reversed(maps))]
        self.layers, self.heads = nnx.List(), nnx.List()
        for before, after in pairwise(widths):
            own = pairwise((before, *[after] * blocks))
            self.layers.append(nnx.List([BasicBlock(i, o, normal=normal) for i, o in own]))
            self.heads.append(Convolution(after, after, 1, bias=True, normal=normal))

    def __call__(self, x: Float[Array, "B h w C"], **options) -> tuple[Float[Array, "B H W D"], ...]:
        """Return maps like the teacher's, from fine to coarse. Args: options: `train` and `weights` of `BatchNorm`."""
        found = []
        for size, layer, head in zip(self.sizes, self.layers, self.heads, strict=True):
            x = resized(x, size)
            for block in layer:
                x = block(x, **options)
            found.append(head(x))
        return tuple(reversed(found))


class Decoders(nnx.Module):
    """A decoder for each view, one after the other; the numbers of all lie in the same arrays, views first."""

    def __init__(self, views: int, inputs: int, maps: Maps, blocks: int, *, normal: Normal):
        every = [nnx.split(Decoder(inputs, maps, blocks, normal=normal)) for _ in range(views)]
        states = [state for _, state in every]
        self.each = nnx.merge(every[0][0], jax.tree.map(lambda *own: jnp.stack(own), *states))

    def __call__(
        self, x: Float[Array, "B V h w C"], *, train: bool = False, weights: Float[Array, "B V"] | None = None
    ) -> tuple[Float[Array, "B V H W D"], ...]:
        """Return each view's maps, from fine to coarse.

        Args:
          train, weights: as of `BatchNorm`: each view has statistics of its own.
        """
        graph, parameters, statistics = nnx.split(self.each, nnx.Param, ...)

        def of_view(_: None, own: tuple) -> tuple[None, tuple]:
            parameters, statistics, x, weights = own
            decoder = nnx.merge(graph, parameters, statistics)
            maps = decoder(x, train=train, weights=weights)
            return None, (maps, nnx.state(decoder, nnx.BatchStat))

        by_view = (x.swapaxes(0, 1), None if weights is None else weights.T)
        # Unrolled: in a loop, XLA computes the derivatives by the kernels 16 times slower on a CPU.
        _, (maps, statistics) = jax.lax.scan(of_view, None, (parameters, statistics, *by_view), unroll=True)
        if train:
            # A new module, as BatchNorm has new variables: the old ones may belong to an outer trace.
            self.each = nnx.merge(graph, parameters, statistics)
        return tuple(own.swapaxes(0, 1) for own in maps)


def resized(x: Float[Array, "B h w C"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
    """Return maps at another size, bilinearly with half-pixel centres."""
    if x.shape[1:3] == tuple(size):
        return x
    return jax.vmap(lambda own: enlarge_features(own, size, corners=False))(x)
