"""Images of whole samples for the methods that want pixels."""

from __future__ import annotations

from collections.abc import Callable

import grain
import numpy as np
from jaxtyping import Float32, Int

from mvead_jax.data.loading import iterate, load_sample
from mvead_jax.data.records import DatasetIndex

Images = Callable[[Int[np.ndarray, " n"]], Float32[np.ndarray, "n V H W 3"]]


def image_reader(index: DatasetIndex, size: int) -> Images:
    """Return a function that reads the normalised images [n,V,size,size,3] of samples by their positions.

    Grain's workers decode them. Zeros where a view is missing. The function raises UserError for an image that
    cannot be read.
    """

    def load(position: int) -> Float32[np.ndarray, "V H W 3"]:
        return load_sample(index, index.samples[position], size)[0]

    def read(positions: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "n V H W 3"]:
        return np.stack(list(iterate(grain.MapDataset.source(positions.tolist()).map(load))))

    return read
