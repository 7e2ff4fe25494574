"""Defect masks: read in one way, and judged before they are believed.

A mask is grey, black where the object is good and white where it is defective; brighter than MASK_THRESHOLD
counts as defective. So it has two levels, or soft edges between them where someone resized it. What a
threshold on brightness would misread is refused:

- transparency that varies: the defect may be marked in it, under colours that are all white;
- colours: of a red and a green defect only the green one is bright enough;
- areas at a level between black and white: a defect drawn at grey 100 beside one at 255 would be dropped.

An area is told from a soft edge by its thickness: edges are ramps, whose level changes within two pixels, and
so is a thin scratch, all of whose pixels may lie between. An area holds a square of three by three pixels of
one level, of five by five in a mask of many levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from mvead_jax.data.deep_images import stored_bits
from mvead_jax.data.image_files import ImageFile
from mvead_jax.data.images import decode, largest_value, opened
from mvead_jax.runtime.errors import UserError

MASK_THRESHOLD = 127  # of 255; what is brighter is a defect
MOST_MARKED = 0.5  # share of an image, beyond which a mask may well be inverted

_LOSSY = ("JPEG", "MPO", "WEBP")
_GREY_ENOUGH = 16  # levels between the colours of a pixel, as JPEG leaves them
_FEW_LEVELS = 8  # what was drawn by hand or by class has no more; what was resized or blurred has
_NEAR_THE_ENDS = 16  # levels from black and from white that blurs and JPEG spread over areas
_AREA, _AREA_OF_SOFT = 3, 5  # pixels along the side of the least area; wide blurs have flat tops
_CHANGED = 4  # levels by which JPEG and WEBP change an area


@dataclass(frozen=True)
class MaskFacts:
    """What a mask marks.

    Attributes:
      size: (width, height).
      brightest: its highest level.
      marked: share of the image above MASK_THRESHOLD.
      faint: how many regions have no pixel above MASK_THRESHOLD, though others have: they count as normal.
      flat: whether nothing is above MASK_THRESHOLD, but an area is above black.
    """

    size: tuple[int, int]
    brightest: int
    marked: float
    faint: int
    flat: bool


def open_mask(file: ImageFile) -> Image.Image:
    """Return a defect mask as 8-bit grey, upright.

    Raises:
      UserError: as `images.open_image`; or brightness alone does not tell what it marks: its transparency
        varies, it has colours, or areas at a level between black and white. Names path and figures.
    """
    return _read(file)[0]


def mask_facts(file: ImageFile) -> MaskFacts:
    """Return what a mask marks. Raises as `open_mask`."""
    mask, lossy = _read(file)
    levels = np.asarray(mask)
    brightest = int(levels.max())
    dark = 0 < brightest <= MASK_THRESHOLD
    return MaskFacts(
        size=mask.size,
        brightest=brightest,
        marked=float((levels > MASK_THRESHOLD).mean()),
        faint=_faint_regions(levels) if brightest > MASK_THRESHOLD else 0,
        flat=dark and bool(_squares(levels, levels > (_CHANGED if lossy else 0), _AREA, lossy).any()),
    )


def mask_label(file: ImageFile) -> int:
    """Return 1 if the mask marks a defect, 0 if all of it is black.

    Raises:
      UserError: as `open_mask`; or it is neither, as masks of 0 and 1 in place of 0 and 255 are.
    """
    facts = mask_facts(file)
    if why := too_dark(facts):
        raise UserError(f"{file}: {why}")
    return int(facts.brightest > 0)


def too_dark(facts: MaskFacts) -> str | None:
    """Return why a mask that is not black marks nothing, or None."""
    if 0 < facts.brightest <= MASK_THRESHOLD:
        return (
            f"its brightest pixel is {facts.brightest} of 255, a defect is above {MASK_THRESHOLD}; "
            "write 0 and 255"
        )
    return None


def _read(file: ImageFile) -> tuple[Image.Image, bool]:
    """Return a mask that was judged, and whether its format changes levels a little."""
    with opened(file) as image:
        lossy = image.format in _LOSSY
        # Of 16 bits a channel people use all, or the lowest 8.
        bits = 8 if stored_bits(image) > 8 and largest_value(file) < 256 else 16
        mask = _grey(decode(image, str(file), bits), str(file))
    if area := _area_between(np.asarray(mask), lossy):
        level, x, y, share = area
        raise UserError(
            f"{file}: {share:.1%} of it lies between black and white, and not at edges (level {level} of 255 "
            f"at x {x}, y {y}); draw defects at 255 and the rest at 0"
        )
    return mask, lossy


def _grey(image: Image.Image, name: str) -> Image.Image:
    """Return the brightness of a mask that has neither transparency that varies nor colours."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        least, most = image.convert("RGBA").getchannel("A").getextrema()
        if least != most:
            raise UserError(
                f"{name}: its transparency varies (alpha {least} to {most}), so colours and alpha may mark "
                "different things; save it as grey without transparency, defects at 255 and the rest at 0"
            )
    rgb = image.convert("RGB")
    if image.mode not in ("1", "L", "LA", "La"):
        colours = np.asarray(rgb)
        red, green, blue = np.moveaxis(colours, -1, 0)  # one after the other: many times as fast
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        y, x = np.unravel_index(int(spread.argmax()), spread.shape)
        if spread[y, x] > _GREY_ENOUGH:
            colour = ", ".join(map(str, colours[y, x].tolist()))
            raise UserError(
                f"{name}: holds colours (red, green, blue {colour} at x {x}, y {y}), of which only the "
                "bright ones would count; save it as grey, defects at 255 and the rest at 0"
            )
    return rgb.convert("L")


def _area_between(levels: UInt8[np.ndarray, "H W"], lossy: bool) -> tuple[int, int, int, float] | None:
    """Return the level of an area between the darkest and the brightest level, a pixel (x, y) in it, and the
    share of the image in such areas; None if there is none."""
    present = np.flatnonzero(cv2.calcHist([levels], [0], None, [256], [0, 256]))
    if len(present) <= 2:
        return None
    drawn = not lossy and len(present) <= _FEW_LEVELS
    margin = 0 if drawn else _NEAR_THE_ENDS
    between = (levels > present[0] + margin) & (levels < present[-1] - margin)
    if not between.any():
        return None
    side = _AREA if drawn else _AREA_OF_SOFT * _enlarged_by(levels)
    areas = _squares(levels, between, side, lossy)
    if not areas.any():
        return None
    y, x = (int(at[0]) for at in np.nonzero(areas))
    return int(levels[y, x]), x, y, float(areas.mean())


def _squares(
    levels: UInt8[np.ndarray, "H W"], where: Bool[np.ndarray, "H W"], side: int, lossy: bool
) -> Bool[np.ndarray, "H W"]:
    """Return the pixels of `where` that lie in a square of `side` pixels, or one more to be odd, of one level
    (of nearly one, where a format changes levels a little) whose centre is in `where` too."""
    side += 1 - side % 2
    if min(levels.shape) < side:
        return np.zeros(levels.shape, bool)
    kernel, half = np.ones((side, side), np.uint8), side // 2
    spread = cv2.dilate(levels, kernel) - cv2.erode(levels, kernel)
    inside = np.zeros(levels.shape, bool)  # a square that the border cuts off is none
    inside[half : levels.shape[0] - half, half : levels.shape[1] - half] = True
    centres = (spread <= (_CHANGED if lossy else 0)) & where & inside
    return (cv2.dilate(centres.astype(np.uint8), kernel) > 0) & where


def _enlarged_by(levels: UInt8[np.ndarray, "H W"]) -> int:
    """Return how many pixels wide the narrowest step is that all rows, or all columns, share: 1, but in a
    mask that was enlarged without smoothing, whose soft edges have become staircases."""
    widths = []
    for axis in (0, 1):
        changes = np.flatnonzero((np.diff(levels.astype(np.int16), axis=axis) != 0).any(1 - axis))
        widths += [int(np.diff(changes).min())] if len(changes) > 1 else []
    return min(widths, default=1)


def _faint_regions(levels: UInt8[np.ndarray, "H W"]) -> int:
    """Return how many 8-connected regions above black have no pixel above MASK_THRESHOLD."""
    floor = min(int(levels.min()) + _NEAR_THE_ENDS, MASK_THRESHOLD)
    above = levels > floor
    bright = levels > MASK_THRESHOLD
    if np.array_equal(above, bright):
        return 0
    count, labels = cv2.connectedComponents(above.astype(np.uint8), connectivity=8)
    return count - 1 - len(np.setdiff1d(np.unique(labels[bright]), [0]))
