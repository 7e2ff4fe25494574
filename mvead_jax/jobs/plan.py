"""How many bytes a job is about to write: arithmetic, before any work.

    parts = training_parts(config, index, method, workdir, cached)
    check_room(parts)        # refuses in one line (runtime/disk.py)
    describe(parts)          # "features 12.3 MB in runs/feature_cache, ..."

Bytes are those of the arrays. Headers, lists and images for people come on top, a few MB for a category.
"""

from __future__ import annotations

import math
from pathlib import Path

from mvead_jax.config.schema import Config
from mvead_jax.data.records import DatasetIndex
from mvead_jax.features.cache import cache_folder, feature_bytes
from mvead_jax.methods.base import Method, Trains, map_shape
from mvead_jax.runtime.disk import Part, folder_bytes

_FLOAT32, _FLOAT16 = 4, 2
_STATES = 3  # of a training: two are kept while a third is written
_METRICS = 10  # that bootstrap.npz holds: three of samples, three of images, four of pixels


def training_parts(
    config: Config, index: DatasetIndex, method: Method, workdir: Path, cached: int = 0
) -> list[Part]:
    """Return what train.py writes.

    Args:
      index: of the data set; its training samples are what counts, and for the features those held out.
      method: of a model, as it is built for the data set's views.
      cached: bytes of the features that are in the cache.
    """
    features = models = 0
    training = index.select(split="train")
    for category in index.categories:
        own = training.select(category=category)
        samples = len(own) + len(index.select(split="held_out", category=category))
        features += feature_bytes(samples, len(own.views), method.spec.maps, config.features.dtype)
        models += method.state_bytes(int(own.present().sum()))
    if config.setting == "multi":
        models = method.state_bytes(int(training.present().sum()))
    states = 0
    if isinstance(method, Trains) and method.training:
        states = _STATES * method.checkpoint_bytes()
        states *= 1 if config.setting == "multi" else len(index.categories)
    folders = workdir / "checkpoints", workdir / "models"
    parts = [
        Part("features", cache_folder(config, workdir), features, cached),
        *(
            Part(folder.name, folder, size, folder_bytes(folder))
            for folder, size in zip(folders, (states, models), strict=True)
        ),
    ]
    return [part for part in parts if part.bytes]


def scoring_parts(
    config: Config, index: DatasetIndex, method: Method, workdir: Path, output: Path, cached: int = 0
) -> list[Part]:
    """Return what score.py writes of the samples of `index`. Arguments as of `training_parts`."""
    features = 0
    for category in index.categories:
        own = index.select(category=category)
        features += feature_bytes(len(own), len(own.views), method.spec.maps, config.features.dtype)
    resampled = len(index.categories) * config.eval.bootstrap * _METRICS * _FLOAT32
    maps = int(index.present().sum()) * math.prod(map_shape(method)) * _FLOAT16
    return [
        Part("features", cache_folder(config, workdir), features, cached),
        Part("scores", output, maps + resampled),
    ]
