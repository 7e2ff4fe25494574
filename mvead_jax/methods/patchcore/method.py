"""PatchCore: a patch is as abnormal as it is far from every patch of the normal training samples.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022, in the form that seed 001
compares itself with: its eq. 1 on the backbone's features as they are, a bank for each view or one for all,
of all patches, a coreset or k-means centres (decision D10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from mvead_jax.bank.search.bounds import Precision
from mvead_jax.bank.fill import Bank, Keep, PatchRows, fill
from mvead_jax.bank.nearest import ShardedRows, nearest, sharded_nearest
from mvead_jax.data.records import DatasetIndex
from mvead_jax.runtime.errors import UserError

SHARED = "shared"
Banks = Mapping[str, Bank]


@dataclass(frozen=True)
class PatchCore:
    """The method and its settings.

    Attributes:
      views: names of the cameras, in the order of axis V.
      grid: (h,w), patches of a view.
      per_view: a bank for each view, or one that all views share.
      keep: what a bank keeps of the patches.
      search: precision of the products that rule bank rows out; decides the time, not the maps.
    """

    views: tuple[str, ...]
    grid: tuple[int, int]
    per_view: bool = True
    keep: Keep = field(default_factory=Keep)
    search: Precision = "float32"

    def fit(
        self,
        index: DatasetIndex,
        features: Float32[np.ndarray, "S V N D"],
        geometry: Any,
        key: jax.Array | None,
    ) -> Banks:
        """Patches of the training samples, by view name or under "shared".

        Args:
          index: the training samples, which should be normal; tells which views of which sample exist.
          features: their patch features, a NumPy array or a FeatureStore.
          geometry: not used; PatchCore looks at each view alone.
          key: what a coreset or k-means follows from; None will do for the full bank.

        Raises:
          UserError: a view without any training picture.
        """
        check_views(index)
        present = index.present()
        # Sample and view of each picture, view after view.
        pictures = np.argwhere(present.T)[:, ::-1]
        groups = {SHARED: pictures}
        if self.per_view:
            groups = {view: pictures[pictures[:, 1] == at] for at, view in enumerate(self.views)}
        banks = {}
        for number, (name, own) in enumerate(groups.items()):
            seed = 0 if self.keep.kind == "full" else seed_from(jax.random.fold_in(key, number))
            banks[name] = fill(PatchRows(features, own), self.keep, seed)
        return banks

    def plan(self, keys: Any) -> None:
        """What `anomaly_maps` wants to know of a category's geometry: nothing."""

    def leave_one_out(
        self,
        state: Banks,
        index: DatasetIndex,
        features: Float32[np.ndarray, "S V N D"],
        geometry: Any,
        chosen: Int[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "n V h w"]:
        """Patch distances of some training samples, each to the rows of the other samples only.

        How far normal parts are from each other: to a bank that has its own rows a sample's distance is 0.
        NaN where a view is missing, or where no other sample has rows. A centre of k-means is nobody's and is
        never left out, though the sample's patches had their part in it: such distances are a little short.

        Args:
          state, index, features: what `fit` made, and what it was made from. geometry: not used.
          chosen: positions of samples in the index.
        """
        return self.left_out(state, index, features[chosen], chosen)

    def left_out(
        self,
        state: Banks,
        index: DatasetIndex,
        own: Float32[np.ndarray, "n V N D"],
        chosen: Int[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "n V h w"]:
        """`leave_one_out` for samples whose features `own` are at hand."""
        present = index.present()
        patches = self.grid[0] * self.grid[1]
        maps = np.full((len(chosen), len(self.views), patches), np.nan, np.float32)
        banks: dict[str, jax.Array] = {}
        for at, view in enumerate(self.views):
            name = view if self.per_view else SHARED
            if name not in banks:
                banks = {name: jax.device_put(state[name].rows)}  # one at a time on the device
            bank = banks[name]
            for number, sample in enumerate(chosen):
                others = state[name].sample != sample
                if present[sample, at] and others.any():
                    maps[number, at] = nearest(own[number, at], bank, where=others)[0]
        return maps.reshape(*maps.shape[:2], *self.grid)

    def anomaly_maps(
        self, state: Banks, features: Float32[Array, "B V N D"], geometry: Any, mesh: Mesh | None = None
    ) -> Float32[Array, "B V h w"]:
        """Distance of every patch to the nearest row of its bank; jit-able where the banks are arrays.

        Args:
          features: with `mesh`, a multiple of its devices, divided over it.
          state: banks of arrays, or of ShardedRows, whose devices each search their rows for all patches.
        """
        del geometry, mesh  # the banks know theirs
        samples, _, patches, width = features.shape
        maps = []
        for at, view in enumerate(self.views):
            queries = features[:, at].reshape(samples * patches, width)
            bank = state[view if self.per_view else SHARED].rows
            distance = _distances(queries, bank, self.search)
            maps.append(distance.reshape(samples, *self.grid))
        return jnp.stack(maps, 1)


def seed_from(key: jax.Array) -> int:
    """A whole number for the libraries that want one."""
    return int(np.asarray(jax.random.key_data(key)).ravel()[-1]) & 0x7FFFFFFF


def _distances(
    queries: Float32[Array, "Q D"], bank: Float32[Array, "M D"] | ShardedRows, precision: Precision
) -> Float32[Array, " Q"]:
    """Of every query to the nearest row of a bank, on one device or over those that hold its rows."""
    if isinstance(bank, ShardedRows):
        return sharded_nearest(queries, bank, mesh=bank.mesh, precision=precision)[0]
    return nearest(queries, bank, precision=precision)[0]


def check_views(index: DatasetIndex) -> None:
    """Raises UserError if a view has no training picture."""
    for view, count in zip(index.views, index.present().sum(0), strict=True):
        if not count:
            raise UserError(f"view {view}: no training picture of {', '.join(index.categories)}")
