"""A sheet of pseudo-anomalies to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mvead_jax.data.augmentation.anomalies import Change
from mvead_jax.data.augmentation.randomness import generator_of
from mvead_jax.data.loading import IMAGENET_MEAN, IMAGENET_STD
from mvead_jax.runtime.files import whole

_OUTLINE = (255, 40, 40)


def sheet(
    images: Sequence[Float32[np.ndarray, "S S 3"]], changes: Mapping[str, Change], seed: int = 0
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a row for each image: as it is, then changed in each way, with the mask's outline drawn in red."""
    rows = []
    for number, image in enumerate(images):
        row = [_levels(image)]
        for name, change in changes.items():
            changed, mask = change(image, generator_of(seed, 0, f"{name} {number}", 0))
            picture = np.ascontiguousarray(_levels(changed))
            outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
            row.append(cv2.drawContours(picture, outlines, -1, _OUTLINE, 1))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows, 0)


def write_sheet(
    path: Path, images: Sequence[Float32[np.ndarray, "S S 3"]], changes: Mapping[str, Change], seed: int = 0
) -> None:
    """Write the sheet as a PNG. Raises UserError: the disk refuses."""
    with whole(path) as temporary:
        Image.fromarray(sheet(images, changes, seed)).save(temporary, "PNG")


def _levels(image: Float32[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """The 8-bit levels of a normalised image."""
    values = image * np.float32(IMAGENET_STD) + np.float32(IMAGENET_MEAN)
    return np.clip(np.floor(values * 255 + 0.5), 0, 255).astype(np.uint8)
