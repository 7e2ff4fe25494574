"""Which patches show the part: foreground masks from files or from features, and their resize to patches.

A method may leave the background out of its loss and its scores. A mask is boolean, True = part. It comes
from one of three sources: `none` (every patch counts), `files` (a PNG for each image), `automatic` (patches
that are unlike the border of the image). All functions are pure, except `read_foreground`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import ndimage

from mvead_jax.data.image_files import ImageFile
from mvead_jax.data.images import image_size, open_image
from mvead_jax.data.masks import MASK_THRESHOLD
from mvead_jax.runtime.errors import UserError

Source = Literal["none", "files", "automatic"]
Resize = Literal["area", "nearest", "released"]
SUFFIX = ".foreground.png"
_UNIFORM = 0.75  # share of the variance between the halves of a uniform distribution
_SMALLEST_PIECE = 0.05  # of the largest piece's area; smaller ones are dirt

Mask = Bool[np.ndarray, "h w"]


# ---- files


def foreground_path(image: str, folder: str | None = None) -> str:
    """Return where the foreground mask of an image lies: `a/b/x.foreground.png` beside `a/b/x.jpg`.

    Args:
      image: path of the image below the data set's root, with forward slashes.
      folder: a folder that holds the masks as the data set's root holds the images; then the mask is
        `<folder>/a/b/x.png`.
    """
    path = PurePosixPath(image)
    if folder is None:
        return str(path.with_name(path.stem + SUFFIX))
    return str(PurePosixPath(folder) / path.with_suffix(".png"))


def read_foreground(mask: ImageFile, image: ImageFile) -> Mask:
    """Return the mask of a file: a pixel above 127 of 255 belongs to the part.

    The mask has the image's shape: its size, or the same aspect ratio in another size; or it is a square, as
    masks are that were made from images resized to a square.

    Raises:
      UserError: no such file, no image, another shape, levels of 0 and 1 instead of 0 and 255, or a mask that
        marks nothing.
    """
    levels = np.asarray(open_image(mask).convert("L"))
    height, width = levels.shape
    own_width, own_height = image_size(image)
    if width != height and abs(width * own_height - height * own_width) > max(own_width, own_height):
        raise UserError(
            f"{mask}: a foreground mask of {width} x {height} pixels for an image of {own_width} x "
            f"{own_height}; its shape must be that of the image, or a square"
        )
    brightest = levels.max()
    if 0 < brightest <= MASK_THRESHOLD:
        raise UserError(
            f"{mask}: its brightest pixel is {brightest} of 255, the part is above {MASK_THRESHOLD}; "
            "write 0 and 255"
        )
    if brightest == 0:
        raise UserError(f"{mask}: marks no part at all; mark it white, or take data.foreground=none")
    return levels > MASK_THRESHOLD


# ---- from features


def automatic_foreground(features: Float[np.ndarray, "h w D"]) -> Mask:
    """Return the part in a map of features: what is unlike the border, without holes and without specks.

    The border should show mostly background. Where nothing stands out clearly from it, all patches are
    foreground, so that no patch is left out by mistake: two groups of patches count as two if the groups
    explain more of the variance of the distances than they would of a uniform distribution (3/4).
    """
    distance = border_distance(features)
    part = above_otsu(distance)
    if not _separability(distance, part) > _UNIFORM:
        return np.ones(part.shape, bool)
    return largest_pieces(ndimage.binary_fill_holes(part))


def border_distance(features: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "h w"]:
    """Return how far each patch is from the median patch of the border."""
    border = np.ones(features.shape[:2], bool)
    border[1:-1, 1:-1] = False
    return np.linalg.norm(features - np.median(features[border], axis=0), axis=-1)


def above_otsu(values: Float[np.ndarray, "h w"]) -> Mask:
    """Return which values, at least 0, lie above Otsu's threshold (Otsu 1979); none where all are 0."""
    most = values.max()
    if not most > 0:
        return np.zeros(values.shape, bool)
    levels = np.round(255 * values / most).astype(np.uint8)
    cut, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return levels > cut


def _separability(values: Float[np.ndarray, "h w"], above: Mask) -> float:
    """Return the share of the variance that lies between two groups of values (Otsu 1979, eq. 12)."""
    share = above.mean()
    if not 0 < share < 1:
        return 0.0
    between = share * (1 - share) * (values[above].mean() - values[~above].mean()) ** 2
    return float(between / values.var())


def largest_pieces(part: Mask) -> Mask:
    """Return the 8-connected pieces whose area is at least 5 % of the largest piece's."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(part.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(labels, [at for at in range(1, count) if areas[at - 1] >= _SMALLEST_PIECE * areas.max()])


def filled_and_grown(part: Mask, size: int = 8) -> Mask:
    """Return a mask with its holes filled, dilated by a block of `size` x `size` pixels.

    A hole is background that no 4-connected path joins to the border. The released code of Multi-Flow does
    this with the masks of its segmentation network. The origin of a block of even size is SciPy's.
    """
    return ndimage.binary_dilation(ndimage.binary_fill_holes(part), np.ones((size, size), bool))


# ---- to the grid of patches


def resize_foreground(part: Mask, grid: tuple[int, int], rule: Resize = "area") -> Mask:
    """Return a mask on a grid of patches.

    Args:
      part: mask of any size.
      grid: (h, w).
      rule: `area`: a patch belongs to the part if at least half of its area does; `nearest`:
        `resize_nearest`; `released`: `resize_fixed_point`.
    """
    rules = {"area": resize_by_area, "nearest": resize_nearest, "released": resize_fixed_point}
    return rules[rule](part, grid)


def resize_by_area(part: Mask, grid: tuple[int, int]) -> Mask:
    """Return which cells of a grid are covered by the part by half or more, in whole numbers, exactly."""
    rows, columns = (_overlaps(size, cells) for size, cells in zip(part.shape, grid, strict=True))
    covered = rows @ part.astype(np.int64) @ columns.T
    return 2 * covered >= part.size


def resize_nearest(part: Mask, grid: tuple[int, int]) -> Mask:
    """Return pixel floor(i * size / cells) for cell i along each axis, as OpenCV's INTER_NEAREST does."""
    rows, columns = (np.arange(cells) * size // cells for size, cells in zip(part.shape, grid, strict=True))
    return part[rows][:, columns]


def resize_fixed_point(part: Mask, grid: tuple[int, int]) -> Mask:
    """Return the released mask of Multi-Flow: OpenCV's bilinear resize of 8-bit zeros and ones.

    The released code means to take the nearest pixel, but passes that option in the place of another one.
    Half-pixel centres, no antialiasing, weights of 11 bits; the vertical pass drops bits before it rounds, so
    that an interpolated value of one half is not always rounded in the same direction.
    """
    (top, below, w_top, w_below), (left, right, w_left, w_right) = (
        _two_pixels(size, cells) for size, cells in zip(part.shape, grid, strict=True)
    )
    levels = part.astype(np.int64)
    across = levels[:, left] * w_left + levels[:, right] * w_right
    down = (w_top[:, None] * (across[top] >> 4) >> 16) + (w_below[:, None] * (across[below] >> 4) >> 16)
    return (down + 2) >> 2 > 0


def _overlaps(size: int, cells: int) -> Int[np.ndarray, "cells size"]:
    """Return how much of each of `size` pixels lies in each cell, in units of 1 / cells of a pixel."""
    cell, pixel = np.arange(cells)[:, None] * size, np.arange(size)[None] * cells
    return np.maximum(np.minimum(cell + size, pixel + cells) - np.maximum(cell, pixel), 0)


def _two_pixels(size: int, cells: int) -> tuple[Shaped[np.ndarray, " cells"], ...]:
    """Return, for each cell along an axis, the two pixels it lies between and their weights of 2048."""
    place = (np.arange(cells) + 0.5) * (size / cells) - 0.5
    low = np.floor(place).astype(np.int64)
    weights = [np.rint(2048 * own).astype(np.int64) for own in (low + 1 - place, place - low)]
    return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), *weights
