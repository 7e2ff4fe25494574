"""One camera model for all views, fitted to the matches of every pair at once.

Ten fundamental matrices of five views have 70 degrees of freedom, five cameras around a part have about 25,
and pairs with good matches hold up pairs without. The fit starts from a nominal rig (a view from above, the
others around at an elevation), tries the order of the side views, which views are stored mirrored and how the
top view is turned, and is robust: of the pooled matches nine in ten are wrong. Once these choices are made,
matches of mirror images (matching.py) take part too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import least_squares
from threadpoolctl import threadpool_limits

from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.fundamental import signed_sampson
from mvead_jax.geometry.images import between_new_images
from mvead_jax.geometry.matching import CategoryMatches, Matches, with_mirror_images

# Scatter that is expected around the nominal rig: log focal length; then for each view azimuth, elevation and
# roll in degrees, log distance, and the principal point in image sides.
_FOCAL_SCATTER = 0.3
_VIEW_SCATTER = np.array([4.0, 4.0, 4.0, 0.04, 0.03, 0.03])
_PRIOR = 0.02  # weight of that expectation beside the mean match
_FOCAL = 4.0  # nominal focal length in image sides: a view of 14 degrees
_SCALES = {"coarse": (8.0, 4.0), "fine": (4.0, 2.0, 1.0)}  # pixels of a 256-pixel image
_COARSE, _FINE = 300, 1500  # matches of a pair that take part
_FIRST_SCALE = 6.0
_HYPOTHESES = 8  # of order, mirrored views and roll: those that are fitted
_OVERHEAD = 80.0  # degrees of elevation from which the roll is unknown


@dataclass(frozen=True)
class Nominal:
    """Where the views roughly stand: elevation and azimuth in degrees, counter-clockwise seen from above."""

    elevation: tuple[float, ...] = (90.0, 45.0, 45.0, 45.0, 45.0)
    azimuth: tuple[float, ...] = (0.0, 0.0, 90.0, 180.0, 270.0)


@dataclass(frozen=True)
class RigFit:
    """A fitted rig.

    Attributes:
      F: [V,V,3,3] between the stored images in their pixels.
      mirrored: which views are stored flipped left-right. All flipped and none flipped are the same rig seen
        in a mirror; the sense of the nominal azimuths decides.
      margin: score of this choice of order, mirrored views and roll over the best other, at the coarse scale.
    """

    F: Float[np.ndarray, "V V 3 3"]
    mirrored: Bool[np.ndarray, " V"]
    margin: float


@dataclass(frozen=True)
class _Problem:
    """Matches in units of image sides around the image centre, y down."""

    matches: dict[tuple[int, int, bool], tuple[np.ndarray, np.ndarray]]  # homogeneous [n,3] of a and b
    nominal: Nominal
    views: int

    def pick(self, mirrored: Sequence[bool]):
        """(a, b, points of a, points of b) of the matches that this choice of mirrored views calls for."""
        for a, b in combinations(range(self.views), 2):
            yield a, b, *self.matches[a, b, mirrored[a] != mirrored[b]]

    def fundamental(self, p: np.ndarray, roll: Sequence[float], mirrored: Sequence[bool]) -> np.ndarray:
        """F [V,V,3,3] of parameters p [1 + 6 V]."""
        K, R, t = _cameras(p, roll, self.nominal)
        F = fundamental_from_cameras(K, R, t)
        flips = np.stack([np.diag([-1.0 if flipped else 1.0, 1.0, 1.0]) for flipped in mirrored])
        return between_new_images(F, flips)

    def errors(self, p: np.ndarray, roll: Sequence[float], mirrored: Sequence[bool]) -> list[np.ndarray]:
        """Signed Sampson error of every match, pair by pair, in image sides."""
        F = self.fundamental(p, roll, mirrored)
        return [signed_sampson(F[a, b], x, y) for a, b, x, y in self.pick(mirrored)]

    def score(self, p: np.ndarray, roll: Sequence[float], mirrored: Sequence[bool], scale: float) -> float:
        """Mean over pairs of the share of matches that fit, soft at `scale`."""
        return float(np.mean([(1 / (1 + (e / scale) ** 2)).mean() for e in self.errors(p, roll, mirrored)]))

    def fit(self, p, roll, mirrored, scales, steps: int) -> np.ndarray:
        """Parameters that minimise the Geman-McClure error, from coarse to fine scales."""
        expected = np.concatenate([[_FOCAL_SCATTER], np.tile(_VIEW_SCATTER, self.views)])
        picked = list(self.pick(mirrored))
        prior = np.diag(_PRIOR * np.sqrt(sum(len(x) for _, _, x, _ in picked)) / expected)
        step = 1e-6 * expected

        def residuals(p, scale):
            e = np.concatenate(self.errors(p, roll, mirrored)) / scale
            return np.concatenate([e / np.sqrt(1 + e * e), prior @ p])

        def slopes(p, scale):
            """Through F: its slopes by differences, those of the errors in F exactly."""
            F = self.fundamental(p, roll, mirrored)
            moved = [self.fundamental(p + step * unit, roll, mirrored) - F for unit in np.eye(len(p))]
            rows = []
            for a, b, x, y in picked:
                e, by_f = _sampson_slopes(F[a, b], x, y)
                through = np.stack([one[a, b].ravel() for one in moved], axis=1) / step
                rows.append(by_f @ through / scale / ((1 + (e / scale) ** 2) ** 1.5)[:, None])
            return np.concatenate([*rows, prior])

        for scale in scales:
            p = least_squares(residuals, p, slopes, x_scale=expected, max_nfev=steps, args=(scale,)).x
        return p


# The matrices are small: threads of BLAS would wait for each other, on a busy machine for minutes.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_rig(matches: CategoryMatches, nominal: Nominal | None = None, seed: int = 0) -> RigFit | None:
    """Cameras that agree with the matches of all pairs; None if the nominal rig has other views than these.

    Args:
      matches: those to fit to; hold some back to judge the result by.
      nominal: where the views roughly stand.
      seed: of the choice among many matches.
    """
    nominal = nominal or Nominal()
    views = len(matches.views)
    if len(nominal.elevation) != views or any(len(own) < 8 for own in matches.pairs.values()):
        return None
    coarse = _problem(matches, nominal, _COARSE, seed)
    begin = np.zeros(1 + 6 * views)
    turns = [(0.0, 90.0, 180.0, 270.0) if e > _OVERHEAD else (0.0,) for e in nominal.elevation]
    guesses = [
        (replace(coarse, nominal=order), roll, mirrored)
        for order in _orders(nominal)
        for roll in product(*turns)
        for mirrored in product((False, True), repeat=views)
    ]
    guesses.sort(key=lambda guess: -guess[0].score(begin, *guess[1:], _FIRST_SCALE / 256))
    fitted = []
    for problem, roll, mirrored in guesses[:_HYPOTHESES]:
        p = problem.fit(begin, roll, mirrored, [s / 256 for s in _SCALES["coarse"]], 8)
        fitted.append((problem.score(p, roll, mirrored, 2.0 / 256), problem, roll, mirrored, p))
    fitted.sort(key=lambda fit: -fit[0])
    best, problem, roll, mirrored, p = fitted[0]
    fine = replace(_problem(with_mirror_images(matches), nominal, _FINE, seed), nominal=problem.nominal)
    p = fine.fit(p, roll, mirrored, [s / 256 for s in _SCALES["fine"]], 10)
    # From image sides around the centre to pixels.
    to_pixels = np.stack(
        [np.array([[max(w, h), 0, w / 2], [0, max(w, h), h / 2], [0, 0, 1.0]]) for w, h in matches.sizes]
    )
    F = between_new_images(fine.fundamental(p, roll, mirrored), to_pixels)
    return RigFit(F, np.array(mirrored), best / fitted[1][0])


def _orders(nominal: Nominal) -> list[Nominal]:
    """The nominal rig with its side views in every order around the part.

    The first of them keeps its place (a turn of the whole rig changes nothing), and of an order and its
    reverse only one is tried: they are the same rig seen in a mirror.
    """
    sides = [view for view, elevation in enumerate(nominal.elevation) if elevation <= _OVERHEAD]
    out = []
    for places in permutations(sides[1:]):
        if places[:1] <= places[-1:]:
            azimuth = list(nominal.azimuth)
            for view, place in zip(sides[1:], places, strict=True):
                azimuth[view] = nominal.azimuth[place]
            out.append(replace(nominal, azimuth=tuple(azimuth)))
    return out


def _cameras(p: np.ndarray, roll: Sequence[float], nominal: Nominal) -> tuple[np.ndarray, ...]:
    """K, R, t of p: log focal length, then azimuth, elevation, roll, log distance, cx and cy of each view."""
    q = p[1:].reshape(-1, 6)
    azimuth = np.deg2rad(np.asarray(nominal.azimuth) + q[:, 0])
    elevation = np.deg2rad(np.asarray(nominal.elevation) + q[:, 1])
    turn = np.deg2rad(np.asarray(roll) + q[:, 2])
    focal = _FOCAL * np.exp(p[0])
    zero = np.zeros_like(azimuth)
    toward = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1
    )
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), zero], 1)
    down = np.cross(-toward, right)
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    R = np.stack([c * right - s * down, s * right + c * down, -toward], 1)
    distance = np.exp(q[:, 3]) * focal  # a part one image side wide
    t = -np.einsum("vij,vj->vi", R, toward * distance[:, None])
    K = np.tile(np.diag([focal, focal, 1.0]), (len(q), 1, 1))
    K[:, :2, 2] = q[:, 4:]
    return K, R, t


def _sampson_slopes(F: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed Sampson errors [n] and their slopes [n,9] in the entries of F."""
    line_x, line_y = y @ F.T, x @ F
    line_x[:, 2], line_y[:, 2] = 0.0, 0.0
    slope = np.maximum((line_x**2).sum(1) + (line_y**2).sum(1), 1e-30)
    e = np.einsum("ni,ij,nj->n", x, F, y) / np.sqrt(slope)
    outer = x[:, :, None] * y[:, None, :]
    by_slope = line_x[:, :, None] * y[:, None, :] + x[:, :, None] * line_y[:, None, :]
    by_f = outer / np.sqrt(slope)[:, None, None] - (e / slope)[:, None, None] * by_slope
    return e, by_f.reshape(-1, 9)


def _problem(matches: CategoryMatches, nominal: Nominal, most: int, seed: int) -> _Problem:
    rng = np.random.default_rng(seed)
    chosen = {}
    for (a, b, flipped), own in matches.pairs.items():
        some = own.at(rng.permutation(len(own))[:most])
        chosen[a, b, flipped] = tuple(
            _centered(points, matches.sizes[view])
            for points, view in ((some.points_a, a), (some.points_b, b))
        )
    return _Problem(chosen, nominal, len(matches.views))


def _centered(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    centered = (points - np.asarray(size) / 2) / max(size)
    return np.concatenate([centered, np.ones((len(points), 1))], axis=1)


def split_by_sample(
    matches: CategoryMatches, held_out: float = 1 / 3
) -> tuple[CategoryMatches, CategoryMatches]:
    """Matches to fit to, and matches of other samples to judge by: every third sample, evenly spread."""
    step = round(1 / held_out)
    parts = []
    for judge in (False, True):
        pairs: dict[tuple[int, int, bool], Matches] = {
            key: own.at((own.sample % step == step - 1) == judge) for key, own in matches.pairs.items()
        }
        parts.append(replace(matches, pairs=pairs))
    return parts[0], parts[1]
