"""The bootstrap of pixel metrics: every sample's pixels counted once in bins, then weighted sums of counts.

Resampling pixels themselves would read a category a thousand times. Instead each sample's normal pixels,
defect pixels and region weights are counted in about a thousand bins, whose edges are quantiles of both kinds
of pixels; a resample is then a weighted sum of these counts. The bins cost a metric less than a thousandth
(tests), and what they cost on all samples is taken off every resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.evaluation.batches import Batch
from mvead_jax.evaluation.bootstrap import curve_replicates
from mvead_jax.evaluation.counting import Sketch, thinned
from mvead_jax.evaluation.defects import Region, defect_pixels

_LOOKED_AT = 500  # pixels of a kind of a sample, from which edges are chosen
_ROWS = 64  # resamples at a time
_SHARE = 1 / 400  # of the pixels of a kind, and of the regions' weight, between two edges

# A call yields (sample, maps [v,H,W], masks [v,H,W]) of all samples, some of them in several pieces.
Samples = Callable[[], Iterable[tuple[int, np.ndarray, np.ndarray]]]


class SampleCounts(NamedTuple):
    """Counts [S,K] in bins from the highest score to the lowest."""

    true: Float[np.ndarray, "S K"]
    false: Float[np.ndarray, "S K"]
    weight: Float[np.ndarray, "S K"]

    def of(self, drawn: Int[np.ndarray, "B S"]) -> Sequence[Float[np.ndarray, "B K"]]:
        """Of each resample."""
        weights = drawn.astype(np.float64)
        return [weights @ counts for counts in self]


def pixel_replicates(
    samples: Samples, drawn: Int[np.ndarray, "B S"], exact: dict[str, float], fpr_limit: float = 0.3
) -> dict[str, Float[np.ndarray, " B"]]:
    """AUROC, AP, F1-max and AUPRO of each resample. Reads all maps twice.

    Args:
      drawn: of `bootstrap.copies`.
      exact: the metrics of all samples; where the bins differ from it, every resample is shifted so much.
    """
    counts = count_samples(samples, drawn.shape[1])
    binned = curve_replicates(*counts.of(np.ones((1, drawn.shape[1]), np.int64)), fpr_limit)
    parts = [
        curve_replicates(*counts.of(drawn[start : start + _ROWS]), fpr_limit)
        for start in range(0, len(drawn), _ROWS)
    ]
    return {
        name: np.clip(np.concatenate([part[name] for part in parts]) + (exact[name] - binned[name]), 0, 1)
        for name in binned
    }


def count_samples(samples: Samples, count: int) -> SampleCounts:
    """Counts of `count` samples; those that `samples` does not yield stay zero."""
    edges = _edges(samples)
    true, false, weight = (np.zeros((count, len(edges) + 1)) for _ in range(3))
    for sample, maps, masks in samples():
        scores, weights = _defects(maps, masks)
        at = np.searchsorted(edges, scores, side="right")
        true[sample] += np.bincount(at, minlength=len(edges) + 1)
        weight[sample] += np.bincount(at, weights, len(edges) + 1)
        normal = np.sort(maps[~masks])
        false[sample] += np.diff(np.searchsorted(normal, edges), prepend=0, append=len(normal))
    return SampleCounts(true[:, ::-1], false[:, ::-1], weight[:, ::-1])


def _edges(samples: Samples) -> Float[np.ndarray, " m"]:
    """Ascending scores between which few pixels of either kind lie."""
    defects, normals = [], []
    for _, maps, masks in samples():
        scores, weights = _defects(maps, masks)
        step = -(-len(scores) // _LOOKED_AT) or 1
        # A pixel stands for the others that are passed over.
        defects.append(Sketch(scores[::step], np.full(len(scores[::step]), step), step * weights[::step]))
        normal = maps[~masks]
        normal = normal[:: max(1, len(normal) // _LOOKED_AT)]
        normals.append(Sketch(normal, np.ones(len(normal)), np.ones(len(normal))))
    kinds = [kind for kind in (defects, normals) if sum(len(one.scores) for one in kind)]
    return np.unique(np.concatenate([thinned(kind, _SHARE).scores for kind in kinds]))


def _defects(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the defect pixels and their weights, 1 / area of the region."""
    regions: list[Region] = []
    found = defect_pixels(Batch(0, maps, masks), regions)
    return found.scores, found.weight(regions)
