"""What a memory bank keeps of the training patches: all, a greedy coreset, or k-means centres (D10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Int32

from mvead_jax.bank.config import BankConfig
from mvead_jax.bank.coreset import greedy_coreset
from mvead_jax.bank.search.rows import NotFinite, check_rows
from mvead_jax.runtime.errors import UserError

NO_SAMPLE = -1  # in place of the sample of a row that belongs to none
_READ_ROWS = 2**15
_FEW_ROWS = 2**16


class Bank(NamedTuple):
    """The rows of a bank, and the samples they belong to.

    Attributes:
      rows: [M,D].
      sample: [M] which training sample each row is a patch of, by its position in the index; NO_SAMPLE for a
        centre of k-means. None where nobody asks.
    """

    rows: Float32[Array, "M D"]
    sample: Int32[np.ndarray, " M"] | None = None

    @classmethod
    def before_filling(cls, width: int) -> Bank:
        """Return a bank of one row of zeros: it stands for one whose number of rows is not known yet."""
        return cls(jnp.zeros((1, width), jnp.float32), jnp.zeros(1, jnp.int32))


class PatchRows:
    """float32 [M,D]: the patches of some images one after the other, read when they are asked for."""

    def __init__(
        self,
        features: Float32[np.ndarray, "S V h w D"],
        images: Int[np.ndarray, "P 2"],
        samples: Sequence[str] | None = None,
        views: Sequence[str] | None = None,
    ):
        """Hold the images' patches.

        Args:
          features: an array or a FeatureStore.
          images: sample and view of each.
          samples, views: the names [S] and [V] for messages; without them the numbers are named.
        """
        self._features, self._images = features, images
        self._samples, self._views = samples, views
        self._patches = math.prod(features.shape[2:-1])
        self.shape = (len(images) * self._patches, features.shape[-1])

    def __getitem__(self, rows: slice) -> Float32[np.ndarray, "m D"]:
        return self._all(*rows.indices(self.shape[0])[:2])

    def _all(self, start: int, stop: int) -> Float32[np.ndarray, "m D"]:
        """Rows from start to stop of all patches."""
        first = start // self._patches
        images = self._images[first : -(-stop // self._patches)]
        block = self._read(images)
        skipped = first * self._patches
        return block.reshape(-1, self.shape[1])[start - skipped : stop - skipped]

    def _read(self, images: Int[np.ndarray, "p 2"]) -> Float32[np.ndarray, "p h w D"]:
        """Patches of some images; without a copy where an array holds them in one piece."""
        views = np.unique(images[:, 1])
        if len(views) == 1 and (np.diff(images[:, 0]) == 1).all():
            return np.asarray(self._features[images[0, 0] : images[-1, 0] + 1, int(views[0])], np.float32)
        block = np.empty((len(images), *self._features.shape[2:]), np.float32)
        for view in views:
            own = images[:, 1] == view
            block[own] = self._features[images[own, 0], int(view)]
        return block

    def take(self, chosen: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m D"]:
        """Return some rows, read in the order in which they lie."""
        taken = np.empty((len(chosen), self.shape[1]), np.float32)
        for start in range(0, self.shape[0], _READ_ROWS):
            own = (chosen >= start) & (chosen < start + _READ_ROWS)
            if own.any():
                taken[own] = self[start : start + _READ_ROWS][chosen[own] - start]
        return taken

    @property
    def sample(self) -> Int32[np.ndarray, " M"]:
        """The sample of each row."""
        return np.repeat(self._images[:, 0], self._patches).astype(np.int32)

    def place(self, row: int) -> str:
        """Return the sample, view and patch of a row, in words."""
        image, patch = divmod(row, self._patches)
        sample, view = map(int, self._images[image])
        names = (
            f"number {number}" if known is None else known[number]
            for known, number in ((self._samples, sample), (self._views, view))
        )
        return "sample {}, view {}, patch {}".format(*names, patch)


class CountedRows(PatchRows):
    """Those of the patches that count, in the order of `PatchRows`."""

    def __init__(self, counted: Bool[np.ndarray, "S V h w"], *given: Any):
        """Hold the images' patches. Args: counted: which patches count. given: as of `PatchRows`."""
        super().__init__(*given)
        samples, views = self._images.T
        self._counted = np.flatnonzero(counted[samples, views].ravel())
        self.shape = (len(self._counted), self.shape[1])

    def __getitem__(self, rows: slice) -> Float32[np.ndarray, "m D"]:
        start, stop, _ = rows.indices(self.shape[0])
        own = self._counted[start:stop]
        if not len(own):
            return np.zeros((0, self.shape[1]), np.float32)
        return self._all(own[0], own[-1] + 1)[own - own[0]]

    @property
    def sample(self) -> Int32[np.ndarray, " M"]:
        return super().sample[self._counted]

    def place(self, row: int) -> str:
        return super().place(int(self._counted[row]))


def fill(rows: PatchRows, rule: BankConfig, seed: int) -> Bank:
    """Return the bank that a rule makes of rows.

    A coreset keeps its rows in the order they were taken, so that its beginning is a smaller coreset. `full`
    and `kmeans` hold all rows in memory, `coreset` only its projection and what it keeps.

    Raises:
      UserError: features that are not finite, or too large: names the sample, the view and the patch.
    """
    try:
        return _filled(rows, rule, seed)
    except NotFinite as error:
        raise UserError(
            f"{rows.place(error.row)}: features {error.what}; look at this image and at the backbone's "
            "weights, delete the cached features, and train again"
        ) from None


def _filled(rows: PatchRows, rule: BankConfig, seed: int) -> Bank:
    size = rule.size(rows.shape[0])
    if rule.kind == "coreset":  # checks the rows as it reads them
        chosen = greedy_coreset(rows, size, seed=seed, projection_dim=rule.projection or None)
        return Bank(rows.take(chosen), rows.sample[chosen])
    everything = rows[0 : rows.shape[0]]
    for start in range(0, len(everything), _READ_ROWS):
        check_rows(everything[start : start + _READ_ROWS], start)
    if rule.kind == "full":
        return Bank(everything, rows.sample)
    if len(everything) <= _FEW_ROWS:  # a large bank has more different rows than centres
        size = min(size, len(np.unique(everything, axis=0)))  # or centres would be the same
    from sklearn.cluster import MiniBatchKMeans  # here: it takes a second, and an Inspector needs none

    k_means = MiniBatchKMeans(size, random_state=seed, n_init=1, batch_size=4096)
    return Bank(k_means.fit(everything).cluster_centers_, np.full(size, NO_SAMPLE, np.int32))
