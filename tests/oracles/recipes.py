"""Weights and images of the golden cases, drawn by name: what a recipe file says in numbers.

An array is standard normal noise of a generator that its tag and name alone seed, so that the order of drawing
does not matter; a recipe lists, for each entry of a PyTorch state dictionary, its shape, offset, scale, and
whether the noise is taken without its sign.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def _generator(text: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(text.encode())))


def draw(tag: str, name: str, shape: Sequence[int]) -> np.ndarray:
    """Return float64 standard normal noise that depends on tag, name and shape alone."""
    return _generator(f"{tag}/{name}").standard_normal(tuple(shape))


def weights(recipe: Path, tag: str) -> dict[str, np.ndarray]:
    """Return the float32 state dictionary of a recipe file, in PyTorch's names and layouts."""
    found = {}
    for entry in json.loads(recipe.read_text())["entries"]:
        noise = draw(tag, entry["name"], entry["shape"])
        noise = np.abs(noise) if entry["abs"] else noise
        found[entry["name"]] = np.asarray(entry["offset"] + entry["scale"] * noise, np.float32)
    return found


def smooth_images(tag: str, count: int, size: int, coarse: int = 9, fine: int = 33) -> np.ndarray:
    """Return uint8 images [count,size,size,3]: coarse noise and weaker fine noise, linearly enlarged."""
    levels = np.full((count, size, size, 3), 118.0)
    for name, side, strength in (("coarse", coarse, 45.0), ("fine", fine, 22.0)):
        noise = draw(tag, name, (count, side, side, 3))
        levels += strength * _enlarged(_enlarged(noise, size, 1), size, 2)
    return np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)


def _enlarged(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis; the end points stay."""
    place = np.arange(size) * ((values.shape[axis] - 1) / (size - 1))
    low = np.minimum(place.astype(np.int64), values.shape[axis] - 2)
    share = (place - low).reshape([-1 if at == axis else 1 for at in range(values.ndim)])
    return values.take(low, axis) * (1 - share) + values.take(low + 1, axis) * share


def normalised(levels: np.ndarray) -> np.ndarray:
    """Return float32 images [n,H,W,3] by ImageNet's statistics, from uint8 of the same shape."""
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return (levels.astype(np.float32) / np.float32(255) - mean) / deviation
