"""A trained model at work: patch features of samples -> anomaly maps, on all devices.

It knows nothing of lists, labels and result files: score.py has those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

from mvead_jax.backbones.base import Backbone
from mvead_jax.features.store import FeatureStore
from mvead_jax.config.schema import Config, ScoreConfig
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.postprocess.evidence import Calibration, fuse_evidence, standardise
from mvead_jax.methods.mvead.method import Mvead
from mvead_jax.methods.patchcore.method import PatchCore
from mvead_jax.scoring.model_store import build_method, read_model
from mvead_jax.runtime.sharding import batch_of, mesh, own_rows, place, replicate, to_host

_BATCH_SAMPLES = 8  # that a device scores at a time

Features = FeatureStore | Float32[np.ndarray, "S V N D"]


@dataclass(frozen=True)
class Model:
    """What a workdir holds under one name. calibration: of patch scores, for evidence."""

    method: PatchCore | Mvead
    state: Any
    calibration: Calibration


def load_model(config: Config, workdir: Path, name: str, views: tuple[str, ...], backbone: Backbone) -> Model:
    """The model `name` of a workdir; `views`: that it was trained with. Raises as model.read_model."""
    method = build_method(config, views, backbone, name=name)
    return Model(method, *read_model(workdir, name, method))


@dataclass(frozen=True)
class Scorer:
    """A model and the geometry of one category.

    Attributes:
      keys: of the category, on the model's axis of views.
      config: what is done with patch distances.
    """

    model: Model
    keys: EpipolarKeys
    config: ScoreConfig
    _planned: Any = field(init=False, repr=False)
    _mask: jax.Array = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "_planned", replicate(self.model.method.plan(self.keys)))
        object.__setattr__(self, "_mask", jnp.asarray(self.keys.mask))

    def maps(
        self,
        features: Features,
        present: Bool[np.ndarray, "S V"],
        rows: Int[np.ndarray, " n"],
        most: int = _BATCH_SAMPLES,
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Float32[np.ndarray, "b V h w"]]]:
        """Patch scores of some samples, a batch after another; NaN where a view is missing.

        All processes must call; each reads the features of its own samples.

        Args:
          features: of all samples. present: which views they have; the features of others are not read.
          rows: of the samples to score.
          most: that a device scores at a time; the maps do not depend on it.
        """
        size = batch_of(len(rows), most)
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            batch = _batch(features, present, chosen, size)
            maps = self.model.method.anomaly_maps(self.model.state, batch, self._planned, mesh())
            maps = np.array(to_host(maps))[: len(chosen)]
            if self.config.evidence != "none":
                fuse = partial(with_evidence, calibration=self.model.calibration, config=self.config)
                maps = np.array(jax.vmap(fuse, (0, 0, None))(maps, present[chosen], self._mask))
            maps[~present[chosen]] = np.nan
            yield chosen, maps

    def attended(
        self, features: Features, present: Bool[np.ndarray, "S V"], rows: Int[np.ndarray, " n"], top: int
    ) -> tuple[Int[np.ndarray, "n V N K"], Float32[np.ndarray, "n V N K"]] | None:
        """What each patch of some samples attended to most (attended.attended_patches); None where the method
        attends to nothing.

        Args as of `maps`, but one process calls, and its first device works.
        """
        method, state = self.model.method, self.model.state
        views, patches = features.shape[1:3]
        if not isinstance(method, Mvead) or views < 2:
            return None
        top, found = min(top, views * patches), []
        for row in rows:  # one after the other: a sample's weights are large, and few are asked for
            batch = np.where(present[[row]][..., None, None], features[np.array([row])], 0)
            found.append(method.attended(state, batch.astype(np.float32), self.keys, top))
        patches, weights = (np.concatenate(own) for own in zip(*found, strict=True))
        return patches, weights


def with_evidence(
    maps: Float32[Array, "V h w"],
    present: Bool[Array, " V"],
    mask: Bool[Array, "V V N N"],
    calibration: Calibration,
    config: ScoreConfig,
) -> Float32[Array, "V h w"]:
    """The standardised maps of a sample with what the other views add, as score.evidence says; jit-able."""
    if config.evidence == "all":
        mask = jnp.broadcast_to(~jnp.eye(len(mask), dtype=bool)[..., None, None], mask.shape)
    return fuse_evidence(standardise(maps, calibration), mask, present, config.weight, config.pooling)


def _batch(
    features: Features, present: Bool[np.ndarray, "S V"], rows: Int[np.ndarray, " b"], size: int
) -> jax.Array:
    """Features [size,V,N,D] over the mesh: of the given samples, then zeros; zeros for a missing view."""
    places = np.arange(size)[own_rows(size)]
    real = places < len(rows)
    own = rows[places[real]]
    batch = np.zeros((len(places), *features.shape[1:]), np.float32)
    batch[real] = np.where(present[own][..., None, None], features[own], 0)
    return place(batch)
