"""MVEAD: patches fused across views by pre-trained epipolar attention, then a memory bank for each view.

Seed 001. What this differs in from the paper, and where the paper is silent, is in the README's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from mvead_jax.backbones.dinov2.modeling import Block
from mvead_jax.bank.search.bounds import Precision
from mvead_jax.bank.fill import Keep
from mvead_jax.config.schema import FusionConfig, TrainConfig
from mvead_jax.data.records import DatasetIndex, spread_evenly
from mvead_jax.runtime.errors import UserError
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.methods.mvead.attention_weights import attended_batch
from mvead_jax.methods.mvead.attention import (
    AttentionConfig,
    EpipolarAttention,
    Keys,
    MVASAttention,
    attend_batch,
    copy_block,
)
from mvead_jax.methods.mvead.banded import plan_bands
from mvead_jax.postprocess.evidence import CALIBRATED, Calibration, calibrate_scores, standardise
from mvead_jax.methods.mvead.pretrain import Keeper, NormalSamples, attend_all, pretrain
from mvead_jax.methods.patchcore.method import Banks, PatchCore, check_views, seed_from

Geometry = Mapping[str, EpipolarKeys]  # of each category
Parameters = Mapping[str, Any]  # of the attention, nested by module


@dataclass(frozen=True)
class MveadState:
    """What was learned.

    Attributes:
      fusion: the attention's parameters.
      banks: of attended features.
      unfused: banks of the features as they were, if they are scored too; else None.
      scales: of the distances to `banks` and to `unfused`, by which they are standardised.
    """

    fusion: Parameters
    banks: Banks
    unfused: Banks | None = None
    scales: tuple[Calibration, Calibration] | None = None


@dataclass(frozen=True)
class Mvead:
    """The method and its settings.

    Attributes:
      views: names of the cameras, in the order of axis V. grid: (h,w), patches of a view.
      width: D of the features.
      fusion, train: sections of the config; fusion.kind is not `none` (that is PatchCore).
      per_view: a bank for each view, or one for all.
      unfused: keep banks of the features as they were too, and add both scores, each standardised.
      heads: of the backbone's attention, which fusion.heads = 0 stands for.
      block: the backbone's next transformer block, if fusion.init is copy and it has one; else None.
      keeper: keeps states of the pre-training; None: a run that is killed starts over.
      name: of the model, for messages.
      keep: what a bank keeps of the patches. search: precision of the products that rule bank rows out.
    """

    views: tuple[str, ...]
    grid: tuple[int, int]
    width: int
    fusion: FusionConfig = field(default_factory=FusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    per_view: bool = True
    unfused: bool = False
    heads: int = 1
    block: Block | None = None
    keeper: Keeper | None = None
    name: str = ""
    keep: Keep = field(default_factory=Keep)
    search: Precision = "float32"

    @cached_property
    def attention(self) -> AttentionConfig:
        """The shape of the attention.

        Raises:
          UserError: a number of heads that does not divide the width, or is not that of the block to copy.
        """
        heads = self.fusion.heads or self.heads
        if self.width % heads:
            raise UserError(f"config fusion.heads={heads}: must divide the features' width {self.width}")
        if self.block is not None and heads != self.heads:
            raise UserError(
                f"config fusion.heads={heads}: the block to copy has {self.heads}; take 0, or init=similarity"
            )
        return AttentionConfig(
            width=self.width,
            heads=heads,
            init="random" if self.fusion.init == "random" else "similarity",
            combine=self.fusion.combine,
            residual=self.fusion.residual,
            gate=self.fusion.gate,
            keys=self.fusion.keys,
        )

    def start(self, seed: int) -> EpipolarAttention:
        """The attention before any training (decision D5). Raises as `attention`."""
        if self.fusion.kind == "mvas":
            attention = MVASAttention(
                self.attention,
                nnx.Rngs(seed),
                grid=self.grid,
                windows=self.fusion.windows,
                top_windows=self.fusion.top_windows,
            )
        else:
            attention = EpipolarAttention(self.attention, nnx.Rngs(seed))
        if self.block is not None:
            copy_block(attention, self.block)
        return attention

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        """What the attention is, without its parameters."""
        return nnx.split(self.start(0))[0]

    def fit(
        self,
        index: DatasetIndex,
        features: Float32[np.ndarray, "S V N D"],
        geometry: Geometry,
        key: jax.Array,
    ) -> MveadState:
        """Pre-trains the attention on the training samples and fills the banks with what it makes of them.

        All processes must call; banks are filled in the first only.

        Args:
          index: the training samples, which should be normal.
          features: their patch features, a NumPy array or a FeatureStore.
          geometry: the epipolar keys of each category.
          key: what everything random follows from.

        Raises:
          UserError: a view without any training picture, or a loss that is no number.
          Stopped: the keeper was asked to stop.
        """
        check_views(index)
        seed = seed_from(key)
        samples = self._samples(index, features, geometry)
        attention = self.start(seed)
        if self.train.objective != "none" and self.train.epochs:
            pretrain(attention, samples, self.train, seed, self.keeper or _Nobody(), self.name)
        fused = attend_all(attention, samples, np.arange(len(samples)))
        parameters = nnx.to_pure_dict(nnx.state(attention))
        if fused is None:
            return MveadState(parameters, {})
        banks = self._memory.fit(index, fused, None, jax.random.fold_in(key, 0))
        if not self.unfused:
            return MveadState(parameters, banks)
        plain = self._memory.fit(index, features, None, jax.random.fold_in(key, 1))
        chosen = spread_evenly(len(samples), CALIBRATED)
        scales = (
            calibrate_scores(self._memory.left_out(banks, index, fused[chosen], chosen)),
            calibrate_scores(self._memory.left_out(plain, index, features[chosen], chosen)),
        )
        return MveadState(parameters, banks, plain, scales)

    def plan(self, keys: EpipolarKeys) -> Keys:
        """The keys of a category as the attention takes them: bands where they are narrow, else a mask."""
        if self.fusion.kind == "eam" and self.attention.banded and len(self.views) > 1:
            bands = plan_bands(keys.mask, keys.F, self.grid, keys.patch_size)
            if 2 * bands.keys.shape[-1] <= keys.mask.shape[-1]:
                return bands
        return jnp.asarray(keys.mask)

    def leave_one_out(
        self,
        state: MveadState,
        index: DatasetIndex,
        features: Float32[np.ndarray, "S V N D"],
        geometry: Geometry,
        chosen: Int[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "n V h w"] | None:
        """As of `PatchCore.leave_one_out`; the samples that the banks leave out were seen in training.

        All processes must call; None in all but the first.
        """
        attention = self.start(0)
        nnx.update(attention, state.fusion)
        fused = attend_all(attention, self._samples(index, features, geometry), chosen)
        if fused is None:
            return None
        maps = self._memory.left_out(state.banks, index, fused, chosen)
        if state.unfused is None:
            return maps
        plain = self._memory.left_out(state.unfused, index, features[chosen], chosen)
        return np.asarray(_added(jnp.asarray(maps), jnp.asarray(plain), state))

    def anomaly_maps(
        self,
        state: MveadState,
        features: Float32[Array, "B V N D"],
        geometry: Keys,
        mesh: Mesh | None = None,
    ) -> Float32[Array, "B V h w"]:
        """Distance of every attended patch to the nearest row of its bank (eq. 11).

        Args:
          features: a view whose features are all zero is one that the sample does not have.
          geometry: what `plan` made of the samples' category.
          mesh: as of `PatchCore.anomaly_maps`.
        """
        features = jnp.asarray(features)
        present = (features != 0).any((2, 3))
        fused = attend_batch(self._graph, state.fusion, features, present, geometry, mesh=mesh)
        maps = self._memory.anomaly_maps(state.banks, fused, None, mesh)
        if state.unfused is None:
            return maps
        return _added(maps, self._memory.anomaly_maps(state.unfused, features, None, mesh), state)

    def attended(
        self, state: MveadState, features: Float32[np.ndarray, "B V N D"], keys: EpipolarKeys, top: int
    ) -> tuple[Int[np.ndarray, "B V N K"], Float32[np.ndarray, "B V N K"]]:
        """What each patch of some samples of one category attended to most, as `attended_patches` tells it.

        On one device of the calling process.

        Args:
          features: as of `anomaly_maps`. top: K.
        """
        present = (features != 0).any((2, 3))
        fusion = jax.tree.map(np.asarray, state.fusion)
        found = attended_batch(self._graph, fusion, features, present, keys.mask, top=top)
        return tuple(map(np.asarray, found))

    def _samples(self, index: DatasetIndex, features: Any, geometry: Geometry) -> NormalSamples:
        categories = index.categories
        return NormalSamples(
            features,
            index.present(),
            tuple(self.plan(geometry[category]) for category in categories),
            np.stack([geometry[category].mask for category in categories]),
            np.array([categories.index(sample.category) for sample in index.samples], np.int32),
            tuple(sample.id for sample in index.samples),
        )

    @property
    def _memory(self) -> PatchCore:
        return PatchCore(self.views, self.grid, self.per_view, self.keep, self.search)


def _added(
    fused: Float32[Array, "n V h w"], plain: Float32[Array, "n V h w"], state: MveadState
) -> Float32[Array, "n V h w"]:
    """Both distances in standard deviations of normal ones, added."""
    return standardise(fused, state.scales[0]) + standardise(plain, state.scales[1])


class _Nobody:
    """A keeper that keeps nothing."""

    def restore(self, like):
        return None

    def save(self, state):
        pass

    def record(self, event):
        pass

    def stopping(self):
        return False
