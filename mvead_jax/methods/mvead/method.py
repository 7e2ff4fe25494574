"""MVEAD: patches fused across views by pre-trained epipolar attention, then a memory bank for each view.

Seed 001. Where this differs from the paper, and where the paper is silent: docs/method.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int

from mvead_jax.backbones.base import Backbone
from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.memory import MemoryBanks, check_views, seed_from
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.methods.base import (
    PATCHES,
    Batch,
    Requires,
    RunContext,
    Spec,
    State,
    TrainData,
    parameter_count,
)
from mvead_jax.methods.checks import Check, Workload
from mvead_jax.methods.mvead import parts
from mvead_jax.methods.mvead.attention import (
    AttentionConfig,
    EpipolarAttention,
    Keys,
    MVASAttention,
    attend_batch,
    copy_block,
)
from mvead_jax.methods.mvead.attention_weights import attended_batch
from mvead_jax.methods.mvead.banded import plan_bands
from mvead_jax.methods.mvead.config import FusionConfig, PretrainConfig
from mvead_jax.methods.mvead.pretraining import NormalSamples, attend_all, pretrain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mvead:
    """The method.

    Attributes:
      fusion, train, bank, score_config: sections of the config; fusion.kind is not `none` (that is PatchCore).
    """

    spec: Spec
    fusion: FusionConfig
    train: PretrainConfig
    bank: BankConfig
    score_config: BankScoreConfig
    requires: Requires

    @property
    def training(self) -> PretrainConfig | None:
        """The section of the config that pre-training follows; None if these settings train nothing."""
        return self.train if self.train.objective != "none" and self.train.epochs else None

    @cached_property
    def attention(self) -> AttentionConfig:
        """The shape of the attention.

        Raises:
          UserError: a number of heads that does not divide the width, or is not that of the block to copy.
        """
        return AttentionConfig.of(self.fusion, self.spec.maps[PATCHES][-1], self.spec.backbone)

    @property
    def memory(self) -> MemoryBanks:
        return MemoryBanks(self.spec.views, self.bank, self.score_config)

    def start(self, seed: int, backbone: Backbone | None = None) -> EpipolarAttention:
        """Return the attention before any training (decision D5).

        Args:
          backbone: whose next attention block is copied, if fusion.init is `copy` and it has one.
        """
        rows, columns, _ = self.spec.maps[PATCHES]
        if self.fusion.kind == "mvas":
            attention = MVASAttention(
                self.attention,
                nnx.Rngs(seed),
                grid=(rows, columns),
                windows=self.fusion.windows,
                top_windows=self.fusion.top_windows,
            )
        else:
            attention = EpipolarAttention(self.attention, nnx.Rngs(seed))
        if self.fusion.init == "copy" and backbone is not None and backbone.next_block is not None:
            copy_block(attention, backbone.next_block())
        return attention

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        """What the attention is, without its parameters."""
        return nnx.split(nnx.eval_shape(lambda: self.start(0)))[0]

    def init(self, key: jax.Array) -> State:
        """Return the attention as it starts and the banks before they are filled."""
        parameters = nnx.to_pure_dict(nnx.state(self.start(0)))
        return {"fusion": parameters, "banks": self.memory.init(self.attention.width)}

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Pre-train the attention on the training samples and fill the banks with what it makes of them."""
        check_views(data.index)
        fused_categories = [name for name, keys in data.geometry.items() if self._fuses(keys)]
        for category in data.geometry.keys() - set(fused_categories):
            log.warning("%s: no pair of views is trusted, so nothing is fused: this is PatchCore", category)
        seed, samples = seed_from(run.key), self._samples(data)
        attention = self.start(seed, data.backbone)
        if self.training and fused_categories:
            pretrain(attention, samples, self.train, seed, run.checkpoints, self.spec.name)
        fused = attend_all(attention, samples, np.arange(len(samples)))
        banks = {}
        if fused is not None:
            key, counted = jax.random.fold_in(run.key, 0), data.counted(fused.shape[2:4])
            banks = self.memory.fill(data.index, fused, key, counted)
        return {"fusion": nnx.to_pure_dict(nnx.state(attention)), "banks": banks}

    def _fuses(self, keys: EpipolarKeys) -> bool:
        """Return whether any patch of a category attends to another view."""
        return self.fusion.kind != "eam" or bool(keys.mask.any())

    @property
    def grows(self) -> bool:
        return self.bank.kind == "full"

    def grow(self, state: State, data: TrainData, first: int) -> State:
        """Return the banks with further samples, as the attention that is there makes of them; it stays as it is."""
        attention = self.start(0)
        nnx.update(attention, state["fusion"])
        fused = attend_all(attention, self._samples(data), np.arange(first, len(data.index)))
        counted = data.counted(fused.shape[2:4])
        return dict(state) | {"banks": self.memory.grow(state["banks"], data.index, fused, first, counted)}

    def plan(self, keys: EpipolarKeys) -> Keys:
        """Return the keys of a category as the attention takes them: bands where they are narrow, else a mask."""
        rows, columns, _ = self.spec.maps[PATCHES]
        if self.fusion.kind == "eam" and self.attention.combine == "joint" and len(self.spec.views) > 1:
            gather = self.fusion.gradient == "gather"
            bands = plan_bands(keys.mask, keys.F, (rows, columns), keys.patch_size, gather=gather)
            if 2 * bands.keys.shape[-1] <= keys.mask.shape[-1]:
                return bands
        return jnp.asarray(keys.mask)

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the distance of every attended patch to the nearest row of its bank (eq. 11)."""
        features = jnp.asarray(batch.features[PATCHES])
        fused = attend_batch(
            self._graph, state["fusion"], features, batch.present, batch.geometry, mesh=batch.mesh
        )
        return self.memory.distances(state["banks"], fused)

    def leave_one_out(
        self, state: State, data: TrainData, chosen: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n V h w"] | None:
        """Return maps of training samples, compared with the rows of the others; the attention has seen them."""
        attention = self.start(0)
        nnx.update(attention, state["fusion"])
        fused = attend_all(attention, self._samples(data), chosen)
        if fused is None:
            return None
        return self.memory.leave_one_out(state["banks"], data.index, fused, chosen)

    def attended(
        self, state: State, batch: Batch, keys: EpipolarKeys, top: int
    ) -> tuple[Int[np.ndarray, "B V N K"], Float32[np.ndarray, "B V N K"]]:
        """Return what each patch of some samples attended to most (attention_weights.py)."""
        z = batch.features[PATCHES]
        z = z.reshape(*z.shape[:2], -1, z.shape[-1])
        fusion = jax.tree.map(np.asarray, state["fusion"])
        found = attended_batch(self._graph, fusion, z, batch.present, keys.mask, top=top)
        return tuple(map(np.asarray, found))

    def state_bytes(self, images: int) -> int:
        rows, columns, width = self.spec.maps[PATCHES]
        return self.memory.bytes(images * rows * columns, width) + 4 * parameter_count(self)

    def checkpoint_bytes(self) -> int:
        """Return the bytes of parameters, AdamW's two moments and the centres."""
        centers = len(self.spec.views) * self.train.centers * self.attention.width
        return 4 * (3 * parameter_count(self) + centers)

    def describe(self) -> dict[str, str]:
        return {
            "fusion": self._fusion_words(),
            "trained": self._training_words(),
            "bank": self.bank.words(),
            "patch_score": self.memory.words(),
        }

    def checks(self) -> list[Check]:
        return parts.checks()

    def workloads(self) -> list[Workload]:
        return parts.workloads()

    def _samples(self, data: TrainData) -> NormalSamples:
        keys = tuple(self.plan(data.geometry[category]) for category in data.categories)
        return NormalSamples(data, keys, self.fusion.gradient == "gather")

    def _fusion_words(self) -> str:
        own, backbone = self.fusion, self.spec.backbone
        init = own.init if own.init != "copy" or backbone.has_next else "similarity (no block to copy)"
        parts = [own.kind, f"starts as {init}", f"heads: {own.heads or backbone.heads}"]
        if own.kind == "mvas":
            parts.append(f"{own.windows} x {own.windows} windows, the best {own.top_windows}")
        return ", ".join([*parts, f"{own.combine} over views", "residual"])

    def _training_words(self) -> str:
        own = self.training
        if own is None:
            return "nothing"
        parts = [
            f"{own.objective}, {own.epochs} epochs of batches of {own.batch_size}, the last of them taken"
        ]
        parts.append(f"AdamW {own.learning_rate:g}, weight decay {own.weight_decay:g}")
        if own.objective != "deepsvdd":
            parts.append(f"{own.centers} centres a view, updated: {own.center_update}")
        if own.objective == "mcp+reg":
            negatives = (
                f"{own.negatives} of a reference view for each of {own.mask_ratio:g} of the patches masked"
            )
            parts.append(f"negatives weigh {own.negative_weight:g}, {negatives} ({own.mask_fill})")
        return "; ".join(parts)
