"""Cross-view matches of patch features: mutual nearest neighbours, to a fraction of a patch.

Unlike SIFT a backbone's features are not the same when the image is turned or flipped, and flipping their
grid does not help: a patch still holds what it shows. So the backbone looks at every image in its eight
appearances (four turns, each also flipped), and a patch of view a finds its neighbour among the four turns of
view b, as stored or flipped. Features are whitened sample by sample; the background, which looks alike in all
views, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from mvead_jax.data.images import image_size
from mvead_jax.data.loading import load_sample
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.geometry.epipolar import patch_centers
from mvead_jax.geometry.matching import CategoryMatches, Matches, PairKey, pool_matches
from mvead_jax.runtime.errors import UserError

TURNS = 4
_TAP = "patches"  # the feature map that is matched; every backbone has it
_LEAST_VARIANCE = 1e-2  # of the mean variance: directions of less are not blown up by whitening


class Extractor(Protocol):
    """What is needed of a backbone: a square input, images [B,S,S,3] -> square feature maps [B,h,w,D] by tap.

    Attributes:
      shapes: (h, w, D) of each map.
    """

    image_size: int
    shapes: Mapping[str, tuple[int, int, int]]

    def __call__(
        self, images: Float[np.ndarray, "B S S 3"]
    ) -> Mapping[str, Float[np.ndarray, "B h w D"]]: ...


def match_features(
    index: DatasetIndex, extractor: Extractor, most_samples: int = 32, batch_size: int = 32
) -> CategoryMatches:
    """Matches of patch features pooled over up to `most_samples` samples of one category.

    Raises:
      UserError: no sample, an unreadable image, images of one view in different sizes, or features that
        are not finite.
    """
    rows, columns, width = extractor.shapes[_TAP]
    grid = rows, columns

    def look(sample: Sample, position: int) -> tuple[dict[str, tuple[int, int]], dict[PairKey, Matches]]:
        sizes = {view.name: image_size(index.root / view.image) for view in sample.views}
        images, present = load_sample(index, sample, extractor.image_size)
        shown = appearances(images).reshape(-1, *images.shape[1:])
        parts = [shown[at : at + batch_size] for at in range(0, len(shown), batch_size)]
        parts[-1] = np.concatenate([parts[-1], np.zeros_like(shown[: len(parts[0]) - len(parts[-1])])])
        maps = [np.asarray(extractor(part)[_TAP], np.float32) for part in parts]
        features = np.concatenate(maps)[: len(shown)]
        if not np.isfinite(features).all():
            raise UserError(f"{sample.id}: features that are not finite; check the backbone's weights")
        features = features.reshape(2 * TURNS, len(images), -1, width)
        patches = match_patches(in_place(features, grid), present, grid)
        found = {}
        for (a, b, flipped), ends in patches.items():
            points = [
                end * np.asarray(sizes.get(index.views[view], (1, 1))) / grid[::-1]
                for end, view in zip(ends, (a, b), strict=True)
            ]
            found[a, b, flipped] = Matches(*points, np.full(len(points[0]), position))
        return sizes, found

    return pool_matches(index, most_samples, look, "features")


def appearances(images: Float[np.ndarray, "V S S 3"]) -> Float[np.ndarray, "8 V S S 3"]:
    """The images turned by 0, 90, 180 and 270 degrees, then their mirror images likewise."""
    both = (images, images[:, :, ::-1])
    return np.stack([np.rot90(own, turn, (1, 2)) for own in both for turn in range(TURNS)])


def in_place(features: Float[np.ndarray, "8 V N D"], grid: tuple[int, int]) -> Float[np.ndarray, "8 V N D"]:
    """Patch features of `appearances`, each moved to where its patch lies in the stored image."""
    maps = features.reshape(*features.shape[:2], *grid, -1)
    upright = np.stack([np.rot90(own, -(k % TURNS), (1, 2)) for k, own in enumerate(maps)])
    upright[TURNS:] = upright[TURNS:, :, :, ::-1].copy()
    return upright.reshape(features.shape)


def match_patches(
    features: Float[np.ndarray, "8 V N D"], present: Bool[np.ndarray, " V"], grid: tuple[int, int]
) -> dict[PairKey, tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]]:
    """Matches of one sample, in units of patches: (x, y) in [0, w] x [0, h] of the stored images.

    Args:
      features: of all appearances, in place.
      present: views that the sample has; pairs of others have no matches.
    """
    white, centers = _whitened(features), patch_centers(grid, 1.0)
    shown = [np.flatnonzero(part_patches(own, grid)) for own in features[0]]
    found = {}
    for a, b in combinations(range(len(present)), 2):
        for flipped in (False, True):
            found[a, b, flipped] = np.zeros((0, 2)), np.zeros((0, 2))
            if not (present[a] and present[b] and len(shown[a]) and len(shown[b])):
                continue
            other = white[TURNS:, b] if flipped else white[:TURNS, b]
            likeness = np.einsum("nd,tmd->tnm", white[0, a], other)
            i, j = _mutual(likeness.max(0)[np.ix_(shown[a], shown[b])])
            i, j = shown[a][i], shown[b][j]
            turn = likeness[:, i, j].argmax(0)
            # The centre of i belongs to the peak near j, and the centre of j to the peak near i: of these two
            # matches the mean. (Peak with peak would correct the same offset twice.)
            found[a, b, flipped] = (
                (centers[i] + peaks(likeness[turn, :, j], i, grid)) / 2,
                (centers[j] + peaks(likeness[turn, i], j, grid)) / 2,
            )
    return found


def part_patches(features: Float[np.ndarray, "N D"], grid: tuple[int, int]) -> Bool[np.ndarray, " N"]:
    """Which patches show the part: those unlike the border's median patch, cut by Otsu's threshold."""
    rows, columns = np.divmod(np.arange(len(features)), grid[1])
    border = (rows % (grid[0] - 1) == 0) | (columns % (grid[1] - 1) == 0)
    unlike = np.linalg.norm(features - np.median(features[border], axis=0), axis=1)
    most = unlike.max()
    if not most > 0:
        return np.zeros(len(features), bool)
    levels = np.round(255 * unlike / most).astype(np.uint8)
    cut, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return levels > cut


def peaks(
    likeness: Float[np.ndarray, "n N"], best: Int[np.ndarray, " n"], grid: tuple[int, int]
) -> Float[np.ndarray, "n 2"]:
    """Where a parabola through the best patch and its two neighbours peaks, along x and along y.

    Returns:
      (x, y) in patches, at most half a patch from the best one's centre; at the border the centre itself.
    """
    row, column = np.divmod(best, grid[1])
    maps, n = likeness.reshape(-1, *grid), np.arange(len(best))

    def peak(before: np.ndarray, after: np.ndarray, inside: np.ndarray) -> np.ndarray:
        bend = 2 * likeness[n, best] - before - after
        usable = inside & (bend > 1e-9)
        return np.clip(np.where(usable, 0.5 * (after - before) / np.where(usable, bend, 1), 0), -0.5, 0.5)

    left, right = maps[n, row, np.maximum(column - 1, 0)], maps[n, row, np.minimum(column + 1, grid[1] - 1)]
    above, below = maps[n, np.maximum(row - 1, 0), column], maps[n, np.minimum(row + 1, grid[0] - 1), column]
    x = column + 0.5 + peak(left, right, (column > 0) & (column < grid[1] - 1))
    y = row + 0.5 + peak(above, below, (row > 0) & (row < grid[0] - 1))
    return np.stack([x, y], axis=1)


def _whitened(features: Float[np.ndarray, "8 V N D"]) -> Float[np.ndarray, "8 V N D"]:
    """Unit vectors after the mean of each view is gone and no direction varies more than others."""
    centered = features - features.mean((0, 2), keepdims=True)
    flat = centered.reshape(-1, centered.shape[-1])
    variance, axes = np.linalg.eigh(flat.T @ flat / len(flat))
    spread = np.sqrt(np.maximum(variance, 0) + _LEAST_VARIANCE * max(variance.mean(), 1e-12))
    white = centered @ (axes / spread)
    return white / np.maximum(np.linalg.norm(white, axis=-1, keepdims=True), 1e-12)


def _mutual(likeness: Float[np.ndarray, "n m"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that are each other's best."""
    best = likeness.argmax(1)
    rows = np.flatnonzero(likeness.argmax(0)[best] == np.arange(len(likeness)))
    return rows, best[rows]
