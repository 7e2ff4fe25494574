"""Memory banks of patch features, one for each view or one for all: filled by training, searched by scoring.

PatchCore (Roth et al., CVPR 2022) scores by them alone; other methods change the features first.

Letters: S samples of an index, B of a batch, V views, h x w patches of a view, D feature width, M bank rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.fill import Bank, CountedRows, PatchRows, fill
from mvead_jax.bank.hull import hull_distance, sharded_hull_distance
from mvead_jax.bank.nearest import ShardedRows, nearest, sharded_nearest
from mvead_jax.data.records import DatasetIndex
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.sharding import is_first

SHARED = "shared"
Banks = Mapping[str, Bank]


@dataclass(frozen=True)
class MemoryBanks:
    """The banks of a model.

    Attributes:
      views: names of the cameras, in the order of axis V.
      bank, score: sections of the config.
    """

    views: tuple[str, ...]
    bank: BankConfig
    score: BankScoreConfig

    def names(self) -> tuple[str, ...]:
        """Return the names of the banks."""
        return self.views if self.bank.per_view else (SHARED,)

    def init(self, width: int) -> Banks:
        """Return the banks of features so wide before they are filled."""
        return {name: Bank.before_filling(width) for name in self.names()}

    def fill(
        self,
        index: DatasetIndex,
        features: Float32[np.ndarray, "S V h w D"],
        key: jax.Array,
        counted: Bool[np.ndarray, "S V h w"] | None = None,
    ) -> Banks:
        """Return the patches of the training samples that the config keeps, by view name or under "shared".

        The first process fills the banks; the others return none.

        Args:
          index: the training samples; tells which views of which sample exist.
          features: their patch features, an array or a FeatureStore.
          key: what a coreset or k-means follows from.
          counted: which patches count, at least one of each view; None: all.
        """
        if not is_first():
            return {}
        present = index.present()
        images = np.argwhere(present.T)[:, ::-1]  # sample and view of each image, view after view
        groups = {SHARED: images}
        if self.bank.per_view:
            groups = {view: images[images[:, 1] == at] for at, view in enumerate(self.views)}
        samples = [sample.id for sample in index.samples]
        banks = {}
        for number, (name, own) in enumerate(groups.items()):
            seed = 0 if self.bank.kind == "full" else seed_from(jax.random.fold_in(key, number))
            given = features, own, samples, self.views
            rows = PatchRows(*given) if counted is None else CountedRows(counted, *given)
            banks[name] = fill(rows, self.bank, seed)
        return banks

    def grow(
        self,
        banks: Banks,
        index: DatasetIndex,
        features: Float32[np.ndarray, "n V h w D"],
        first: int,
        counted: Bool[np.ndarray, "S V h w"] | None = None,
    ) -> Banks:
        """Return banks of all patches with those of further samples behind their rows.

        Args:
          index: all samples, of which the banks know those before `first`.
          features: of the samples from `first` on. counted: as of `fill`, of all samples.
        """
        further = replace(index, samples=index.samples[first:])
        key = jax.random.key(0)  # nothing of a full bank is drawn
        new = self.fill(further, features, key, None if counted is None else counted[first:])
        return {
            name: Bank(
                np.concatenate([np.asarray(own.rows), new[name].rows]),
                np.concatenate([np.asarray(own.sample), new[name].sample + np.int32(first)]),
            )
            for name, own in banks.items()
        }

    def leave_one_out(
        self,
        banks: Banks,
        index: DatasetIndex,
        features: Float32[np.ndarray, "n V h w D"],
        chosen: Int[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "n V h w"]:
        """Return the distances of some training samples, each to the rows of the other samples only.

        How far normal parts are from each other: to a bank that has its own rows a sample's distance is 0.
        NaN where a view is missing, or where no other sample has rows. A centre of k-means is nobody's and is
        never left out, though the sample's patches had their part in it: such distances are a little short.

        Args:
          banks: what `fill` made of the samples of `index`.
          features: of the chosen samples. chosen: their positions in the index.
        """
        present = index.present()
        maps = np.full(features.shape[:-1], np.nan, np.float32)
        rows: dict[str, jax.Array] = {}
        for at, view in enumerate(self.views):
            name = view if self.bank.per_view else SHARED
            if name not in rows:
                rows = {name: jax.device_put(banks[name].rows)}  # one at a time on the device
            for number, sample in enumerate(chosen):
                others = banks[name].sample != sample
                if present[sample, at] and others.any():
                    queries = features[number, at].reshape(-1, features.shape[-1])
                    distance = self._distance(queries, rows[name], others)
                    maps[number, at] = np.asarray(distance).reshape(maps.shape[2:])
        return maps

    def distances(self, banks: Banks, features: Float32[Array, "B V h w D"]) -> Float32[Array, "B V h w"]:
        """Return the distance of every patch from its bank (`score.distance`); jit-able where the banks are arrays.

        Args:
          features: of a batch; with several devices, divided over them.
          banks: of arrays, or of ShardedRows, whose devices each search their rows for all patches.
        """
        samples, _, rows, columns, width = features.shape
        maps = []
        for at, view in enumerate(self.views):
            queries = features[:, at].reshape(samples * rows * columns, width)
            bank = banks[view if self.bank.per_view else SHARED].rows
            maps.append(self._distance(queries, bank).reshape(samples, rows, columns))
        return jnp.stack(maps, 1)

    def _distance(
        self,
        queries: Float32[Array, "Q D"],
        bank: Float32[Array, "M D"] | ShardedRows,
        where: Bool[np.ndarray, " M"] | None = None,
    ) -> Float32[Array, " Q"]:
        """On one device, or over those that hold the bank's rows."""
        options: dict[str, Any] = {"where": where, "precision": self.score.search}
        is_hull = self.score.distance == "hull"
        if is_hull:
            options |= {"k": self.score.neighbours, "ridge": self.score.ridge}
        if isinstance(bank, ShardedRows):
            options["mesh"] = bank.mesh
            if is_hull:
                return sharded_hull_distance(queries, bank, **options)
            return sharded_nearest(queries, bank, **options)[0]
        return hull_distance(queries, bank, **options) if is_hull else nearest(queries, bank, **options)[0]

    def bytes(self, patches: int, width: int) -> int:
        """Return the bytes of banks that were filled from so many patches: rows, and whose each row is."""
        return self.bank.size(patches) * 4 * (width + 1)

    def words(self) -> str:
        """Return how a patch is scored, for the protocol."""
        row = "centre" if self.bank.kind == "kmeans" else "patch"
        if self.score.distance == "nearest":
            return f"distance to the nearest {row} of its bank"
        rows = {"centre": "centres", "patch": "patches"}[row]
        own = self.score
        return f"distance to the affine hull of the {own.neighbours} nearest {rows} of its bank, ridge {own.ridge:g}"


def check_views(index: DatasetIndex) -> None:
    """Raise UserError if a view has no training image."""
    for view, count in zip(index.views, index.present().sum(0), strict=True):
        if not count:
            raise UserError(f"view {view}: no training image of {', '.join(index.categories)}")


def seed_from(key: jax.Array) -> int:
    """Return a whole number for the libraries that want one as their seed."""
    return int(np.asarray(jax.random.key_data(key)).ravel()[-1]) & 0x7FFFFFFF
