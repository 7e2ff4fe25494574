"""Attention of a patch to what the other cameras see: along epipolar lines (EAM), or by similarity (MVAS).

For one sample; a batch is `jax.vmap` of it. Pre-norm, multi-head, one softmax, residual (MVEAD eq. 5-6):

    out_j = z_j + W_O sum_k softmax_k(q_j . k_k / sqrt(d)) v_k,     k over the patches that j may attend to

Letters: V views, Q views that are asked for, N patches of a view, D feature width, H heads, d = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from mvead_jax.backbones.dinov2.blocks import Block, Linear
from mvead_jax.backbones.info import Info
from mvead_jax.methods.mvas import mvas, select_windows
from mvead_jax.methods.mvead.banded import BandPlan, banded_attention, has_keys
from mvead_jax.methods.mvead.config import FusionConfig
from mvead_jax.methods.mvead.dense import masked_attention
from mvead_jax.methods.window_attention import Selection
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.plain import is_plain, mapped, mapped_on_cpu
from mvead_jax.runtime.sharding import on_each_device

Init = Literal["similarity", "random"]
Keys = Bool[Array, "V V N N"] | BandPlan
Projected = tuple[Float[Array, "V N H d"], Float[Array, "V N H d"], Float[Array, "V N H d"]]


@dataclass(frozen=True)
class AttentionConfig:
    """The shape and the start of an attention over views.

    Attributes:
      width: D.
      heads: H; divides the width.
      init: `similarity`: query and key projections are the identity, so that attention goes by likeness of
        normalised features, and value and output pass them on; `random`: small random projections. For the
        copy of a backbone's block see `copy_block`. Decision D5.
      combine: `joint`: one softmax over all keys; `mean`: one for each other view, then their mean. D3.
      epsilon: of the layer norm.
    """

    width: int = 768
    heads: int = 12
    init: Init = "similarity"
    combine: Literal["joint", "mean"] = "joint"
    epsilon: float = 1e-6

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")

    @classmethod
    def of(cls, fusion: FusionConfig, width: int, backbone: Info) -> AttentionConfig:
        """Return the shape that a config asks for on a backbone's features (decision D4).

        Raises:
          UserError: a number of heads that does not divide the width, or is not that of the block to copy.
        """
        heads = fusion.heads or backbone.heads
        if width % heads:
            raise UserError(f"config fusion.heads={heads}: must divide the features' width {width}")
        if fusion.init == "copy" and backbone.has_next and heads != backbone.heads:
            raise UserError(
                f"config fusion.heads={heads}: the block to copy has {backbone.heads}; take 0, or init=similarity"
            )
        init = "random" if fusion.init == "random" else "similarity"
        return cls(width, heads, init, fusion.combine)


class EpipolarAttention(nnx.Module):
    """z [V,N,D] -> [V,N,D]: each patch fused with the patches that the mask lets it attend to.

    A patch without any key passes unchanged (decision D6).
    """

    def __init__(self, cfg: AttentionConfig, rngs: nnx.Rngs):
        width = cfg.width
        self.cfg = cfg
        self.norm = nnx.LayerNorm(width, epsilon=cfg.epsilon, use_fast_variance=False, rngs=rngs)
        options = {"stddev": 0.02, "dtype": jnp.dtype(jnp.float32), "rngs": rngs}
        self.query = Linear(width, width, **options)
        self.key = Linear(width, width, **options)
        self.value = Linear(width, width, **options)
        self.output = Linear(width, width, **options)
        if cfg.init == "similarity":
            for linear in (self.query, self.key, self.value, self.output):
                linear.kernel[...] = jnp.eye(width, dtype=jnp.float32)

    def __call__(
        self, z: Float[Array, "V N D"], mask: Keys, present: Bool[Array, " V"] | None = None
    ) -> Float[Array, "V N D"]:
        """Return the fused features of one sample.

        Args:
          z: patch features.
          mask: mask[a, b, j, k]: patch j of view a may attend to patch k of view b; or bands planned of it.
          present: views that the sample has; the patches of the others are never keys. None: all.
        """
        return self.attend(z, self.project(z), mask, present)

    def project(self, z: Float[Array, "V N D"]) -> Projected:
        """Return the queries, keys and values of patches; each patch has its own, whatever the others are."""
        normed, heads = self.norm(z), self.cfg.heads
        return tuple(
            linear(normed).reshape(*z.shape[:2], heads, -1) for linear in (self.query, self.key, self.value)
        )

    def attend(
        self,
        z: Float[Array, "V N D"],
        projected: Projected,
        mask: Keys,
        present: Bool[Array, " V"] | None = None,
        of: Int[Array, " Q"] | None = None,
    ) -> Float[Array, "Q N D"]:
        """Return the fused features of one sample whose patches are projected.

        Args:
          z, mask, present: as of `__call__`.
          projected: of `project`.
          of: the views whose features are asked for; of bands no view twice. None: all.
        """
        mixed, any_key = self._attention(z, *projected, mask, present, of)
        own = z if of is None else z[of]
        attended = self.output(mixed.reshape(own.shape))
        return own + jnp.where(any_key[..., None], attended, 0)  # Decision D6

    def _attention(self, z: Float[Array, "V N D"], query, key, value, mask: Keys, present, of):
        """What each patch attends to [Q,N,H,d], and whether it has any key [Q,N]."""
        if of is not None:
            query, mask = _of_views(query, of), mask.of(of) if isinstance(mask, BandPlan) else mask[of]
        if isinstance(mask, BandPlan):
            if self.cfg.combine != "joint":
                raise ValueError("bands hold all keys in one softmax; combine=mean takes a mask")
            return banded_attention(query, key, value, mask, present), has_keys(mask, present)
        if present is not None:
            mask = mask & jnp.asarray(present)[None, :, None, None]
        attend = masked_attention if self.cfg.combine == "joint" else _mean_over_views
        return attend(query, key, value, mask), mask.any((1, 3))


class MVASAttention(EpipolarAttention):
    """The same attention over those windows of the other views that look most alike (seed 003).

    It has no use for geometry: of its `mask` it looks at nothing. Windows, their choice and the padding of the
    grid are those of `mvead_jax.methods.mvas`; the windows are chosen by the features before any projection.
    """

    def __init__(
        self,
        cfg: AttentionConfig,
        rngs: nnx.Rngs,
        *,
        grid: tuple[int, int],
        windows: int = 6,
        top_windows: int = 4,
    ):
        super().__init__(cfg, rngs)
        self.grid, self.windows, self.top_windows = grid, windows, top_windows

    def _attention(self, z: Float[Array, "V N D"], query, key, value, mask: Keys, present, of):
        selection = self.selected(z, present)
        maps = (own.reshape(len(z), *self.grid, self.cfg.width) for own in (query, key, value))
        scale = (self.cfg.width // self.cfg.heads) ** -0.5
        options = {"windows": self.windows, "top": self.top_windows, "heads": self.cfg.heads, "scale": scale}
        mixed = mvas(*maps, present, selection=selection, **options)
        any_key = selection.where.any(-1).reshape(len(z), -1)[:, self.window_of_patch]
        mixed = mixed.reshape(query.shape)
        return (mixed, any_key) if of is None else (_of_views(mixed, of), any_key[of])

    def selected(self, z: Float[Array, "V N D"], present: Bool[Array, " V"] | None) -> Selection:
        """Return the windows that each window of a sample attends to."""
        maps = z.reshape(len(z), *self.grid, -1)
        if present is not None:
            maps = jnp.where(jnp.asarray(present)[:, None, None, None], maps, 0)
        return select_windows(maps, maps, present, windows=self.windows, top=self.top_windows)

    def similar(self, z: Float[Array, "V N D"], present: Bool[Array, " V"] | None) -> Bool[Array, "V V N N"]:
        """Return mask[a, b, j, k]: does patch j of view a attend to patch k of view b?"""
        selection, count = self.selected(z, present), len(z) * self.windows**2
        seen = jax.nn.one_hot(selection.window, count, dtype=bool) & selection.where[..., None]
        seen = seen.any(1).reshape(len(z), -1, len(z), self.windows**2)
        place = self.window_of_patch
        return seen[:, place][:, :, :, place].transpose(0, 2, 1, 3)

    @property
    def window_of_patch(self) -> Int[np.ndarray, " N"]:
        """The number of the window that each patch lies in."""
        tall, wide = (-(-side // self.windows) for side in self.grid)
        rows, columns = (np.arange(side) // size for side, size in zip(self.grid, (tall, wide), strict=True))
        return (rows[:, None] * self.windows + columns[None]).reshape(-1)


def copy_block(attention: EpipolarAttention, block: Block) -> None:
    """Makes the attention that of a transformer block: its norm, projections, and layer scale (decision D4).

    Raises:
      ValueError: another width or number of heads.
    """
    source = block.attention
    if source.num_heads != attention.cfg.heads or block.norm1.scale.shape != (attention.cfg.width,):
        raise ValueError(
            f"a block of {source.num_heads} heads and width {block.norm1.scale.shape[0]} does not fit "
            f"{attention.cfg}"
        )
    attention.norm.scale[...] = block.norm1.scale[...]
    attention.norm.bias[...] = block.norm1.bias[...]
    for to, origin in (
        (attention.query, source.query),
        (attention.key, source.key),
        (attention.value, source.value),
    ):
        to.kernel[...] = origin.kernel[...]
        if origin.bias is not None:
            to.bias[...] = origin.bias[...]
    scale = block.layer_scale1[...]
    attention.output.kernel[...] = source.projection.kernel[...] * scale[None, :]
    attention.output.bias[...] = source.projection.bias[...] * scale


@partial(jax.jit, static_argnums=0, static_argnames="mesh")
def attend_batch(
    graph: nnx.GraphDef,
    parameters: Any,
    features: Float[Array, "B V h w D"],
    present: Bool[Array, "B V"],
    mask: Keys,
    *,
    mesh: Mesh | None = None,
) -> Float[Array, "B V h w D"]:
    """Return the fused features of samples of one category, by the attention of a graph and its parameters.

    With a mesh the samples, a multiple of its devices, are divided over it.
    """

    def attend(shared, samples):
        parameters, mask = shared
        attention = nnx.merge(graph, parameters)
        over = mapped if is_plain() else mapped_on_cpu  # jax2onnx knows no layer norm of a batch
        return over(lambda sample: attention(sample[0], mask, sample[1]), samples)

    if mesh is not None:
        attend = on_each_device(attend, mesh)
    z = features.reshape(*features.shape[:2], -1, features.shape[-1])  # [B,V,N,D]
    return attend((parameters, mask), (z, present)).reshape(features.shape)


def _of_views(x: Float[Array, "V N H d"], views: Int[Array, " Q"]) -> Float[Array, "Q N H d"]:
    """Return the rows of some views, by a product: the gradient of an index is a scatter that adds."""
    chosen = jax.nn.one_hot(views, len(x), dtype=x.dtype)
    return jnp.einsum("qv,vnhd->qnhd", chosen, x, precision="highest")


def _mean_over_views(query, key, value, mask):
    """Attention to each view by itself, averaged over the views in which a patch has a key."""
    views = jnp.arange(mask.shape[1])  # of the keys: the queries may be of fewer

    def to_view(view):
        return masked_attention(query, key, value, mask & (views == view)[None, :, None, None])

    seen = mask.any(3).sum(1)  # [Q,N]
    total = mapped(to_view, views).sum(0)
    return total / jnp.maximum(seen, 1).astype(total.dtype)[..., None, None]
