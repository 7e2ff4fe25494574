"""Perlin noise and the masks that are cut out of it (Perlin 1985; masks as DRAEM, Zavrtanik et al. 2021, has them)."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32

_OCTAVES = 6  # cells along an axis: 1, 2, 4 ... 32
_THRESHOLD = 0.5


def perlin_noise(
    size: int, cells: tuple[int, int], generator: np.random.Generator
) -> Float32[np.ndarray, "size size"]:
    """Return gradient noise of about -1 to 1. Args: cells: of the grid of gradients, along rows and columns."""
    angles = generator.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    low, share = zip(*(_places(size, count) for count in cells), strict=True)
    fade = [(6 * t**5 - 15 * t**4 + 10 * t**3) for t in share]
    corners = {}
    for row in (0, 1):
        for column in (0, 1):
            own = angles[np.ix_(low[0] + row, low[1] + column)]
            down, right = (share[0] - row)[:, None], (share[1] - column)[None]
            corners[row, column] = np.cos(own) * down + np.sin(own) * right
    across = fade[1][None]
    upper = corners[0, 0] * (1 - across) + corners[0, 1] * across
    lower = corners[1, 0] * (1 - across) + corners[1, 1] * across
    along = fade[0][:, None]
    return (np.sqrt(2) * (upper * (1 - along) + lower * along)).astype(np.float32)


def _places(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each pixel along an axis, and how far in it the pixel is."""
    place = np.arange(size) * (cells / size)
    low = np.minimum(place.astype(int), cells - 1)
    return low, place - low


def perlin_mask(size: int, generator: np.random.Generator) -> Bool[np.ndarray, "size size"]:
    """Return a mask of blobs of a random scale, stretched and turned at random. It may be empty."""
    cells = tuple(int(2**octave) for octave in generator.integers(0, _OCTAVES, 2))
    noise = perlin_noise(size, cells, generator)
    middle = (size - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), float(generator.uniform(-90, 90)), 1.0)
    return cv2.warpAffine(noise, turn, (size, size), flags=cv2.INTER_LINEAR) > _THRESHOLD
