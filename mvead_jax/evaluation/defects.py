"""Defects as connected regions of masks: their pixels' scores, and a record of each.

Regions are 8-connected, as MVTec AD counts them; scipy's default would be 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int

from mvead_jax.evaluation.batches import Batch


@dataclass(frozen=True, slots=True)
class Region:
    """A connected part of a mask.

    Attributes:
      image: its image's place in the category, from 0.
      area: pixels.
      box: (x, y, width, height) of the smallest upright rectangle, pixels; x right, y down, from 0.
      largest, mean: of the scores of its pixels.
      found: the share of its pixels at or above the category's F1-max threshold; NaN until that is known.
    """

    image: int
    area: int
    box: tuple[int, int, int, int]
    largest: float
    mean: float
    found: float = float("nan")


class DefectPixels(NamedTuple):
    """The scores of defect pixels, and the number of each one's region, counted from 0 over the category."""

    scores: Float[np.ndarray, " n"]
    region: Int[np.ndarray, " n"]

    def weight(self, regions: Sequence[Region]) -> Float[np.ndarray, " n"]:
        """1 / area of its region, so that every region weighs the same."""
        return 1 / np.array([region.area for region in regions], float)[self.region]


def join(parts: Sequence[DefectPixels]) -> DefectPixels:
    if not parts:
        return DefectPixels(np.zeros(0, np.float32), np.zeros(0, np.int32))
    scores, region = zip(*parts, strict=True)
    return DefectPixels(np.concatenate(scores), np.concatenate(region))


def defect_pixels(batch: Batch, regions: list[Region]) -> DefectPixels:
    """The defect pixels of a batch; its regions are appended to those of the batches before it."""
    scores, numbers = [batch.maps[:0].ravel()], [np.zeros(0, np.int32)]
    for at in np.flatnonzero(batch.masks.any((1, 2))):
        mask = batch.masks[at]
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        own, label = batch.maps[at][mask], labels[mask] - 1
        largest = np.full(count - 1, -np.inf)
        np.maximum.at(largest, label, own)
        sums = np.bincount(label, own)
        scores.append(own)
        numbers.append(label + len(regions))
        regions += [
            Region(batch.first + int(at), area, (x, y, width, height), float(top), float(total) / area)
            for (x, y, width, height, area), top, total in zip(stats[1:].tolist(), largest, sums, strict=True)
        ]
    return DefectPixels(np.concatenate(scores), np.concatenate(numbers))
