"""The masks of a category as a protocol compares them, kept in a bit for each pixel.

`read_mask` is the only place where a mask of the data set is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool
from PIL import Image

from mvead_jax.data.image_files import ImageFolder
from mvead_jax.data.images import image_size
from mvead_jax.data.masks import open_mask
from mvead_jax.data.mirroring import flipped_image
from mvead_jax.data.records import View
from mvead_jax.evaluation.protocols import OWN, EvaluationProtocol

_THREADS = 8
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


def read_mask(
    root: ImageFolder, mask: str, protocol: EvaluationProtocol, mirrored: bool = False
) -> Bool[np.ndarray, "H W"]:
    """The defect mask `root / mask`, flipped if `mirrored`: cropped and resized, then what lies above the
    threshold.

    Pillow's bilinear resize weighs all pixels that fall on a new one (antialiased).

    Raises:
      UserError: not a picture; names the path.
    """
    picture = flipped_image(open_mask(root / mask), mirrored)
    if protocol.size != OWN:
        width, height = picture.size
        x, y = width * (1 - protocol.crop) / 2, height * (1 - protocol.crop) / 2
        picture = picture.resize(
            (protocol.size, protocol.size), _RESAMPLING[protocol.mask_resize], (x, y, width - x, height - y)
        )
    return np.asarray(picture) > protocol.mask_threshold


class Truth:
    """What is known of the pixels of some views, in their order.

    A view with a mask is what its mask says. One without is normal if it is labelled so; if it is labelled
    defective, or not at all, nothing is known of its pixels.

    Attributes:
      known: bool [n]: the pixels are known.
      defective: bool [n]: some pixel is.
      without_mask: views labelled defective without a mask.
      vanished: masks of which no pixel is left as they are compared.
      sizes: (height, width) of each view as it is compared.
    """

    def __init__(self, root: ImageFolder, views: Sequence[View], protocol: EvaluationProtocol):
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda view: _packed(root, view, protocol), views))
        self.sizes = [size for size, _ in found]
        self._bits = [bits for _, bits in found]
        masked = np.array([view.mask is not None for view in views], bool)
        labels = [view.label for view in views]
        self.known = masked | np.array([label == 0 for label in labels], bool)
        self.defective = np.array([bits is not None for bits in self._bits], bool)
        self.without_mask = sum(label == 1 and not has for label, has in zip(labels, masked, strict=True))
        self.vanished = int((masked & ~self.defective).sum())

    def masks(self, places: Sequence[int]) -> Bool[np.ndarray, "b H W"]:
        """Of some views, which must have one size."""
        masks = np.zeros((len(places), *self.sizes[places[0]]), bool)
        for mask, place in zip(masks, places, strict=True):
            if (bits := self._bits[place]) is not None:
                mask[...] = np.unpackbits(bits, count=mask.size).reshape(mask.shape)
        return masks


def _packed(
    root: ImageFolder, view: View, protocol: EvaluationProtocol
) -> tuple[tuple[int, int], np.ndarray | None]:
    """The size, and the bits if any is set: a normal view takes no memory."""
    if view.mask is not None:
        mask = read_mask(root, view.mask, protocol, view.mirrored)
        return mask.shape, np.packbits(mask) if mask.any() else None
    if protocol.size != OWN:
        return (protocol.size, protocol.size), None
    width, height = image_size(root / view.image)
    return (height, width), None
