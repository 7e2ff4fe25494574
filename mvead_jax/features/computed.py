"""Features that a method computes of stored feature maps: as large as they are, they are never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32

_IMAGES = 16  # that are computed at a time


class ComputedFeatures:
    """float32 [S,V,h,w,K]: features that are computed of stored maps when they are read."""

    def __init__(
        self, stores: Sequence[Any], compute: Callable[[Sequence[Array]], Array], shape: tuple[int, int, int]
    ):
        """Hold the stores.

        Args:
          stores: of each map [S,V,h,w,C], arrays or FeatureStores.
          compute: the features (h,w,K) = `shape` of one image's maps.
        """
        self._stores, self._compute = stores, jax.jit(jax.vmap(compute))
        self.shape = (*stores[0].shape[:2], *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Float32[np.ndarray, "*images h w K"]:
        maps = [np.asarray(store[key], np.float32) for store in self._stores]
        leading = maps[0].shape[:-3]
        maps = [x.reshape(-1, *x.shape[-3:]) for x in maps]
        found = np.empty((len(maps[0]), *self.shape[2:]), np.float32)
        for start in range(0, len(found), _IMAGES):
            parts = [x[start : start + _IMAGES] for x in maps]
            count = len(parts[0])
            # One size is compiled.
            filled = [np.pad(x, ((0, _IMAGES - count), (0, 0), (0, 0), (0, 0))) for x in parts]
            found[start : start + count] = np.asarray(self._compute(filled))[:count]
        return found.reshape(*leading, *self.shape[2:])
