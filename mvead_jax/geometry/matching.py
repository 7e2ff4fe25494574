"""Cross-view matches of one category, pooled over many samples, each view also tried flipped; here: of SIFT.

One sample gives a handful of right matches between views 45 to 90 degrees apart; all samples stand under
the same cameras, so their matches add up. What stands at the same place in every sample (the tray, a holder)
would drown the part: only a few matches of one place are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float, Int

from mvead_jax.data.images import image_size
from mvead_jax.data.mirroring import open_view
from mvead_jax.data.records import DatasetIndex, Sample, spread_evenly
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.progress import progress

_RATIO = 0.85  # Lowe's ratio; looser than usual, the fit stands wrong matches
_SIDE = (512, 1024)  # pixels that SIFT looks at along the longer side; smaller images are enlarged
_CONTRAST = 0.01  # SIFT's; below OpenCV's 0.04, because machined surfaces are plain
_FEATURES = 4000  # per image, the strongest
_SAME_PLACE = 3  # matches of one place at both ends that are kept
_PLACE = 2.0  # pixels of a 256-pixel image that make a place
_THREADS = 4

PairKey = tuple[int, int, bool]  # a, b, flipped: see CategoryMatches


@dataclass(frozen=True)
class Matches:
    """Matches between views a and b in pixels of the stored images.

    Attributes:
      points_a, points_b: (x, y), an image spans [0, W] x [0, H].
      sample: which sample each comes from.
      static: how many were left out because they stand at the same place in many samples.
    """

    points_a: Float[np.ndarray, "n 2"]
    points_b: Float[np.ndarray, "n 2"]
    sample: Int[np.ndarray, " n"]
    static: int = 0

    def __len__(self) -> int:
        return len(self.sample)

    def at(self, where: np.ndarray) -> Matches:
        """Some of them: indices or a mask."""
        return Matches(self.points_a[where], self.points_b[where], self.sample[where], self.static)


@dataclass(frozen=True)
class CategoryMatches:
    """Matches of every pair of views of a category.

    Attributes:
      views: names, in order. sizes: (W, H) of each view's images.
      pairs: (a, b, flipped) with a < b -> matches of a with b as stored, or with b flipped left-right first
        (the points are those of the stored image in both cases).
      samples: how many samples were looked at.
      evidence: what was matched: "sift", "features" or "both".
    """

    views: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    pairs: dict[PairKey, Matches]
    samples: int
    evidence: str = "sift"


def match_category(index: DatasetIndex, most_samples: int = 32) -> CategoryMatches:
    """Matches of SIFT points pooled over up to `most_samples` samples of one category.

    Raises:
      UserError: no sample, an unreadable image, or images of one view in different sizes.
    """

    def look(sample: Sample, position: int) -> tuple[dict[str, tuple[int, int]], dict[PairKey, Matches]]:
        images = {view.name: open_view(index, view) for view in sample.views}
        described = [_describe(np.asarray(images[v])) if v in images else None for v in index.views]
        return {name: image.size for name, image in images.items()}, _match_sample(described, position)

    return pool_matches(index, most_samples, look, "sift")


def pool_matches(
    index: DatasetIndex,
    most_samples: int,
    look: Callable[[Sample, int], tuple[dict[str, tuple[int, int]], dict[PairKey, Matches]]],
    evidence: str,
) -> CategoryMatches:
    """What `look` finds in up to `most_samples` samples, spread evenly over the index.

    Memory holds the matches and the images of a few samples at a time.

    Args:
      look: (sample, its number) -> (W, H) of its images by view, and its matches. Called from threads.
      evidence: what it matches.

    Raises:
      UserError: as `look`; or no sample, or images of one view in different sizes.
    """
    sizes = dict(zip(index.views, picture_sizes(index), strict=True))
    chosen = spread_evenly(len(index), most_samples)
    samples = [index.samples[i] for i in chosen]
    found: dict[PairKey, list[Matches]] = {}
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress(f"{evidence} matches {samples[0].category}", len(samples), "samples") as bar,
    ):
        looks = pool.map(look, samples, range(len(samples)))
        for sample, (seen, matches) in zip(samples, looks, strict=True):
            for name, size in seen.items():
                if sizes[name] != size:
                    raise UserError(
                        f"{sample.id}: image of {name} is {size[0]} x {size[1]}, others are "
                        f"{sizes[name][0]} x {sizes[name][1]}; one geometry needs one size for each view"
                    )
            for key, value in matches.items():
                found.setdefault(key, []).append(value)
            bar.advance()
    pairs = {
        key: _without_static(pooled(parts), max(sizes[index.views[key[0]]])) for key, parts in found.items()
    }
    sizes_in_order = tuple(sizes[view] for view in index.views)
    return CategoryMatches(index.views, sizes_in_order, pairs, len(samples), evidence)


def joined(first: CategoryMatches, second: CategoryMatches) -> CategoryMatches:
    """Matches of two kinds of evidence on the same samples, together."""
    pairs = {key: pooled([own, second.pairs[key]]) for key, own in first.pairs.items()}
    return replace(first, pairs=pairs, evidence="both")


def with_mirror_images(matches: CategoryMatches) -> CategoryMatches:
    """For each pair its matches as stored and flipped together, whichever of them the key asks for.

    A part that looks alike on both sides of the plane halfway between two cameras gives wrong matches: of a
    point with its mirror image. But the line through both is parallel to the baseline, so they lie in one
    plane with the two cameras: such matches are exact for the epipolar geometry, though not for the points.
    They appear where one of the images is flipped once more than the cameras say. On parts that are not
    symmetric they are scatter that a robust fit stands.
    """
    pairs = {}
    for a, b, flipped in matches.pairs:
        pairs[a, b, flipped] = pooled([matches.pairs[a, b, False], matches.pairs[a, b, True]])
    return replace(matches, pairs=pairs)


def picture_sizes(index: DatasetIndex) -> tuple[tuple[int, int], ...]:
    """(W, H) of each view's images, by the first sample that has the view.

    Raises:
      UserError: no samples, or an unreadable image.
    """
    if not len(index):
        raise UserError(f"{index.root}: no normal samples to tell the geometry from")
    first = {view.name: view.image for sample in reversed(index.samples) for view in sample.views}
    if lacking := [view for view in index.views if view not in first]:
        raise UserError(f"{index.root}: no training sample has view {', '.join(lacking)}")
    return tuple(image_size(index.root / first[view]) for view in index.views)


def _describe(image: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """SIFT points (pixels, our convention) and descriptors of an image as it is, and of its mirror image."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    side = max(gray.shape)
    scale = float(np.clip(side, *_SIDE)) / side
    if scale != 1.0:
        kind = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        if scale * min(gray.shape) < 1:  # of a strip a pixel wide nothing would be left
            gray = cv2.resize(gray, (min(gray.shape[1], _SIDE[1]), min(gray.shape[0], _SIDE[1])))
        else:
            gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=kind)
    scales = np.array([image.shape[1] / gray.shape[1], image.shape[0] / gray.shape[0]])
    sift = cv2.SIFT_create(nfeatures=_FEATURES, contrastThreshold=_CONTRAST)
    out = []
    for flipped in (False, True):
        points, descriptors = sift.detectAndCompute(
            np.ascontiguousarray(gray[:, ::-1]) if flipped else gray, None
        )
        # OpenCV counts pixel centres as integers (decision D1).
        place = (np.array([point.pt for point in points]).reshape(-1, 2) + 0.5) * scales
        if flipped:
            place[:, 0] = image.shape[1] - place[:, 0]
        out.append((place, descriptors if descriptors is not None else np.zeros((0, 128), np.float32)))
    return out[0], out[1]


def _match_sample(described: Sequence, position: int) -> dict[PairKey, Matches]:
    """Mutual nearest descriptors that pass Lowe's ratio, for every pair of views, as stored and flipped."""
    out = {}
    for a, b in combinations(range(len(described)), 2):
        for flipped in (False, True):
            out[a, b, flipped] = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
            if described[a] is None or described[b] is None:
                continue
            (points_a, words_a), (points_b, words_b) = described[a][0], described[b][int(flipped)]
            if len(words_a) < 2 or len(words_b) < 2:
                continue
            i, j = _mutual(words_a, words_b)
            out[a, b, flipped] = Matches(points_a[i], points_b[j], np.full(len(i), position))
    return out


def _mutual(words_a: np.ndarray, words_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of descriptors that are each other's nearest and pass Lowe's ratio from a to b.

    One matrix product serves both directions; SIFT's descriptors are small integers, exact in float32.
    """
    squared = (words_a**2).sum(1)[:, None] + (words_b**2).sum(1)[None] - 2.0 * (words_a @ words_b.T)
    back = squared.argmin(0)
    rows = np.arange(len(words_a))
    nearest = squared.argmin(1)
    first = squared[rows, nearest]
    squared[rows, nearest] = np.inf
    good = (first < _RATIO**2 * squared.min(1)) & (back[nearest] == rows)
    return rows[good], nearest[good]


def pooled(parts: Sequence[Matches]) -> Matches:
    """Matches of one pair of views from several places."""
    names = ("points_a", "points_b", "sample")
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return Matches(*arrays, sum(part.static for part in parts))


def _without_static(matches: Matches, side: int) -> Matches:
    """At most _SAME_PLACE matches that join the same two places."""
    cells = np.round(np.concatenate([matches.points_a, matches.points_b], axis=1) / (_PLACE * side / 256))
    _, place = np.unique(cells, axis=0, return_inverse=True)
    place = place.ravel()
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    rank = np.empty(len(place), int)
    rank[order] = np.arange(len(place)) - np.repeat(starts, np.diff([*starts, len(place)]))
    keep = rank < _SAME_PLACE
    kept = matches.at(keep)
    return Matches(kept.points_a, kept.points_b, kept.sample, int((~keep).sum()))
