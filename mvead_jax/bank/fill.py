"""What a memory bank keeps of the training patches: all, a greedy coreset, or k-means centres (D10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32
from sklearn.cluster import MiniBatchKMeans

from mvead_jax.bank.coreset import greedy_coreset

NOBODY = -1  # whose a row is that belongs to no sample
_READ_ROWS = 2**15
_FEW_ROWS = 2**16


class Bank(NamedTuple):
    """The rows of a bank, and whose they are.

    Attributes:
      rows: [M,D].
      sample: [M] which training sample each row is a patch of, by its position in the index; NOBODY for a
        centre of k-means. None where nobody asks.
    """

    rows: Float32[Array, "M D"]
    sample: Int32[np.ndarray, " M"] | None = None

    @classmethod
    def before_filling(cls, width: int) -> Bank:
        """Return a bank of one row of zeros: it stands for one whose number of rows is not known yet."""
        return cls(jnp.zeros((1, width), jnp.float32), jnp.zeros(1, jnp.int32))


@dataclass(frozen=True)
class Keep:
    """How a bank is filled; the fields of the config's section `bank`."""

    kind: Literal["full", "coreset", "kmeans"] = "full"
    share: float = 0.1
    projection: int = 128

    def size(self, rows: int) -> int:
        """How many rows are kept, at least one. Decision D10."""
        return rows if self.kind == "full" else max(1, int(self.share * rows))


class PatchRows:
    """float32 [M,D]: the patches of some pictures one after the other, read when they are asked for."""

    def __init__(self, features: Float32[np.ndarray, "S V h w D"], pictures: Int[np.ndarray, "P 2"]):
        """features: an array or a FeatureStore. pictures: sample and view of each."""
        self._features, self._pictures = features, pictures
        self._patches = math.prod(features.shape[2:-1])
        self.shape = (len(pictures) * self._patches, features.shape[-1])

    def __getitem__(self, rows: slice) -> Float32[np.ndarray, "m D"]:
        start, stop, _ = rows.indices(self.shape[0])
        first = start // self._patches
        pictures = self._pictures[first : -(-stop // self._patches)]
        block = self._read(pictures)
        skipped = first * self._patches
        return block.reshape(-1, self.shape[1])[start - skipped : stop - skipped]

    def _read(self, pictures: Int[np.ndarray, "p 2"]) -> Float32[np.ndarray, "p h w D"]:
        """Patches of some pictures; without a copy where an array holds them in one piece."""
        views = np.unique(pictures[:, 1])
        if len(views) == 1 and (np.diff(pictures[:, 0]) == 1).all():
            return np.asarray(self._features[pictures[0, 0] : pictures[-1, 0] + 1, int(views[0])], np.float32)
        block = np.empty((len(pictures), *self._features.shape[2:]), np.float32)
        for view in views:
            own = pictures[:, 1] == view
            block[own] = self._features[pictures[own, 0], int(view)]
        return block

    def take(self, chosen: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m D"]:
        """Some rows, read in the order in which they lie."""
        taken = np.empty((len(chosen), self.shape[1]), np.float32)
        for start in range(0, self.shape[0], _READ_ROWS):
            own = (chosen >= start) & (chosen < start + _READ_ROWS)
            if own.any():
                taken[own] = self[start : start + _READ_ROWS][chosen[own] - start]
        return taken

    @property
    def sample(self) -> Int32[np.ndarray, " M"]:
        """The sample of each row."""
        return np.repeat(self._pictures[:, 0], self._patches).astype(np.int32)


def fill(rows: PatchRows, keep: Keep, seed: int) -> Bank:
    """The bank that `keep` makes of rows.

    A coreset keeps its rows in the order they were taken, so that its beginning is a smaller coreset. `full`
    and `kmeans` hold all rows in memory, `coreset` only its projection and what it keeps.
    """
    size = keep.size(rows.shape[0])
    if keep.kind == "kmeans":
        everything = rows[0 : rows.shape[0]]
        if len(everything) <= _FEW_ROWS:  # a large bank has more different rows than centres
            size = min(size, len(np.unique(everything, axis=0)))  # or centres would be the same
        k_means = MiniBatchKMeans(size, random_state=seed, n_init=1, batch_size=4096)
        return Bank(k_means.fit(everything).cluster_centers_, np.full(size, NOBODY, np.int32))
    if keep.kind == "full":
        return Bank(rows[0 : rows.shape[0]], rows.sample)
    chosen = greedy_coreset(rows, size, seed=seed, projection_dim=keep.projection or None)
    return Bank(rows.take(chosen), rows.sample[chosen])
