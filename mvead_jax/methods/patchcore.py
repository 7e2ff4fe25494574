"""PatchCore: a patch is as abnormal as it is far from every patch of the normal training samples.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022, in the form that seed 001
compares itself with: its eq. 1 on the backbone's features as they are, a bank for each view or one for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from mvead_jax.bank.nearest import nearest
from mvead_jax.data.records import DatasetIndex
from mvead_jax.errors import UserError
from mvead_jax.sharding import on_each_device

SHARED = "shared"
Banks = Mapping[str, Float32[Array, "M D"]]


@dataclass(frozen=True)
class PatchCore:
    """The method and its settings.

    Attributes:
      views: names of the cameras, in the order of axis V.
      grid: (h,w), patches of a view.
      per_view: a bank for each view, or one that all views share.
    """

    views: tuple[str, ...]
    grid: tuple[int, int]
    per_view: bool = True

    def fit(
        self,
        index: DatasetIndex,
        features: Float32[np.ndarray, "S V N D"],
        geometry: Any,
        key: jax.Array | None,
    ) -> Banks:
        """All patches of the training samples, by view name or under "shared".

        Args:
          index: the training samples, which should be normal; tells which views of which sample exist.
          features: their patch features, a NumPy array or a FeatureStore.
          geometry, key: not used; PatchCore looks at each view alone and leaves nothing to chance.

        Raises:
          UserError: a view without any training picture.
        """
        check_views(index)
        present = index.present()
        width = features.shape[-1]
        if self.per_view:
            return {
                view: _rows(np.asarray(features[:, at], np.float32), present[:, at])
                for at, view in enumerate(self.views)
            }
        patches = self.grid[0] * self.grid[1]
        rows = np.empty((int(present.sum()), patches, width), np.float32)  # filled in place: no second copy
        filled = 0
        for at in range(len(self.views)):
            own = present[:, at]
            rows[filled : filled + own.sum()] = np.asarray(features[:, at], np.float32)[own]
            filled += own.sum()
        return {SHARED: rows.reshape(-1, width)}

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
        NaN where a view is missing, or where no other sample has rows.

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
        owners = [np.repeat(np.flatnonzero(has), patches) for has in present.T]  # of the rows of each view
        maps = np.full((len(chosen), len(self.views), patches), np.nan, np.float32)
        banks: dict[str, jax.Array] = {}
        for at, view in enumerate(self.views):
            owner = owners[at] if self.per_view else np.concatenate(owners)
            name = view if self.per_view else SHARED
            if name not in banks:
                banks = {name: jax.device_put(state[name])}  # one at a time on the device
            bank = banks[name]
            for number, sample in enumerate(chosen):
                others = owner != sample
                if present[sample, at] and others.any():
                    maps[number, at] = nearest(own[number, at], bank, where=others)[0]
        return maps.reshape(*maps.shape[:2], *self.grid)

    def anomaly_maps(
        self, state: Banks, features: Float32[Array, "B V N D"], geometry: Any, mesh: Mesh | None = None
    ) -> Float32[Array, "B V h w"]:
        """Distance of every patch to the nearest row of its bank; jit-able.

        With a mesh the samples, a multiple of its devices, are divided over it; each holds all banks.
        """
        samples, _, patches, width = features.shape
        maps = []
        for at, view in enumerate(self.views):
            queries = features[:, at].reshape(samples * patches, width)
            distance = _distances(queries, state[view if self.per_view else SHARED], mesh)
            maps.append(distance.reshape(samples, *self.grid))
        return jnp.stack(maps, 1)


@partial(jax.jit, static_argnames="mesh")
def _distances(
    queries: Float32[Array, "Q D"], bank: Float32[Array, "M D"], mesh: Mesh | None
) -> Float32[Array, " Q"]:
    """Distance of every query to the nearest row of a bank.

    With a mesh the queries are divided over it, and every device searches the whole bank: model.read_model
    puts it there. A bank whose rows are divided over the mesh would be searched here.
    """

    def search(bank, queries):
        return nearest(queries, bank)[0]

    if mesh is not None:
        search = on_each_device(search, mesh)
    return search(bank, queries)


def _rows(features: Float32[np.ndarray, "S N D"], has: np.ndarray) -> Float32[np.ndarray, "M D"]:
    """The patches of the samples that have the view, without a copy where all have it."""
    return (features if has.all() else features[has]).reshape(-1, features.shape[-1])


def check_views(index: DatasetIndex) -> None:
    """Raises UserError if a view has no training picture."""
    for view, count in zip(index.views, index.present().sum(0), strict=True):
        if not count:
            raise UserError(f"view {view}: no training picture of {', '.join(index.categories)}")
