"""Pixels counted between thresholds, in memory that does not grow with the number of normal pixels.

Only the scores of defects matter as thresholds: recall and PRO change nowhere else, and between two of them
normal pixels only need to be counted. So every distinct score of a defect pixel is an edge, and the counts
are exact; where there are too many, some of them are, and of what lies between two neighbours the order is
not kept. Edges are scores themselves, so neither a skewed distribution nor an outlier makes them coarse.

With m edges there are 2m+1 slots: slot 2i+1 is the score edges[i], slot 2i what lies strictly below it and
above edges[i-1], slot 2m what lies above all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.evaluation.metrics import Curve

_BUFFER = 2**24  # normal pixels sorted at a time, 64 MB in float32


class Sketch(NamedTuple):
    """Some distinct scores, ascending, with the number and the weight of all down to the next of them."""

    scores: Float[np.ndarray, " n"]
    count: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]


def thinned(all_scores: Sequence[Sketch], share: float) -> Sketch:
    """Return some scores of one sketch, or of several put together: the lowest, the highest, and few between.

    At most 2/share + 2, and strictly between two neighbours lie less than that share of the pixels and less
    than that share of the weight, however they are distributed and tied. That is if the sketches are pixels
    themselves (count 1 each, in any order). If they were thinned to the same share it is less than twice the
    share: of each of them, less than its share lies between two neighbours but is counted at a score above.
    """
    scores, *amounts = map(np.concatenate, zip(*all_scores, strict=True))
    order = np.argsort(scores)
    scores = scores[order]
    distinct = np.append(scores[1:] != scores[:-1], True)
    totals = [np.cumsum(amount[order])[distinct] for amount in amounts]
    chosen = np.zeros(len(totals[0]), bool)
    chosen[[0, -1]] = True
    for total in totals:
        chosen |= np.diff(np.floor(total / (share * total[-1])), prepend=0) > 0
    count, weight = (np.diff(total[chosen], prepend=0) for total in totals)
    return Sketch(scores[distinct][chosen], count, weight)


def count_defects(
    edges: Float[np.ndarray, " m"], scores: Float[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Return how many scores fall into each of the 2m+1 slots, and what they weigh."""
    order = np.argsort(scores)
    scores = scores[order]
    at = np.searchsorted(edges, scores)
    slot = 2 * at + (np.append(edges, np.nan)[at] == scores)
    slots = 2 * len(edges) + 1
    return np.bincount(slot, minlength=slots), np.bincount(slot, weight[order], slots)


class NormalCounts:
    """Counts normal pixels below each edge, and at or below it, in int64."""

    def __init__(self, edges: Float[np.ndarray, " m"]):
        self.edges = edges
        self.below = np.zeros(len(edges), np.int64)
        self.up_to = np.zeros(len(edges), np.int64)
        self.total = 0
        self._buffer = np.empty(_BUFFER, edges.dtype)
        self._filled = 0

    def add(self, scores: Float[np.ndarray, " n"]) -> None:
        while len(scores):
            part, scores = np.split(scores, [_BUFFER - self._filled])
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == _BUFFER:
                self.flush()

    def flush(self) -> None:
        """Count what `add` has put aside; to be called after the last one.

        Sorting the pixels and then looking up the edges in them takes a tenth of the time of looking up every
        pixel among the edges.
        """
        scores = self._buffer[: self._filled]
        scores.sort()
        below = np.searchsorted(scores, self.edges)
        self.below += below
        tied = np.flatnonzero(np.append(scores, np.nan)[below] == self.edges)
        below[tied] = np.searchsorted(scores, self.edges[tied], side="right")
        self.up_to += below
        self.total += self._filled
        self._filled = 0


def curve_of(normals: NormalCounts, true: Int[np.ndarray, " s"], weight: Float[np.ndarray, " s"]) -> Curve:
    """Return the slots from the highest to the lowest, without the empty ones.

    `true` and `weight` as of `count_defects`; the weights are divided by their sum.
    """
    edges = normals.edges
    ends = np.concatenate([[0], np.stack([normals.below, normals.up_to], 1).ravel(), [normals.total]])
    false = np.diff(ends)
    lowest = np.full(len(false), -np.inf, edges.dtype)
    lowest[1::2] = edges
    lowest[2::2] = np.nextafter(edges, np.inf, dtype=edges.dtype)
    between = np.arange(len(false)) % 2 == 0
    some = np.flatnonzero(true + false)[::-1]
    mixed = between[some] & (true[some] > 0)
    return Curve(lowest[some], true[some], false[some], weight[some] / max(weight.sum(), 1), mixed)
