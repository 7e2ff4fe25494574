"""PaDiM: a patch is as abnormal as it is far from the Gaussian of its place in normal images.

Defard et al., ICPR 2021; its authors published no code. Facts are those of the port that is commonly compared with
and of anomalib, by `padim.variant`. Each view has Gaussians of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from mvead_jax.bank.memory import check_views
from mvead_jax.methods.base import Batch, Requires, RunContext, Spec, State, TrainData, parameter_count
from mvead_jax.methods.batches import read_features
from mvead_jax.methods.padim.config import PadimSection
from mvead_jax.methods.padim.embedding import chosen_channels, embed
from mvead_jax.methods.padim.gaussian import distances, fit
from mvead_jax.methods.padim.scores import SMOOTHING, smoothed
from mvead_jax.runtime.progress import progress

_MORE = 1e-5  # that anomalib adds once more to the diagonal
_IMAGES = 32  # that are read at a time


@dataclass(frozen=True)
class Padim:
    """The method. Attributes: section: of the config."""

    requires: ClassVar[Requires] = Requires(taps=("pyramid",))

    spec: Spec
    section: PadimSection

    @property
    def _grid(self) -> tuple[int, int]:
        return next(iter(self.spec.maps.values()))[:2]

    def init(self, key: jax.Array) -> State:
        """Return Gaussians before they are fitted."""
        places, width = len(self.spec.views) * self._grid[0] * self._grid[1], self.section.channels
        by_view = (len(self.spec.views), places // len(self.spec.views))
        return {
            "channels": jnp.zeros(width, jnp.int32),
            "mean": jnp.zeros((*by_view, width), jnp.float32),
            "whitening": jnp.zeros((*by_view, width, width), jnp.float32),
        }

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Return the Gaussians of the training samples, by view and place. Raises UserError: a view without images."""
        check_views(data.index)
        total = sum(shape[2] for shape in self.spec.maps.values())
        channels = chosen_channels(total, self.section.channels, self.section.variant, run.key)
        more = _MORE if self.section.variant == "anomalib" else 0
        state = {
            name: np.zeros(like.shape, like.dtype)
            for name, like in jax.eval_shape(self.init, run.key).items()
        }
        state["channels"] = channels
        present = data.index.present()
        with progress(f"fitting {self.spec.name}", len(self.spec.views), "views") as bar:
            for view in range(len(self.spec.views)):
                rows = np.flatnonzero(present[:, view])
                for band in self._bands(len(rows)):
                    found = fit(
                        self._read(data, rows, view, channels, band), self.section.regularisation + more
                    )
                    state["mean"][view, band], state["whitening"][view, band] = found
                bar.advance()
        return state

    def _bands(self, images: int) -> list[slice]:
        """Places of the map, some at a time, so that the features of all images at them fit the bytes allowed."""
        places = self._grid[0] * self._grid[1]
        step = max(1, self.section.band_bytes // (4 * images * self.section.channels))
        return [slice(at, min(at + step, places)) for at in range(0, places, step)]

    def _read(
        self,
        data: TrainData,
        rows: Int[np.ndarray, " N"],
        view: int,
        channels: Int[np.ndarray, " d"],
        band: slice,
    ) -> Float32[np.ndarray, "N P d"]:
        """The embedding of some samples' images of a view, at some places."""
        found = np.empty((len(rows), band.stop - band.start, len(channels)), np.float32)
        for at in range(0, len(rows), _IMAGES):
            own = rows[at : at + _IMAGES]
            maps = read_features({tap: _View(store, view) for tap, store in data.features.items()}, own)
            embedding = embed([maps[tap] for tap in self.spec.maps], channels)
            found[at : at + len(own)] = embedding.reshape(len(own), -1, len(channels))[:, band]
        return found

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the Mahalanobis distance of every place to its Gaussian."""
        found = embed([jnp.asarray(batch.features[tap]) for tap in self.spec.maps], state["channels"])
        flat = found.reshape(*found.shape[:2], -1, found.shape[-1])
        by_view = jax.vmap(distances, in_axes=(1, 0, 0), out_axes=1)
        return by_view(flat, state["mean"], state["whitening"]).reshape(found.shape[:-1])

    def image_scores(self, maps: Float32[np.ndarray, "B V h w"]) -> Float32[np.ndarray, "B V"]:
        """Return the largest value of each map at the size of the input, after a gaussian of sigma 4."""
        size = (self.spec.image_size, self.spec.image_size)
        return smoothed(maps, size, self.section.variant).max((-2, -1)).astype(np.float32)

    def state_bytes(self, images: int) -> int:
        return 4 * parameter_count(self)

    def describe(self) -> dict[str, str]:
        own = self.section
        return {
            "fusion": "none",
            "trained": f"a Gaussian of {own.channels} channels ({own.variant}'s choice) for each place of each view",
            "patch_score": "Mahalanobis distance to the Gaussian of its place, "
            f"covariance + {own.regularisation:g} I",
            "image_score_of_method": f"largest value at the input's size after a gaussian of sigma {SMOOTHING:g}",
        }


@dataclass(frozen=True)
class _View:
    """One view of an array of feature maps [S,V,h,w,D], read by samples."""

    store: Mapping
    view: int

    def __getitem__(self, rows: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "n h w D"]:
        return self.store[rows, self.view]
