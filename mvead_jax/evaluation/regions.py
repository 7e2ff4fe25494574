"""Defects as connected regions: their records, and AUPRO, in which a small one weighs what a large one does.

AUPRO by the definition of MVTec AD: regions are 8-connected; the overlap of a region is the share of its
pixels at or above a threshold, PRO the mean over all regions of the category, FPR the share of all its normal
pixels, those of defective images too; the area up to an FPR of 0.3 is interpolated there and divided by 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from mvead_jax.evaluation import curve as of_curve
from mvead_jax.evaluation.batches import Batch, Batches, read
from mvead_jax.evaluation.counting import NormalCounts, count_defects, curve_of

_BATCH = 64  # images whose normal pixels are copied at a time


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


def aupro(
    maps: Float[np.ndarray, "n H W"], masks: Bool[np.ndarray, "n H W"], fpr_limit: float = 0.3
) -> float:
    """Exact AUPRO of all maps of a category. NaN without a defect, or without a normal pixel.

    Besides the arrays it needs about 80 bytes a defect pixel.

    Args:
      masks: boolean, or 0 and 1.

    Raises:
      ValueError: see `batches.read`; a limit outside (0, 1].
    """
    of_curve.check_limit(fpr_limit)
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.shape != masks.shape or maps.ndim != 3:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be [n,H,W]")
    starts = range(0, len(maps), _BATCH)

    def batches():
        return ((maps[start : start + _BATCH], masks[start : start + _BATCH]) for start in starts)

    defects, regions = gather(batches)
    normals = NormalCounts(np.unique(defects.scores))
    for batch in read(batches):
        normals.add(batch.maps[~batch.masks])
    normals.flush()
    curve = curve_of(normals, *count_defects(normals.edges, defects.scores, defects.weight(regions)))
    return of_curve.aupro(curve, fpr_limit).value


def gather(batches: Batches) -> tuple[DefectPixels, list[Region]]:
    """All defect pixels of a category, and its regions."""
    parts, regions = [], []
    for batch in read(batches):
        parts.append(defect_pixels(batch, regions))
    return join(parts), regions


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
