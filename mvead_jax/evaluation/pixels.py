"""All metrics of a category's pixels, exact or within a bound that is reported, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mvead_jax.evaluation.batches import Batches, read
from mvead_jax.evaluation.counting import NormalCounts, Sketch, count_defects, curve_of, thinned
from mvead_jax.evaluation.defects import DefectPixels, Region, defect_pixels, join
from mvead_jax.evaluation.metrics import FPR_LIMIT, Bounds, check_limit, f1_max_threshold, metrics_of_level

EXACT_PIXELS = 2**22
# Less than s = 2 MIXED_SHARE of the defects, and of what they weigh, lie between two neighbouring edges. Then
# the bounds of AUROC and AUPRO are at most s apart, those of F1-max 2 s, and those of AP s (ln N + 1.44 ln P)
# with N normals and P defects, because n / (F + n) <= ln(F + n) - ln F telescopes over the blocks: 54 s at
# 4e9 each. The error is half of that: below 1e-4 up to N = P = 5e11. Counts are int64 and sums of up to 2^62
# pairs exact; beyond (P = N = 2e9) AUROC is summed in float64, which costs it 1e-12.
MIXED_SHARE = 1.5e-6


@dataclass(frozen=True)
class PixelMetrics:
    """What a category's pixels say.

    Attributes:
      bounds: within which each metric of pixels lies, by name; NaN where it is not defined.
      f1_max_threshold: "defect if score >= t" has an F1 of the lower bound of f1_max; NaN without a defect.
      fpr_limit: of aupro.
      pixels, defective: counts.
      regions: in the order of the images; in an image by the first pixel.
    """

    bounds: Mapping[str, Bounds]
    f1_max_threshold: float
    fpr_limit: float
    pixels: int
    defective: int
    regions: tuple[Region, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the values for metrics.json; "error" tells how wrong each may be, 0 where it is exact."""
        return {
            **{name: float(one.value) for name, one in self.bounds.items()},
            "error": {name: float(one.error) for name, one in self.bounds.items()},
            "f1_max_threshold": self.f1_max_threshold,
            "fpr_limit": self.fpr_limit,
            "pixels": self.pixels,
            "defective": self.defective,
            "base_rate": self.defective / self.pixels if self.pixels else float("nan"),
            "regions": len(self.regions),
        }


def pixel_metrics(
    batches: Batches,
    *,
    fpr_limit: float = FPR_LIMIT,
    exact_pixels: int = EXACT_PIXELS,
    mixed_share: float = MIXED_SHARE,
) -> PixelMetrics:
    """Return the metrics of a category's pixels, and its regions.

    Exact if there are at most `exact_pixels` defect pixels, however many normal ones there are; the maps are
    then read twice. Otherwise they are read four times, the order is kept up to blocks of twice `mixed_share`
    of the defects, and each metric says by how much it may be wrong: with the default below 1e-4, whatever
    the scores.

    Args:
      batches: a call yields all (maps [b,H,W], masks [b,H,W]) from the first image on; b, H and W may
        change from batch to batch, and change nothing in the result. Masks are boolean, or 0 and 1.

    Raises:
      ValueError: see `batches.read`; a second call that yields other pixels than the first; a limit
        outside (0, 1].
    """
    check_limit(fpr_limit)
    reading = _Reading(batches, exact_pixels)
    sketches, kept = [], join([])
    for number, chunk in enumerate(reading):
        kept = chunk if number == 0 else None
        all_of_it = Sketch(chunk.scores, np.ones(len(chunk.scores)), chunk.weight(reading.regions))
        sketches.append(thinned([all_of_it], mixed_share))
    edges = thinned(sketches, mixed_share).scores if kept is None else np.unique(kept.scores)
    del sketches
    pixels, normals = reading.pixels, NormalCounts(edges)
    for batch in read(batches):
        normals.add(batch.maps[~batch.masks])
    normals.flush()

    chunks = reading if kept is None else [kept]
    true, weight = np.zeros(2 * len(edges) + 1, np.int64), np.zeros(2 * len(edges) + 1)
    for chunk in chunks:
        counts = count_defects(edges, chunk.scores, chunk.weight(reading.regions))
        true, weight = true + counts[0], weight + counts[1]
    defective = int(true.sum())
    if normals.total + defective != pixels:
        raise ValueError(
            f"the second reading of the maps gave {normals.total + defective} pixels, the first {pixels}: "
            "every call must start again at the first image"
        )
    curve = curve_of(normals, true, weight)._replace(fpr_limit=fpr_limit)
    threshold = f1_max_threshold(curve)
    found = np.zeros(len(reading.regions), np.int64)
    for chunk in chunks:
        found += np.bincount(chunk.region[chunk.scores >= threshold], minlength=len(found))
    return PixelMetrics(
        bounds=metrics_of_level(curve, "pixel"),
        f1_max_threshold=threshold,
        fpr_limit=fpr_limit,
        pixels=pixels,
        defective=defective,
        regions=tuple(
            replace(region, found=int(count) / region.area)
            for region, count in zip(reading.regions, found, strict=True)
        ),
    )


class _Reading:
    """The defect pixels of a category in chunks of `size`, the last one smaller.

    Each iteration reads all maps and leaves the regions and the number of pixels that it met.
    """

    def __init__(self, batches: Batches, size: int):
        self.batches, self.size = batches, size
        self.regions: list[Region] = []
        self.pixels = 0

    def __iter__(self) -> Iterator[DefectPixels]:
        self.regions, self.pixels = [], 0
        parts, held = [], 0
        for batch in read(self.batches):
            self.pixels += batch.maps.size
            parts.append(defect_pixels(batch, self.regions))
            held += len(parts[-1].scores)
            while held > self.size:
                scores, region = join(parts)
                yield DefectPixels(scores[: self.size], region[: self.size])
                parts, held = [DefectPixels(scores[self.size :], region[self.size :])], held - self.size
        if held:
            yield join(parts)
