"""Foreground masks of whole samples on a method's grid, from where data.foreground says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.digests import file_digests, file_states
from mvead_jax.data.foreground import (
    automatic_foreground,
    foreground_path,
    read_foreground,
    resize_foreground,
)
from mvead_jax.data.image_files import folder_of
from mvead_jax.data.records import DatasetIndex, View
from mvead_jax.runtime.errors import DataProblems, UserError

Masks = Callable[[Int[np.ndarray, " n"]], Bool[np.ndarray, "n V h w"]]
_THREADS = 8


def foreground_reader(config: DataConfig, index: DatasetIndex, features: Any) -> Masks | None:
    """Return a function that gives the masks of samples by their positions; None for data.foreground=none.

    A view that a sample lacks is all background. What was computed or read once is kept.

    Args:
      index: the samples, on the axis of the views of `features`.
      features: [S,V,h,w,D], an array or a FeatureStore: on its grid the masks are, and of it they are made
        where data.foreground is automatic.

    Raises:
      DataProblems: files that are not there. The function raises UserError for one that is no mask.
    """
    if config.foreground == "none":
        return None
    if config.foreground == "files":
        check_foreground_files(config, index)
    grid = tuple(features.shape[2:4])
    kept: dict[int, Bool[np.ndarray, "V h w"]] = {}

    def of_sample(position: int) -> Bool[np.ndarray, "V h w"]:
        if (found := kept.get(position)) is not None:
            return found
        masks = np.zeros((len(index.views), *grid), bool)
        own = features[np.array([position])][0] if config.foreground == "automatic" else None
        for view in index.samples[position].views:
            at = index.views.index(view.name)
            if own is not None:
                masks[at] = automatic_foreground(np.asarray(own[at], np.float32))
            else:
                masks[at] = _from_file(config, index, view, grid)
        kept[position] = masks
        return masks

    def read(positions: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n V h w"]:
        found = np.zeros((len(positions), len(index.views), *grid), bool)
        with ThreadPoolExecutor(_THREADS) as pool:  # decoding releases Python's lock
            for own, masks in zip(found, pool.map(of_sample, map(int, positions)), strict=True):
                own[...] = masks
        return found

    return read


def foreground_digest(config: DataConfig, index: DatasetIndex, cache: Path) -> dict[str, str]:
    """Return what a model depends on of its masks besides its features, for comparison.

    Args:
      cache: the folder where SHA-256 of files are recorded.
    """
    if config.foreground == "none":
        return {}
    found = {"source": config.foreground}
    if config.foreground == "files":
        check_foreground_files(config, index)
        paths = [_path(config, view) for sample in index.samples for view in sample.views]
        digests = file_digests(index.root, paths, file_states(index.root, paths), cache)
        found |= {
            "resize": config.foreground_resize,
            "files": hashlib.sha256(" ".join(digests).encode()).hexdigest(),
        }
    return found


def foreground_words(config: DataConfig) -> str:
    """Return where foreground masks come from, in words."""
    place = f"in {config.foreground_folder}" if config.foreground_folder else "beside the images"
    return {
        "none": "not used: every patch counts",
        "files": f"masks {place}, resized to patches by the rule {config.foreground_resize}",
        "automatic": "patches whose features are unlike those of the image's border (Otsu)",
    }[config.foreground]


def check_foreground_files(config: DataConfig, index: DatasetIndex) -> None:
    """Raise a UserError unless every image of the index has a file with its mask.

    Raises:
      DataProblems: every one that has none.
    """
    if folder_of(index.root) is None:
        raise UserError(
            f"{index.root}: prepared data holds no foreground masks; take data.foreground=automatic or none, or "
            "the data set as it was before mvead prepare"
        )
    views = [view for sample in index.samples for view in sample.views]
    problems = [
        f"{path}: no such file, the foreground mask of {view.image}"
        for view in views
        if not (index.root / (path := _path(config, view))).is_file()
    ]
    if problems:
        raise DataProblems(f"{index.root}: data.foreground=files", problems)


def _path(config: DataConfig, view: View) -> str:
    return foreground_path(view.image, config.foreground_folder or None)


def _from_file(
    config: DataConfig, index: DatasetIndex, view: View, grid: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    mask = read_foreground(index.root / _path(config, view), index.root / view.image)
    return resize_foreground(mask[:, ::-1] if view.mirrored else mask, grid, config.foreground_resize)
