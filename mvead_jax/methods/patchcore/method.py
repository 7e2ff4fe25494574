"""PatchCore: a patch is as abnormal as it is far from every patch of the normal training samples.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022, in the form that seed 001
compares itself with: its eq. 1 on the backbone's features as they are, a bank for each view or one for all,
of all patches, a coreset or k-means centres (decision D10).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float32, Int

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.memory import MemoryBanks, check_views
from mvead_jax.methods.base import PATCHES, Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.runtime.sharding import is_first


@dataclass(frozen=True)
class PatchCore:
    """The method. Attributes: bank, score_config: sections of the config."""

    requires: ClassVar[Requires] = Requires()

    spec: Spec
    bank: BankConfig
    score_config: BankScoreConfig

    @property
    def memory(self) -> MemoryBanks:
        return MemoryBanks(self.spec.views, self.bank, self.score_config)

    def init(self, key: jax.Array) -> State:
        """Return the banks before they are filled."""
        return {"banks": self.memory.init(self.spec.maps[PATCHES][-1])}

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Return banks of the patches of the training samples. Raises UserError: a view without any image."""
        check_views(data.index)
        return {"banks": self.memory.fill(data.index, data.features[PATCHES], run.key)}

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the distance of every patch to the nearest row of its bank (eq. 1 of seed 001)."""
        return self.memory.distances(state["banks"], batch.features[PATCHES])

    def leave_one_out(
        self, state: State, data: TrainData, chosen: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n V h w"] | None:
        """Return the maps of training samples, each compared with the rows of the others only."""
        if not is_first():
            return None
        return self.memory.leave_one_out(state["banks"], data.index, data.features[PATCHES][chosen], chosen)

    def state_bytes(self, images: int) -> int:
        rows, columns, width = self.spec.maps[PATCHES]
        return self.memory.bytes(images * rows * columns, width)

    def describe(self) -> dict[str, str]:
        return {
            "fusion": "none",
            "trained": "nothing",
            "bank": self.bank.words(),
            "patch_score": self.memory.words(),
        }
