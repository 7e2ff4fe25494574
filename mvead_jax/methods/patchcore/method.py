"""PatchCore: a patch is as abnormal as it is far from every patch of the normal training samples.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022. By default in the form that seed 001
compares itself with: its eq. 1 on the backbone's features as they are, a bank for each view or one for all, of all
patches, a coreset or k-means centres (decision D10). As published (`configs/patchcore.py:published`): neighbourhoods
of two feature maps, one coreset, and weighted image scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.memory import SHARED, MemoryBanks, check_views
from mvead_jax.features.computed import ComputedFeatures
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.patchcore.config import PatchCoreSection
from mvead_jax.methods.patchcore.embedding import embedded
from mvead_jax.methods.patchcore.reweighting import weights
from mvead_jax.runtime.sharding import is_first


@dataclass(frozen=True)
class PatchCore:
    """The method. Attributes: bank, score_config, section: sections of the config."""

    spec: Spec
    bank: BankConfig
    score_config: BankScoreConfig
    section: PatchCoreSection = field(default_factory=PatchCoreSection)
    requires: Requires = field(default_factory=Requires)

    @property
    def memory(self) -> MemoryBanks:
        return MemoryBanks(self.spec.views, self.bank, self.score_config)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, D) of the patch features of an image."""
        shapes = [self.spec.maps[tap] for tap in self.section.taps]
        return *shapes[0][:2], self.section.width or sum(shape[2] for shape in shapes)

    def init(self, key: jax.Array) -> State:
        """Return the banks before they are filled."""
        return {"banks": self.memory.init(self.shape[-1])}

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Return banks of the patches of the training samples. Raises UserError: a view without any image."""
        check_views(data.index)
        features = self._stored(data.features)
        counted = data.counted(features.shape[2:4])
        return {"banks": self.memory.fill(data.index, features, run.key, counted)}

    @property
    def grows(self) -> bool:
        return self.bank.kind == "full"

    def grow(self, state: State, data: TrainData, first: int) -> State:
        """Return the banks with the patches of further samples: what all of them together would have made."""
        features = self._stored(data.features)
        further = features[np.arange(first, len(data.index))]
        counted = data.counted(features.shape[2:4])
        return {"banks": self.memory.grow(state["banks"], data.index, further, first, counted)}

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the distance of every patch to the nearest row of its bank (eq. 1 of seed 001)."""
        return self.memory.distances(state["banks"], self._features(batch))

    def leave_one_out(
        self, state: State, data: TrainData, chosen: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n V h w"] | None:
        """Return the maps of training samples, each compared with the rows of the others only."""
        if not is_first():
            return None
        features = self._stored(data.features)[chosen]
        return self.memory.leave_one_out(state["banks"], data.index, features, chosen)

    def state_bytes(self, images: int) -> int:
        rows, columns, width = self.shape
        return self.memory.bytes(images * rows * columns, width)

    def describe(self) -> dict[str, str]:
        return {
            "fusion": "none",
            "trained": "nothing",
            "bank": self.bank.words(),
            "patch_score": self.memory.words() + self._feature_words(),
        }

    def _feature_words(self) -> str:
        own = self.section
        if own.plain:
            return ""
        around = (
            f", means of {own.neighbourhood} x {own.neighbourhood} cells" if own.neighbourhood > 1 else ""
        )
        width = f", averaged to {own.width} values each and together" if own.width else ""
        return f"; of {', '.join(own.taps)}{around}{width}"

    def _embed(self, maps: list[Array]) -> Array:
        return embedded(maps, self.section.neighbourhood, self.section.width)

    def _features(self, batch: Batch) -> Float32[Array, "B V h w D"]:
        maps = [batch.features[tap] for tap in self.section.taps]
        return maps[0] if self.section.plain else _of_batch(self._embed, [jnp.asarray(x) for x in maps])

    def _stored(self, features: Mapping[str, Any]) -> Any:
        """The patch features of training samples, an array or what reads like one."""
        stores = [features[tap] for tap in self.section.taps]
        return stores[0] if self.section.plain else ComputedFeatures(stores, self._embed, self.shape)


@dataclass(frozen=True)
class ReweightedPatchCore(PatchCore):
    """PatchCore whose image scores are weighted by the rows near the nearest row of the worst patch (eq. 7)."""

    def score_images(
        self, state: State, batch: Batch, maps: Float32[Array, "B V h w"]
    ) -> Float32[Array, "B V"]:
        """Return the highest score of each map times its weight."""
        features, scores = self._features(batch), []
        for at, view in enumerate(self.spec.views):
            own = maps[:, at].reshape(len(maps), -1)
            patches = features[:, at].reshape(*own.shape, features.shape[-1])
            worst = jnp.take_along_axis(patches, own.argmax(1)[:, None, None], 1)[:, 0]
            bank = state["banks"][view if self.bank.per_view else SHARED].rows
            scores.append(own.max(1) * weights(worst, bank, self.section.reweight))
        return jnp.stack(scores, 1)

    def describe(self) -> dict[str, str]:
        own = f"highest patch score, weighted by the {self.section.reweight} rows around its nearest (eq. 7)"
        return super().describe() | {"image_score_of_method": own}


@partial(jax.jit, static_argnums=0)
def _of_batch(embed: Any, maps: list[Array]) -> Float32[Array, "B V h w D"]:
    return jax.vmap(jax.vmap(lambda *own: embed(list(own))))(*maps)
