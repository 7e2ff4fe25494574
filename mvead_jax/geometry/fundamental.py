"""Fundamental matrices: from known cameras (cameras.py), or from the matches of a pair of views.

From matches: eight points, a robust choice, and whether one can trust it. A wrong F explains a handful of
matches as well as a right one does: seven fit exactly, and a search over thousands of candidates finds a few
more by chance. So an estimate is `ok` only if it explains more matches than chance does (an a-contrario
test), and matches that it was not made from as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import least_squares
from scipy.special import gammaln

from mvead_jax.geometry.cameras import from_opencv, fundamental_from_cameras

__all__ = [
    "THRESHOLD",
    "FundamentalEstimate",
    "eight_point",
    "estimate_fundamental",
    "fundamental_from_cameras",
    "line_errors",
    "sampson_distances",
    "signed_sampson",
]

THRESHOLD = 1.5  # pixels between an inlier and its epipolar line
_LEAST = 16  # matches; fewer cannot be told from chance
_HELD_OUT = 0.25  # share of the matches that judge and do not fit
_MEANINGFUL = -6.0  # log10 of the expected number of chance models as good; below it is no chance
_PLANAR = 0.8  # share of the inliers that one homography explains


@dataclass(frozen=True)
class FundamentalEstimate:
    """F of a pair with the evidence for it.

    Attributes:
      F: float64 [3,3], x_aᵀ F x_b = 0, unit Frobenius norm, rank 2; zeros where none was found.
      inliers: bool [n], matches within THRESHOLD of their lines.
      sampson_median: median Sampson error in pixels of the held-out matches that are no outliers; infinite
        where there are none.
      planar: one homography explains the inliers (a flat scene, or a camera that only turned).
      ok: may be used.
      held_out_ratio: share of held-out matches within THRESHOLD.
      log_chance: log10 of how many models as good chance would give among these matches.
      reason: why it is not ok; "" if it is.
    """

    F: Float[np.ndarray, "3 3"]
    inliers: Bool[np.ndarray, " n"]
    sampson_median: float
    planar: bool
    ok: bool
    held_out_ratio: float = 0.0
    log_chance: float = np.inf
    reason: str = ""


def eight_point(
    points_a: Float[np.ndarray, "n 2"], points_b: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "3 3"]:
    """F of at least eight matches by the normalised eight-point algorithm (Hartley 1997).

    Points are moved to their centroid and scaled to a mean distance of √2, the linear system is solved in the
    least-squares sense, the smallest singular value is set to zero. Unit Frobenius norm.

    Raises:
      ValueError: fewer than eight matches, or all points of a view in one place.
    """
    if len(points_a) < 8:
        raise ValueError(f"{len(points_a)} matches; the eight-point algorithm needs eight")
    a, to_a = _normalised(points_a)
    b, to_b = _normalised(points_b)
    # One row for each match: the coefficients of F, row by row, in aᵀ F b = 0.
    system = (a[:, :, None] * b[:, None, :]).reshape(-1, 9)
    F = np.linalg.svd(system, full_matrices=len(system) < 9)[2][-1].reshape(3, 3)
    u, s, vt = np.linalg.svd(F)
    F = to_a.T @ (u * [s[0], s[1], 0.0]) @ vt @ to_b
    return F / np.linalg.norm(F)


def sampson_distances(
    F: Float[np.ndarray, "3 3"], points_a: Float[np.ndarray, "n 2"], points_b: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """First-order distance in pixels of matches from the nearest exact ones (Sampson)."""
    return np.abs(signed_sampson(F, _homogeneous(points_a), _homogeneous(points_b)))


def signed_sampson(
    F: Float[np.ndarray, "3 3"], x: Float[np.ndarray, "n 3"], y: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, " n"]:
    """Sampson error with its sign of homogeneous points x of a, y of b; infinite where F gives no line."""
    line_x, line_y = y @ F.T, x @ F
    slope = (line_x[:, :2] ** 2).sum(1) + (line_y[:, :2] ** 2).sum(1)
    value = (x * line_x).sum(1)
    return np.where(slope > 0, value / np.sqrt(np.where(slope > 0, slope, 1.0)), np.inf)


def line_errors(
    F: Float[np.ndarray, "3 3"], points_a: Float[np.ndarray, "n 2"], points_b: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """The larger of a match's two distances in pixels from the epipolar line of its other end."""
    a, b = _homogeneous(points_a), _homogeneous(points_b)
    line_a, line_b = b @ F.T, a @ F
    value = np.abs((a * line_a).sum(1))
    slope = np.minimum(np.hypot(line_a[:, 0], line_a[:, 1]), np.hypot(line_b[:, 0], line_b[:, 1]))
    return np.where(slope > 0, value / np.where(slope > 0, slope, 1.0), np.inf)


def estimate_fundamental(
    points_a: Float[np.ndarray, "n 2"], points_b: Float[np.ndarray, "n 2"], seed: int = 0
) -> FundamentalEstimate:
    """F of a pair from matches of which many may be wrong (USAC with MAGSAC's score, then eight points).

    Three quarters of the matches choose the model, the rest judges it; the F that is returned is fitted to
    all inliers. Nothing raises: what cannot be estimated comes back with ok = False and a reason.

    Args:
      points_a, points_b: pixels of the two images in our convention (an image spans [0, W] x [0, H]).
      seed: of the split and of the search; the same gives the same to the last bit.
    """
    points_a, points_b = (np.asarray(points, np.float64).reshape(-1, 2) for points in (points_a, points_b))
    usable = np.isfinite(points_a).all(1) & np.isfinite(points_b).all(1)
    where = _distinct(points_a, points_b, usable)
    if len(where) < _LEAST:
        return _nothing(len(usable), f"{len(where)} different matches, fewer than {_LEAST}")
    a, b = points_a[where], points_b[where]
    if np.median(np.linalg.norm(a - b, axis=1)) < 0.1:
        return _nothing(len(usable), "the two images are the same")
    judges = np.random.default_rng(seed).permutation(len(a)) < round(_HELD_OUT * len(a))
    F = _robust(a[~judges], b[~judges], seed)
    if F is None:
        return _nothing(len(usable), "no model found")
    errors = line_errors(F, a, b)
    held = errors[judges] < THRESHOLD
    sampson = sampson_distances(F, a[judges], b[judges])
    near = sampson < 3.0 * THRESHOLD
    chance = _log_chance(int((errors[~judges] < THRESHOLD).sum()), int((~judges).sum()), _band(a, b))
    F = _refitted(F, a, b)
    inliers = np.zeros(len(usable), bool)
    inliers[usable] = line_errors(F, points_a[usable], points_b[usable]) < THRESHOLD
    mine = line_errors(F, a, b) < THRESHOLD
    planar = _is_planar(a[mine], b[mine], seed)
    fitted = float((errors[~judges] < THRESHOLD).mean())
    reason = ""
    if chance > _MEANINGFUL:
        reason = f"{int(mine.sum())} of {len(a)} matches agree, no more than chance"
    elif held.mean() < 0.5 * fitted:
        reason = f"matches that did not make it do not agree ({held.mean():.0%} against {fitted:.0%})"
    elif planar:
        reason = "one homography explains the matches: a flat scene or a camera that only turned"
    return FundamentalEstimate(
        F,
        inliers,
        float(np.median(sampson[near])) if near.any() else np.inf,
        planar,
        not reason,
        float(held.mean()),
        chance,
        reason,
    )


def _nothing(count: int, reason: str) -> FundamentalEstimate:
    return FundamentalEstimate(np.zeros((3, 3)), np.zeros(count, bool), np.inf, False, False, reason=reason)


def _distinct(a: np.ndarray, b: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Indices of usable matches, one of each that lie within a quarter of a pixel at both ends."""
    where = np.flatnonzero(usable)
    cells = np.round(np.concatenate([a[where], b[where]], axis=1) * 4)
    _, first = np.unique(cells, axis=0, return_index=True)
    return where[np.sort(first)]


def _robust(a: np.ndarray, b: np.ndarray, seed: int) -> np.ndarray | None:
    params = cv2.UsacParams()
    params.threshold = THRESHOLD
    params.confidence = 0.9999
    params.maxIterations = 20_000
    params.randomGeneratorState = seed
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.sampler = cv2.SAMPLING_UNIFORM
    try:
        F, _ = cv2.findFundamentalMat(a - 0.5, b - 0.5, params)
    except cv2.error:
        return None
    if F is None or F.shape != (3, 3) or not np.isfinite(F).all() or not F.any():
        return None
    return from_opencv(F)


def _refitted(F: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Eight points on the inliers, then their Sampson errors minimised, as long as that loses no inlier."""
    for refine in (lambda F, a, b: eight_point(a, b), _polished):
        inliers = line_errors(F, a, b) < THRESHOLD
        if inliers.sum() < 8:
            break
        again = refine(F, a[inliers], b[inliers])
        if (line_errors(again, a, b) < THRESHOLD).sum() >= inliers.sum():
            F = again
    return F


def _polished(F: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """F of rank 2 near the given one with the least (soft) Sampson errors."""
    _, to_a = _normalised(a)
    _, to_b = _normalised(b)
    begin = np.linalg.inv(to_a).T @ F @ np.linalg.inv(to_b)

    def pixels(p: np.ndarray) -> np.ndarray:
        u, s, vt = np.linalg.svd(p.reshape(3, 3))
        F = to_a.T @ (u * [s[0], s[1], 0.0]) @ vt @ to_b
        return F / np.linalg.norm(F)

    def errors(p: np.ndarray) -> np.ndarray:
        return sampson_distances(pixels(p), a, b)

    begin = (begin / np.linalg.norm(begin)).ravel()
    return pixels(least_squares(errors, begin, loss="soft_l1", f_scale=0.3, max_nfev=50).x)


def _band(a: np.ndarray, b: np.ndarray) -> float:
    """Chance that a wrong match lies within THRESHOLD of its line: the band's share of the points' extent."""
    shares = []
    for points in (a, b):
        low, high = np.quantile(points, [0.02, 0.98], axis=0)
        extent = np.maximum(high - low, 1.0)
        shares.append(2.0 * THRESHOLD * np.hypot(*extent) / np.prod(extent))
    return float(min(max(shares), 1.0))


def _log_chance(inliers: int, matches: int, band: float) -> float:
    """log10 of the expected number of models with so many inliers among random matches.

    Seven matches make a model (three solutions); Moisan and Stival 2004, eq. 6.
    """
    if inliers <= 7:
        return np.inf

    def log_choose(n: int, k: int) -> float:
        return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))

    log = np.log(3.0 * (matches - 7)) + log_choose(matches, inliers) + log_choose(inliers, 7)
    return float((log + (inliers - 7) * np.log(band)) / np.log(10.0))


def _is_planar(a: np.ndarray, b: np.ndarray, seed: int) -> bool:
    if len(a) < 8:
        return False
    params = cv2.UsacParams()
    params.threshold, params.confidence, params.maxIterations = 2.0 * THRESHOLD, 0.999, 5000
    params.randomGeneratorState = seed
    try:
        _, inside = cv2.findHomography(a, b, params)
    except cv2.error:
        return False
    return inside is not None and bool(inside.mean() > _PLANAR)


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _normalised(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Homogeneous points [n,3] around 0 at a mean distance of √2, and the map that made them so."""
    center = points.mean(0)
    distance = np.linalg.norm(points - center, axis=1).mean()
    if not distance > 0:
        raise ValueError("all points of a view lie in one place")
    s = np.sqrt(2.0) / distance
    to = np.array([[s, 0.0, -s * center[0]], [0.0, s, -s * center[1]], [0.0, 0.0, 1.0]])
    return _homogeneous(points) @ to.T, to
