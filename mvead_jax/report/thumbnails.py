"""Small copies of images for the page, and the outline of a mask as a path over them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool
from PIL import Image

from mvead_jax.data.image_files import ImageFile
from mvead_jax.data.images import open_image
from mvead_jax.data.masks import MASK_THRESHOLD, open_mask
from mvead_jax.data.mirroring import flipped_image

SIDE = 320  # pixels of the longer side; a smaller image stays as it is
MOST_WEBP = 16383  # pixels of a side that the format can hold
UNITS = 1000  # of the paths: both sides of an image, whatever its shape
_QUALITY, _QUALITY_OF_FULL = 82, 90


def write_thumbnail(
    picture: ImageFile, path: Path, bit_depth: int = 8, mirrored: bool = False, full: Path | None = None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """A WebP copy of at most SIDE pixels; the (width, height) of the image and of the copy.

    Args:
      bit_depth: of the index. mirrored: of the view.
      full: where a copy of the original size goes, if the image is larger than SIDE.

    Raises:
      UserError: not an image, or damaged.
    """
    image = flipped_image(open_image(picture, bit_depth), mirrored)
    original = image.size
    if full is not None and SIDE < max(original) <= MOST_WEBP:
        image.save(full, format="WEBP", quality=_QUALITY_OF_FULL, method=2)
    if max(image.size) > SIDE:
        scale = SIDE / max(image.size)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    image.save(path, format="WEBP", quality=_QUALITY, method=2)
    return original, image.size


def read_outline(mask: ImageFile, mirrored: bool = False) -> str:
    """The outline of a mask's defects. mirrored: of the view. Raises as `write_thumbnail`."""
    return outline(np.asarray(flipped_image(open_mask(mask), mirrored)) > MASK_THRESHOLD)


def outline(mask: Bool[np.ndarray, "H W"]) -> str:
    """The outline of all that is marked, holes too, as an SVG path in UNITS of width and height.

    It runs along the outer edges of the marked pixels: one alone is a square of its size.
    """
    height, width = mask.shape
    # Enlarged, so that a contour, which goes through centres of pixels, comes close to their edges.
    times = max(2, round(UNITS / max(mask.shape)))
    fine = cv2.resize(mask.astype(np.uint8), None, fx=times, fy=times, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    pieces = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 1.5, True).reshape(-1, 2)
        if len(points) < 3:
            points = contour.reshape(-1, 2)
        places = ((points + 0.5) / times * UNITS / (width, height)).round().astype(int)
        pieces.append("M" + "L".join(f"{x} {y}" for x, y in places) + "Z")
    return "".join(pieces)
