"""The masks of a category as a protocol compares them, kept in a bit for each pixel.

A mask of the data set is opened nowhere else in the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from mvead_jax.data.image_files import ImageFolder
from mvead_jax.data.images import image_size
from mvead_jax.data.masks import MASK_THRESHOLD, open_mask
from mvead_jax.data.mirroring import flipped_image
from mvead_jax.data.records import View
from mvead_jax.evaluation.protocols import OWN, EvaluationProtocol

_THREADS = 8
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


class _Mask(NamedTuple):
    """A view as it is compared: its (height, width), its bits if any is set, so that a normal view takes no
    memory; and whether its mask marks something before it is resized."""

    size: tuple[int, int]
    bits: np.ndarray | None
    marks: bool


def read_mask(
    root: ImageFolder, mask: str, protocol: EvaluationProtocol, mirrored: bool = False
) -> Bool[np.ndarray, "H W"]:
    """Return the defect mask `root / mask`, flipped if `mirrored`: cropped and resized, then what lies above the
    threshold.

    Pillow's bilinear resize weighs all pixels that fall on a new one (antialiased).

    Raises:
      UserError: not an image; names the path.
    """
    return _as_compared(flipped_image(open_mask(root / mask), mirrored), protocol)


def _as_compared(picture: Image.Image, protocol: EvaluationProtocol) -> Bool[np.ndarray, "H W"]:
    if protocol.size != OWN:
        width, height = picture.size
        x, y = width * (1 - protocol.crop) / 2, height * (1 - protocol.crop) / 2
        picture = picture.resize(
            (protocol.size, protocol.size), _RESAMPLING[protocol.mask_resize], (x, y, width - x, height - y)
        )
    return np.asarray(picture) > protocol.mask_threshold


class Truth:
    """What is known of the pixels of some views, in their order.

    A view with a mask is what its mask says. One without is normal if it is labelled so. If it is labelled
    defective, it is what the protocol says (`unmasked`); if it is not labelled at all, nothing is known of its
    pixels.

    Attributes:
      known: bool [n]: the pixels are known.
      defective: bool [n]: some pixel is.
      without_mask: views labelled defective without a mask.
      marked: masks that mark a defect: something in them is above MASK_THRESHOLD, or their view is labelled
        defective. vanished: those of them of which no pixel is left as they are compared.
      sizes: (height, width) of each view as it is compared.
    """

    def __init__(self, root: ImageFolder, views: Sequence[View], protocol: EvaluationProtocol):
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda view: _packed(root, view, protocol), views))
        self.sizes = [one.size for one in found]
        self._bits = [one.bits for one in found]
        masked = np.array([view.mask is not None for view in views], bool)
        labels = [view.label for view in views]
        said = (0, 1) if protocol.unmasked == "normal" else (0,)
        self.known = masked | np.array([label in said for label in labels], bool)
        self.defective = np.array([bits is not None for bits in self._bits], bool)
        self.without_mask = sum(label == 1 and not has for label, has in zip(labels, masked, strict=True))
        marks = np.array([one.marks for one in found], bool) | np.array(
            [label == 1 for label in labels], bool
        )
        self.marked = int((masked & marks).sum())
        self.vanished = int((masked & marks & ~self.defective).sum())

    def masks(self, places: Sequence[int]) -> Bool[np.ndarray, "b H W"]:
        """Of some views, which must have one size."""
        masks = np.zeros((len(places), *self.sizes[places[0]]), bool)
        for mask, place in zip(masks, places, strict=True):
            if (bits := self._bits[place]) is not None:
                mask[...] = np.unpackbits(bits, count=mask.size).reshape(mask.shape)
        return masks


def _packed(root: ImageFolder, view: View, protocol: EvaluationProtocol) -> _Mask:
    if view.mask is not None:
        picture = flipped_image(open_mask(root / view.mask), view.mirrored)
        mask, marks = _as_compared(picture, protocol), picture.getextrema()[1] > MASK_THRESHOLD
        return _Mask(mask.shape, np.packbits(mask) if mask.any() else None, marks)
    if protocol.size != OWN:
        return _Mask((protocol.size, protocol.size), None, False)
    width, height = image_size(root / view.image)
    return _Mask((height, width), None, False)
