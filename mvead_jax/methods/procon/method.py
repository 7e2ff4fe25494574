"""ProCon's soft projection: patches of several blocks against small coresets of normal ones; nothing is trained.

Every view is an image of its own. docs/method.md tells what the paper does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.fill import Bank
from mvead_jax.bank.memory import SHARED, MemoryBanks, check_views
from mvead_jax.bank.nearest import ShardedRows, k_nearest, sharded_k_nearest
from mvead_jax.features.computed import ComputedFeatures
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData
from mvead_jax.methods.procon.config import ProconSection
from mvead_jax.methods.procon.projection import prepared, random_projection, residuals, top_mean
from mvead_jax.runtime.sharding import is_first


@dataclass(frozen=True)
class Procon:
    """The method. Attributes: bank, score_config, section: sections of the config."""

    spec: Spec
    bank: BankConfig
    score_config: BankScoreConfig
    section: ProconSection
    requires: Requires

    @property
    def memory(self) -> MemoryBanks:
        """The banks of one tap and one coreset."""
        return MemoryBanks(self.spec.views, self.bank, self.score_config)

    def width(self, tap: str) -> int:
        """Return the width of what the banks of a tap hold."""
        return min(self.spec.maps[tap][2], self.section.width)

    def projections(self, key: jax.Array) -> dict[str, Float32[Array, "D K"]]:
        """Return the random projection of each tap that is wider than the banks."""
        wide = {tap: self.spec.maps[tap][2] for tap in self.section.taps}
        return {
            tap: random_projection(jax.random.fold_in(key, number), inputs, self.width(tap))
            for number, (tap, inputs) in enumerate(wide.items())
            if inputs > self.width(tap)
        }

    def init(self, key: jax.Array) -> State:
        """Return the projections, and the banks before they are filled."""
        names = [str(number) for number in range(1, self.section.coresets + 1)]
        banks = {
            tap: {name: self.memory.init(self.width(tap)) for name in names} for tap in self.section.taps
        }
        return {"projections": self.projections(key), "banks": banks}

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Return the coresets of each tap. Raises UserError: a view without any image."""
        check_views(data.index)
        state = {"projections": jax.device_get(self.projections(run.key)), "banks": {}}
        if not is_first():
            return state
        for number, tap in enumerate(self.section.taps):
            projection = state["projections"].get(tap)
            shape = (*self.spec.maps[tap][:2], self.width(tap))
            embed = partial(_prepared_map, projection=projection)
            features = ComputedFeatures([data.features[tap]], embed, shape)
            key = jax.random.fold_in(run.key, len(self.section.taps) + number)
            counted = data.counted(shape[:2])
            state["banks"][tap] = {
                str(coreset): self.memory.fill(
                    data.index, features, jax.random.fold_in(key, coreset), counted
                )
                for coreset in range(1, self.section.coresets + 1)
            }
        return state

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the mean over taps of the median over coresets of what is left of every patch."""
        found = [
            self._of_tap(state["projections"].get(tap), state["banks"][tap], batch.features[tap])
            for tap in self.section.taps
        ]
        return sum(found) / len(found)

    def _of_tap(
        self,
        projection: Float32[Array, "D K"] | None,
        banks: Mapping[str, Mapping[str, Bank]],
        features: Float32[Array, "B V h w D"],
    ) -> Float32[Array, "B V h w"]:
        samples, _, rows, columns, _ = features.shape
        patches, views = prepared(jnp.asarray(features), projection), []
        for at, view in enumerate(self.spec.views):
            own = patches[:, at].reshape(samples, rows * columns, -1)
            name = view if self.bank.per_view else SHARED
            scores = [self._of_bank(own, coreset[name].rows) for coreset in banks.values()]
            views.append(jnp.median(jnp.stack(scores), axis=0).reshape(samples, rows, columns))
        return jnp.stack(views, 1)

    def _of_bank(
        self, patches: Float32[Array, "B N K"], bank: Float32[Array, "M K"] | ShardedRows
    ) -> Float32[Array, "B N"]:
        flat, k = patches.reshape(-1, patches.shape[-1]), self.section.neighbours
        precision = self.score_config.search
        if isinstance(bank, ShardedRows):
            distance, index = sharded_k_nearest(flat, bank, k, mesh=bank.mesh, precision=precision)
            return _left(patches, bank.values, distance, index)
        distance, index, _ = k_nearest(flat, bank, k, precision=precision)
        return _left(patches, bank, distance, index)

    def image_scores(self, maps: Float32[np.ndarray, "B V h w"]) -> Float32[np.ndarray, "B V"]:
        """Return the mean of the highest patch scores of each image."""
        return top_mean(np.asarray(maps), self.section.top)

    def state_bytes(self, images: int) -> int:
        total = 0
        for tap in self.section.taps:
            rows, columns, inputs = self.spec.maps[tap]
            width = self.width(tap)
            total += self.section.coresets * self.memory.bytes(images * rows * columns, width)
            total += 4 * inputs * width if inputs > width else 0
        return total

    def describe(self) -> dict[str, str]:
        own = self.section
        return {
            "fusion": "none",
            "trained": "nothing",
            "bank": f"{own.coresets} for each of {', '.join(own.taps)}: {self.bank.words()}; unit vectors, "
            f"projected at random to {own.width} dimensions where they have more",
            "patch_score": f"distance to the mean of the {own.neighbours} nearest rows weighted by softmax(-d2 / the "
            "image's median d2); the median over coresets, the mean over taps",
            "image_score_of_method": f"mean of the highest {own.top:g} of the patch scores",
        }


def _prepared_map(maps: list[Array], projection: Float32[np.ndarray, "D K"] | None) -> Array:
    return prepared(maps[0], None if projection is None else jnp.asarray(projection))


@jax.jit
def _left(
    patches: Float32[Array, "B N K"],
    rows: Float32[Array, "M K"],
    distance: Float32[Array, "BN k"],
    index: Array,
) -> Float32[Array, "B N"]:
    shape = (*patches.shape[:2], -1)
    squared, index = jnp.square(distance).reshape(shape), jnp.maximum(index, 0).reshape(shape)
    # One image at a time: its rows are many times as large as it is.
    return jax.lax.map(lambda own: residuals(own[0], rows[own[2]], own[1]), (patches, squared, index))
