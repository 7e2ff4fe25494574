"""A trained model at work: feature maps of samples -> anomaly maps, on all devices.

It knows nothing of lists, labels and result files: jobs/score.py has those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int

from mvead_jax.config.schema import ScoreConfig
from mvead_jax.data.ignored import Ignored, ignored_patches
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.methods.base import (
    PATCHES,
    Batch,
    Method,
    PlansGeometry,
    ScoresImages,
    ScoresImagesByFeatures,
    ShowsAttention,
    State,
    map_shape,
)
from mvead_jax.postprocess.evidence import evidence_grid, image_scores, with_evidence
from mvead_jax.postprocess.statistics import ScoreStatistics
from mvead_jax.runtime import sharding
from mvead_jax.runtime.device_memory import fitting, most_at_a_time
from mvead_jax.scoring.uncounted import Uncounted, evidence_without, without_uncounted

_NUMBERS_OF_A_PAIR = 16  # as of 16 heads of attention
_BATCH_SAMPLES = 8  # that a device scores at a time, where its memory holds them


@dataclass(frozen=True)
class Inputs:
    """Some samples as a method reads them.

    Attributes:
      features: [S,V,h,w,D] by tap, arrays or FeatureStores. present: which views each sample has.
      images: [n,V,H,W,3] of samples by their positions; None unless the method requires them.
      foreground: masks [n,V,h,w] of samples by their positions; None: every patch counts.
    """

    features: Mapping[str, Any]
    present: Bool[np.ndarray, "S V"]
    images: Callable[[Int[np.ndarray, " n"]], Float32[np.ndarray, "n V H W 3"]] | None = None
    foreground: Callable[[Int[np.ndarray, " n"]], Bool[np.ndarray, "n V h w"]] | None = None

    def only(self, present: Bool[np.ndarray, "S V"]) -> Inputs:
        """Return the samples as if nothing but these of their views were there: nothing of another one is read."""
        present = self.present & present
        images, foreground = self.images, self.foreground

        def images_left(rows: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "n V H W 3"]:
            return np.where(present[rows][..., None, None, None], images(rows), np.float32(0))

        def foreground_left(rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n V h w"]:
            return present[rows][..., None, None] & foreground(rows)

        return replace(
            self,
            present=present,
            images=images and images_left,
            foreground=foreground and foreground_left,
        )


class Scored(NamedTuple):
    """What a scorer says of some samples; NaN where a view is missing.

    Attributes:
      rows: of the samples. maps: their anomaly maps.
      views: scores by which samples are scored and decided about. images: scores of images by themselves.
    """

    rows: Int[np.ndarray, " b"]
    maps: Float32[np.ndarray, "b V h w"]
    views: Float32[np.ndarray, "b V"]
    images: Float32[np.ndarray, "b V"]


@dataclass(frozen=True)
class Model:
    """A method with what it has learned.

    Attributes:
      statistics: of normal scores, for evidence.
      ignored: masks of each category's views, whose patches never count.
    """

    method: Method
    state: State
    statistics: ScoreStatistics
    ignored: Mapping[str, Ignored] = field(default_factory=dict)


def keys_grid(method: Method) -> tuple[int, int]:
    """Return (h, w) of the patches between which the epipolar keys of a model are."""
    if PATCHES in method.spec.maps:
        return method.spec.maps[PATCHES][:2]
    return evidence_grid(map_shape(method))


@dataclass(frozen=True)
class Scorer:
    """A model at work on one category that it has learned.

    Attributes:
      keys: of the category, on the model's axis of views.
      config: what is done with the method's maps.
    """

    model: Model
    category: str
    keys: EpipolarKeys
    config: ScoreConfig
    _planned: Any = field(init=False, repr=False)
    _mask: jax.Array = field(init=False, repr=False)
    _uncounted: Uncounted | None = field(init=False, repr=False)

    def __post_init__(self):
        method, masks = self.model.method, self.model.ignored.get(self.category, {})
        uncounted = (
            ignored_patches(masks, method.spec.views, map_shape(method), self.category) if masks else None
        )
        object.__setattr__(self, "_uncounted", uncounted)
        planned = sharding.replicate(method.plan(self.keys)) if isinstance(method, PlansGeometry) else None
        object.__setattr__(self, "_planned", planned)
        mask = jnp.asarray(self.keys.mask)
        with_others = {self.config.evidence, self.config.image_evidence} != {"none"}
        if uncounted is not None and with_others:
            mask = evidence_without(mask, uncounted, self.keys.grid)
        object.__setattr__(self, "_mask", mask)

    def score(self, inputs: Inputs, rows: Int[np.ndarray, " n"], most: int | None = None) -> Iterator[Scored]:
        """Yield maps and scores of some samples, a batch after another; NaN where a view is missing.

        All processes must call; each reads the features of its own samples.

        Args:
          inputs: of all samples; the features of views that are not present are not read.
          rows: of the samples to score.
          most: that a device scores at a time; by default as many as its memory holds, up to 8. The maps do not
            depend on it.
        """
        if most is None:
            most = self._within_memory(inputs) if len(rows) else _BATCH_SAMPLES
        size = sharding.batch_of(len(rows), most)
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            batch = self._batch(inputs, chosen, size)
            found = self.model.method.score(self.model.state, batch)
            if self._uncounted is not None:
                found = without_uncounted(found, self._uncounted)
            maps = np.array(sharding.to_host(found))[: len(chosen)]
            present = inputs.present[chosen]
            if inputs.foreground is not None and not self.model.method.requires.foreground:
                maps = without_background(maps, inputs.foreground(chosen))
            raw = maps
            if self._uncounted is not None:
                raw = np.where(self._uncounted, np.float32(-np.inf), maps)
            if self.config.evidence != "none":
                maps = self._with_other_views(with_evidence, raw, present)
                if self._uncounted is not None:
                    maps = np.array(without_uncounted(maps, self._uncounted))
            maps[~present] = np.nan
            views = self._view_scores(maps)
            if isinstance(self.model.method, ScoresImagesByFeatures) and self.config.evidence == "none":
                views = self.model.method.score_images(self.model.state, batch, found)
                views = np.array(sharding.to_host(views))[: len(chosen)]
                views[~present] = np.nan
            images = views
            if self.config.image_evidence != "none":
                images = self._with_other_views(image_scores, raw, present)
                images[~present] = np.nan
            yield Scored(chosen, maps, views, images)

    def _within_memory(self, inputs: Inputs) -> int:
        """How many samples a device scores at a time, up to _BATCH_SAMPLES."""
        patches = max(math.prod(own.shape[1:4]) for own in inputs.features.values())
        # No method holds more than some numbers of 4 bytes for each pair of patches of a sample.
        if fitting(_NUMBERS_OF_A_PAIR * 4 * patches**2) >= _BATCH_SAMPLES:
            return _BATCH_SAMPLES
        devices = sharding.mesh().size
        batch = self._batch(inputs, np.zeros(devices, int), devices)
        score = partial(self.model.method.score, self.model.state)
        return most_at_a_time(score, batch, most=_BATCH_SAMPLES, devices=devices)

    def _with_other_views(
        self, added: Callable[..., jax.Array], maps: Float32[np.ndarray, "b V h w"], present: np.ndarray
    ) -> np.ndarray:
        """What a function of postprocess/evidence.py makes of the maps of each sample."""
        own = partial(added, grid=self.keys.grid, statistics=self.model.statistics, config=self.config)
        return np.array(jax.vmap(own, (0, 0, None))(maps, present, self._mask))

    def _view_scores(self, maps: Float32[np.ndarray, "b V h w"]) -> Float32[np.ndarray, "b V"]:
        """The highest of each map, or what the method's own rule makes of it."""
        method = self.model.method
        if isinstance(method, ScoresImages) and self.config.evidence == "none":
            return np.asarray(method.image_scores(maps), np.float32)
        return maps.max((2, 3))

    def attended(
        self, inputs: Inputs, rows: Int[np.ndarray, " n"], top: int
    ) -> tuple[Int[np.ndarray, "n V N K"], Float32[np.ndarray, "n V N K"]] | None:
        """Return what each patch of some samples attended to most (`ShowsAttention.attended`); None where the
        method attends to nothing.

        Args as of `maps`, but one process calls, and its first device works.
        """
        method = self.model.method
        views, *grid = next(iter(inputs.features.values())).shape[1:4]
        if not isinstance(method, ShowsAttention) or views < 2:
            return None
        top, found = min(top, views * grid[0] * grid[1]), []
        for row in rows:  # one after the other: a sample's weights are large, and few are asked for
            own = np.array([row])
            batch = Batch(
                _read(inputs.features, inputs.present[own], own), inputs.present[own], np.zeros(1, np.int32)
            )
            found.append(method.attended(self.model.state, batch, self.keys, top))
        patches, weights = (np.concatenate(own) for own in zip(*found, strict=True))
        return patches, weights

    def _batch(self, inputs: Inputs, rows: Int[np.ndarray, " b"], size: int) -> Batch:
        """The given samples over the mesh, then zeros up to `size`; zeros for a missing view."""
        places = np.arange(size)[sharding.own_rows(size)]
        real = places < len(rows)
        own = rows[places[real]]
        present = np.zeros((len(places), inputs.present.shape[1]), bool)
        present[real] = inputs.present[own]

        def filled(values: np.ndarray) -> np.ndarray:
            batch = np.zeros((len(places), *values.shape[1:]), np.float32)
            batch[real] = values
            return batch

        features = {tap: filled(own) for tap, own in _read(inputs.features, present[real], own).items()}
        images = None if inputs.images is None else filled(inputs.images(own))
        number = self.model.method.spec.categories.index(self.category)
        category = np.full(len(places), number, np.int32)
        foreground = None
        if inputs.foreground is not None and self.model.method.requires.foreground:
            masks = inputs.foreground(own)
            foreground = np.zeros((len(places), *masks.shape[1:]), bool)
            foreground[real] = masks
        placed = sharding.place((features, present, category, images, foreground))
        features, present, category, images, foreground = placed
        return Batch(features, present, category, self._planned, images, sharding.mesh(), foreground)


def without_background(
    maps: Float32[np.ndarray, "b V H W"], foreground: Bool[np.ndarray, "b V h w"]
) -> Float32[np.ndarray, "b V H W"]:
    """Return maps with the score 0, which means that nothing is abnormal, wherever the background is.

    Args:
      foreground: of any size; a pixel of the map takes the mask's value that covers its first corner.
    """
    rows, columns = (
        np.arange(size) * cells // size
        for size, cells in zip(maps.shape[2:], foreground.shape[2:], strict=True)
    )
    return np.where(foreground[:, :, rows][..., columns], maps, np.float32(0))


def _read(
    features: Mapping[str, Any], present: Bool[np.ndarray, "n V"], rows: Int[np.ndarray, " n"]
) -> dict[str, Float32[np.ndarray, "n V h w D"]]:
    """Features of some samples; zeros for a missing view, whatever is stored of it."""
    has = present[..., None, None, None]
    return {tap: np.where(has, own[rows], 0).astype(np.float32) for tap, own in features.items()}
