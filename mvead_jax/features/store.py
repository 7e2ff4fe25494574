"""Feature maps in many files, read like one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class FeatureStore:
    """Array-like float32 [S,V,h,w,D] over chunk files; axis V in the order of `views`, zeros where missing.

    `store[samples]` and `store[samples, view]` read from disk what they return, with slices or indices.
    """

    def __init__(
        self, chunks: Sequence[np.ndarray], chunk_views: Sequence[tuple[str, ...]], views: tuple[str, ...]
    ):
        """chunks: [s,V',h,w,D]; chunk_views: the names of each chunk's axis V', all of them among `views`."""
        self._chunks = list(chunks)
        self._columns = [[names.index(v) if v in names else None for v in views] for names in chunk_views]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        self._chunk_views, self.views = list(chunk_views), views
        self.shape = (int(self._starts[-1]), len(views), *self._chunks[0].shape[2:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        samples, view = key if isinstance(key, tuple) else (key, None)
        positions = np.atleast_1d(np.arange(len(self))[samples])
        views = range(self.shape[1]) if view is None else [view]
        out = np.zeros((len(positions), len(views), *self.shape[2:]), np.float32)
        chunk_of = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(chunk_of):
            rows = np.flatnonzero(chunk_of == number)
            inside = positions[rows] - self._starts[number]
            for at, name in enumerate(views):
                column = self._columns[number][name]
                if column is not None:
                    out[rows, at] = self._chunks[number][inside, column]
        out = out if view is None else out[:, 0]
        return out[0] if np.isscalar(samples) else out

    @classmethod
    def concatenate(cls, stores: Sequence[FeatureStore], views: tuple[str, ...]) -> FeatureStore:
        """Return the samples of several stores one after the other, on the common axis `views`."""
        chunks = [chunk for store in stores for chunk in store._chunks]
        return cls(chunks, [names for store in stores for names in store._chunk_views], views)
