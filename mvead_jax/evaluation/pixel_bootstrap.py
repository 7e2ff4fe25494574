"""The bootstrap of pixel metrics: every sample's pixels counted once in bins, then weighted sums of counts.

Resampling pixels themselves would read a category a thousand times. Instead each sample's normal pixels,
defect pixels and region weights are counted in about a thousand bins, whose edges are quantiles of both kinds
of pixels; a resample is then a weighted sum of these counts. The bins cost a metric less than a thousandth
(tests), and what they cost on all samples is taken off every resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.evaluation.batches import Batch
from mvead_jax.evaluation.bootstrap import replicates
from mvead_jax.evaluation.counting import Sketch, thinned
from mvead_jax.evaluation.defects import Region, defect_pixels
from mvead_jax.evaluation.metrics import FPR_LIMIT, Curve

_LOOKED_AT = 500  # pixels of a kind of a sample, from which edges are chosen
_SHARE = 1 / 400  # of the pixels of a kind, and of the regions' weight, between two edges

# A call yields (sample, maps [v,H,W], masks [v,H,W]) of all samples, some of them in several pieces.
Samples = Callable[[], Iterable[tuple[int, np.ndarray, np.ndarray]]]


class SampleCounts(NamedTuple):
    """Counts [S,K] in bins from the highest score to the lowest. lowest: [K], of each bin."""

    lowest: Float[np.ndarray, " K"]
    true: Float[np.ndarray, "S K"]
    false: Float[np.ndarray, "S K"]
    weight: Float[np.ndarray, "S K"]

    def curves(self, drawn: Int[np.ndarray, "B S"], fpr_limit: float) -> Curve:
        """Return the curves of some resamples; pixels count as spread evenly over their bin."""
        weights = drawn.astype(np.float64)
        counts = (weights @ own for own in (self.true, self.false, self.weight))
        return Curve(self.lowest, *counts, np.ones(len(self.lowest), bool), fpr_limit, spread=True)


def pixel_replicates(
    samples: Samples,
    drawn: Int[np.ndarray, "B S"],
    exact: Mapping[str, float],
    fpr_limit: float = FPR_LIMIT,
) -> dict[str, Float[np.ndarray, " B"]]:
    """Return the pixel metrics of each resample. Reads all maps twice.

    Args:
      drawn: of `bootstrap.copies`.
      exact: the metrics of all samples; where the bins differ from it, every resample is shifted so much.
    """
    counts = count_samples(samples, drawn.shape[1])

    def curves(part: Int[np.ndarray, "b S"]) -> Curve:
        return counts.curves(part, fpr_limit)

    binned = replicates(curves, np.ones((1, drawn.shape[1]), np.int64), "pixel")
    found = replicates(curves, drawn, "pixel")
    return {name: np.clip(own + (exact[name] - binned[name]), 0, 1) for name, own in found.items()}


def count_samples(samples: Samples, count: int) -> SampleCounts:
    """Return the counts of `count` samples; those that `samples` does not yield stay zero."""
    edges = _edges(samples)
    true, false, weight = (np.zeros((count, len(edges) + 1)) for _ in range(3))
    for sample, maps, masks in samples():
        scores, weights = _defects(maps, masks)
        at = np.searchsorted(edges, scores, side="right")
        true[sample] += np.bincount(at, minlength=len(edges) + 1)
        weight[sample] += np.bincount(at, weights, len(edges) + 1)
        normal = np.sort(maps[~masks])
        false[sample] += np.diff(np.searchsorted(normal, edges), prepend=0, append=len(normal))
    lowest = np.append(-np.inf, edges)[::-1]
    return SampleCounts(lowest, true[:, ::-1], false[:, ::-1], weight[:, ::-1])


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
