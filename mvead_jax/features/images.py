"""Images of whole samples for the methods that want pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, Int

from mvead_jax.data.loading import load_sample
from mvead_jax.data.records import DatasetIndex

_THREADS = 8

Images = Callable[[Int[np.ndarray, " n"]], Float32[np.ndarray, "n V H W 3"]]


def image_reader(index: DatasetIndex, size: int) -> Images:
    """Return a function that reads the normalised images [n,V,size,size,3] of samples by their positions.

    Zeros where a view is missing. It raises UserError for an image that cannot be read.
    """

    def read(positions: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "n V H W 3"]:
        with ThreadPoolExecutor(_THREADS) as pool:  # decoding releases Python's lock
            loaded = pool.map(lambda at: load_sample(index, index.samples[at], size)[0], positions)
            return np.stack(list(loaded))

    return read
