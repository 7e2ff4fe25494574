"""Geometry of a category that nobody calibrated: matches, two ways to F, and the evidence that decides.

Pair by pair (robust eight-point) or one rig for all views (rig_fit.py): both are made from two thirds of the
samples and judged by the matches of the others. The rig is taken if they bear it out in most pairs: a part
that looks alike from two sides fools a single pair with many matches that agree on a wrong F, but not five
cameras that must fit all pairs at once. Otherwise each pair stands for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mvead_jax.data.records import DatasetIndex
from mvead_jax.geometry.category import CategoryGeometry, PairGeometry
from mvead_jax.geometry.fundamental import (
    FundamentalEstimate,
    estimate_fundamental,
    line_errors,
    sampson_distances,
)
from mvead_jax.geometry.matching import CategoryMatches, Matches, match_category, with_mirror_images
from mvead_jax.geometry.outlines import Outline, category_mismatch, category_outlines
from mvead_jax.geometry.rig_fit import Nominal, RigFit, fit_rig, split_by_sample

_NEAR = 1.5  # pixels of a 256-pixel image: a match that agrees
_AROUND = (4.0, 12.0)  # pixels likewise: matches there are wrong, and as dense as wrong ones on the line
_PEAK = 1.7  # how much denser matches must lie on the lines than around them
_SIGMAS = 3.5  # by how many standard deviations of the wrong ones' count
# Measured (docs/geometry.md): features of parts that look alike from several sides fool single pairs.
_FOOLED = "patch features are trusted only where one rig explains all pairs"


@dataclass(frozen=True)
class Evidence:
    """How held-out matches lie about the epipolar lines of one F.

    A right F has its matches in a sharp peak on the line; wrong matches lie evenly around. `by_chance` is how
    many of the `near` ones the density around the line explains.
    """

    matches: int
    near: int
    by_chance: float
    sampson_median: float
    spread: float

    @property
    def peak(self) -> float:
        return self.near / max(self.by_chance, 1.0)

    @property
    def sigmas(self) -> float:
        return (self.near - self.by_chance) / np.sqrt(max(self.by_chance, 1.0))

    @property
    def reason(self) -> str:
        """Why an F with this evidence is not to be trusted; "" if it is."""
        if self.sigmas < _SIGMAS or self.peak < _PEAK:
            chance = f"{self.by_chance:.0f} expected by chance"
            return f"{self.near} of {self.matches} held-out matches on the line, {chance}"
        return ""

    def as_json(self) -> dict[str, Any]:
        return {
            "matches": self.matches,
            "inliers": self.near,
            "inlier_ratio": self.near / max(self.matches, 1),
            "inliers_by_chance": self.by_chance,
            "sampson_median_px": self.sampson_median,
            "spread": self.spread,
        }


@dataclass(frozen=True)
class Found:
    """What was found for a category, with both ways kept for tables: `pairwise` may miss pairs."""

    geometry: CategoryGeometry
    matches: CategoryMatches
    rig: RigFit | None
    pairwise: dict[tuple[int, int], tuple[FundamentalEstimate, bool]]


def estimate_category(
    index: DatasetIndex, nominal: Nominal | None = None, most_samples: int = 32, seed: int = 0
) -> Found:
    """F of every pair of views of one category, from the SIFT matches of its (normal) samples alone.

    Raises:
      UserError: no samples, unreadable images, or images of one view in different sizes.
    """
    return estimate_from_matches(match_category(index, most_samples), category_outlines(index), nominal, seed)


def estimate_from_matches(
    matches: CategoryMatches,
    outlines: Sequence[dict[str, Outline]],
    nominal: Nominal | None = None,
    seed: int = 0,
) -> Found:
    """F of every pair of views from matches of any kind.

    Args:
      outlines: of a few samples, by view. They decide nothing: the quality record tells how far they agree.
    """
    fit, judge = split_by_sample(matches)
    judge_rig = with_mirror_images(judge)
    pairs = list(combinations(range(len(matches.views)), 2))
    pairwise = {pair: _pairwise(fit, pair, seed) for pair in pairs}
    rig = fit_rig(fit, nominal, seed)
    evidence = {}
    for a, b in pairs:
        one, flipped = pairwise[a, b]
        evidence["pairwise", a, b] = judged(one.F, judge.pairs[a, b, flipped], matches.sizes, (a, b))
        if rig is not None:
            both = judge_rig.pairs[a, b, False]
            evidence["rig_fit", a, b] = judged(rig.F[a, b], both, matches.sizes, (a, b))
    borne_out = [pair for pair in pairs if rig is not None and not evidence["rig_fit", *pair].reason]
    source = "rig_fit" if len(borne_out) > len(pairs) / 2 else "pairwise"
    made = {}
    for a, b in pairs:
        seen = evidence[source, a, b]
        one = pairwise[a, b][0]
        reason = seen.reason
        if source == "pairwise":
            reason = reason or one.reason or ("" if matches.evidence == "sift" else _FOOLED)
        F = one.F if source == "pairwise" else rig.F[a, b]
        quality = seen.as_json() | {
            "evidence": matches.evidence,
            "samples": matches.samples,
            "static_matches": max(matches.pairs[a, b, flipped].static for flipped in (False, True)),
            "planar": one.planar,
            "outline_px": category_mismatch(F, outlines, matches.views[a], matches.views[b]),
            "reason": reason,
        }
        if source == "rig_fit":
            quality["margin"] = rig.margin
        made[a, b] = PairGeometry(F, not reason, source, quality)
    mirrored = tuple(bool(flag) for flag in rig.mirrored) if source == "rig_fit" else None
    return Found(CategoryGeometry(matches.views, matches.sizes, made, mirrored), matches, rig, pairwise)


def judged(
    F: np.ndarray, matches: Matches, sizes: tuple[tuple[int, int], ...], pair: tuple[int, int]
) -> Evidence:
    """The evidence of matches that F was not made from."""
    unit = max(max(sizes[view]) for view in pair) / 256
    if not len(matches) or not F.any():
        return Evidence(len(matches), 0, 0.0, np.inf, 0.0)
    errors = line_errors(F, matches.points_a, matches.points_b) / unit
    near = errors < _NEAR
    around = (errors > _AROUND[0]) & (errors < _AROUND[1])
    by_chance = float(around.sum() * _NEAR / (_AROUND[1] - _AROUND[0]))
    sampson = sampson_distances(F, matches.points_a[near], matches.points_b[near])
    spread = min(_cells(points, near) for points in (matches.points_a, matches.points_b))
    median = float(np.median(sampson)) if near.any() else np.inf
    return Evidence(len(matches), int(near.sum()), by_chance, median, spread)


def _pairwise(fit: CategoryMatches, pair: tuple[int, int], seed: int) -> tuple[FundamentalEstimate, bool]:
    """The better of the estimates from matches as stored and with view b flipped, and which of them it is."""
    found = []
    for flipped in (False, True):
        matches = fit.pairs[*pair, flipped]
        found.append((estimate_fundamental(matches.points_a, matches.points_b, seed), flipped))
    return min(found, key=lambda one: (not one[0].ok, one[0].log_chance))


def _cells(points: np.ndarray, near: np.ndarray) -> float:
    """Share of the cells of a 4 x 4 grid over all matches' extent that have an agreeing match."""
    low, high = points.min(0), points.max(0)
    cell = np.clip((points[near] - low) / np.maximum(high - low, 1e-9) * 4, 0, 3.999).astype(int)
    return len(np.unique(cell[:, 0] * 4 + cell[:, 1])) / 16
