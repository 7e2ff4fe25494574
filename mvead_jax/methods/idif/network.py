"""IDIF's student in Flax NNX: encoder, consistency bottleneck, voxel of all views, and a decoder for each view.

"Unveiling multi-view anomaly detection: intra-view decoupling and inter-view fusion" (AAAI 2025, seed 004). There is no
public code; docs/method.md tells what the paper leaves open.

Letters: B samples, V views, h x w cells of a map, C channels of the encoder, L of the common part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.methods.encoder import Encoder
from mvead_jax.methods.idif.bottleneck import Bottleneck, Code
from mvead_jax.methods.idif.decoder import Decoders, Maps, resized
from mvead_jax.methods.idif.spatial_transformer import SpatialTransformers
from mvead_jax.methods.idif.voxel import Shape, VoxelFusion
from mvead_jax.methods.linear import Linear


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the student.

    Attributes:
      maps: (h, w, channels) of the teacher's maps, from fine to coarse. views: how many.
      encoder_blocks, encoder_width: of the encoder, a ResNet of basic blocks.
      decoder_blocks: of each of a decoder's layers.
      bottleneck: which part of a view's features the voxel gets: the `common` one, what is left of the features
        without it (`specific`), or all of them, without a bottleneck (`none`).
      latent: L.
      fusion: a `voxel`, or `none`: each view for itself.
      voxel, voxel_width, fusion_blocks, heads, patch, view_embedding: as of `VoxelFusion`.
      axes: as of `SpatialTransformers`.
    """

    maps: Maps
    views: int
    encoder_blocks: tuple[int, ...] = (2, 2, 2)
    encoder_width: int = 64
    decoder_blocks: int = 2
    bottleneck: Literal["common", "specific", "none"] = "common"
    latent: int = 64
    fusion: Literal["voxel", "none"] = "voxel"
    voxel: Shape = (4, 8, 8)
    voxel_width: int = 256
    fusion_blocks: int = 2
    heads: int = 8
    patch: int = 1
    view_embedding: bool = True
    axes: tuple[str, ...] = ("vertical",)

    @property
    def width(self) -> int:
        """C: the channels of the encoder's last map."""
        return self.encoder_width * 2 ** (len(self.encoder_blocks) - 1)


class Student(NamedTuple):
    """What the student makes of a batch.

    Attributes:
      maps: like the teacher's, from fine to coarse.
      features: f_E, the encoder's last map.
      code: of the bottleneck; None without one.
    """

    maps: tuple[Float[Array, "B V H W D"], ...]
    features: Float[Array, "B V h w C"]
    code: Code | None


class IdifNetwork(nnx.Module):
    """The student. Encoder and bottleneck are the same for all views; spatial transformer and decoder are not."""

    def __init__(self, config: NetworkConfig, normal: Normal):
        width = config.width
        self.part = config.bottleneck
        self.encoder = Encoder(config.encoder_blocks, config.encoder_width, normal)
        coded = self.part != "none"
        self.bottleneck = Bottleneck(width, config.latent, normal=normal) if coded else None
        self.own = Linear(config.latent if coded else width, width, normal=normal)
        joint = config.fusion == "voxel"
        self.fusion = _fusion(config, normal) if joint else None
        self.transformers = _transformers(config, normal) if joint else None
        self.decoders = Decoders(config.views, width, config.maps, config.decoder_blocks, normal=normal)

    def __call__(
        self,
        images: Float[Array, "B V H W 3"],
        present: Bool[Array, "B V"],
        *,
        train: bool = False,
        counted: Bool[Array, "B V"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> Student:
        """Return the student's maps.

        Args:
          present: the views that others may look at; the maps of the others hold nothing.
          train: whether batch norms take the batch's statistics.
          counted: the images that count in them; None: all.
          keys: one for each sample, for the bottleneck's samples; None: its means are taken.
        """
        weights = None if counted is None else counted.astype(images.dtype)
        flat = None if weights is None else weights.reshape(-1)
        features = self.encoder(images.reshape(-1, *images.shape[2:]), train=train, weights=flat)[-1]
        features = features.reshape(*present.shape, *features.shape[1:])
        code = None if self.bottleneck is None else self._code(features, keys)
        x = self.own(features if code is None else code.common)
        if self.fusion is not None:
            x = x + self._fused(self._part(features, code), present, features.shape[2:4])
        return Student(self.decoders(x, train=train, weights=weights), features, code)

    def _code(self, features: Float[Array, "B V h w C"], keys: Key[Array, " B"] | None) -> Code:
        if keys is None:
            return jax.vmap(jax.vmap(self.bottleneck))(features)
        views = jnp.arange(features.shape[1])
        keys = jax.vmap(lambda key: jax.vmap(lambda view: jax.random.fold_in(key, view))(views))(keys)
        return jax.vmap(jax.vmap(self.bottleneck))(features, keys)

    def _part(self, features: Float[Array, "B V h w C"], code: Code | None) -> Float[Array, "B V h w D"]:
        """What the voxel gets of each view."""
        if code is None:
            return features
        return code.common if self.part == "common" else features - code.reconstruction

    def _fused(
        self, maps: Float[Array, "B V h w D"], present: Bool[Array, "B V"], size: tuple[int, int]
    ) -> Float[Array, "B V h w C"]:
        """What the voxel tells each view, at the size of its map."""
        voxels = jax.vmap(self.fusion)(maps, present)
        flat = jax.vmap(self.transformers)(voxels)
        return resized(flat.reshape(-1, *flat.shape[2:]), size).reshape(*present.shape, *size, -1)


def _fusion(config: NetworkConfig, normal: Normal) -> VoxelFusion:
    return VoxelFusion(
        config.latent if config.bottleneck == "common" else config.width,
        config.voxel,
        config.voxel_width,
        views=config.views,
        patch=config.patch,
        blocks=config.fusion_blocks,
        heads=config.heads,
        view_embedding=config.view_embedding,
        normal=normal,
    )


def _transformers(config: NetworkConfig, normal: Normal) -> SpatialTransformers:
    return SpatialTransformers(
        config.views, config.voxel, config.voxel_width, config.axes, config.width, normal=normal
    )
