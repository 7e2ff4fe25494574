"""Pseudo-anomalies: a normal image -> one with something wrong, and where that is.

Pure functions of an image and a generator; outside of the mask no value changes. Images are normalised by ImageNet's
statistics, as the readers give them.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from mvead_jax.data.augmentation.perlin import perlin_mask
from mvead_jax.data.augmentation.randomness import generator_of
from mvead_jax.data.augmentation.textures import Source, procedural
from mvead_jax.data.loading import IMAGENET_MEAN, IMAGENET_STD

Changed = tuple[Float32[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]
Change = Callable[[Float32[np.ndarray, "S S 3"], np.random.Generator], Changed]


def paste_texture(
    image: Float32[np.ndarray, "S S 3"],
    generator: np.random.Generator,
    source: Source = procedural,
    *,
    most_of_image: float = 0.8,
) -> Changed:
    """Return the image with a texture laid over a Perlin mask, and the mask, which may be empty (DRAEM, DeSTSeg).

    Args:
      most_of_image: the share of the image that shines through is drawn from 0 to this.
    """
    mask = perlin_mask(len(image), generator)
    texture = source(len(image), generator)
    texture = (texture - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    share = np.float32(generator.uniform(0, most_of_image))
    return np.where(mask[..., None], share * image + (1 - share) * texture, image).astype(np.float32), mask


def cut_paste(
    image: Float32[np.ndarray, "S S 3"],
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> Changed:
    """Return the image with a rectangle of its own pasted elsewhere, and that place (Li et al. 2021, CutPaste).

    The colours of the piece change a little.

    Args:
      area: of the rectangle, as shares of the image. aspect: of its height to its width, drawn by its logarithm.
    """
    size = len(image)
    pixels, ratio = generator.uniform(*area) * size**2, np.exp(generator.uniform(*np.log(aspect)))
    height, width = (
        int(np.clip(round(x), 1, size)) for x in (np.sqrt(pixels * ratio), np.sqrt(pixels / ratio))
    )
    piece = _piece(image, height, width, generator)
    return _pasted(image, piece, np.ones((height, width), bool), generator)


def cut_paste_scar(
    image: Float32[np.ndarray, "S S 3"],
    generator: np.random.Generator,
    *,
    width: tuple[float, float] = (2 / 256, 16 / 256),
    length: tuple[float, float] = (10 / 256, 25 / 256),
) -> Changed:
    """Return the image with a thin, turned rectangle of its own pasted elsewhere, and that place (CutPaste-Scar).

    Args:
      width, length: as shares of the image's side.
    """
    size = len(image)
    down, right = (max(1, round(generator.uniform(*sides) * size)) for sides in (length, width))
    piece = _piece(image, down, right, generator)
    angle = float(generator.uniform(-45, 45))
    side = int(np.ceil(np.hypot(down, right)))
    turn = cv2.getRotationMatrix2D(((right - 1) / 2, (down - 1) / 2), angle, 1.0)
    turn[:, 2] += (side - right) / 2, (side - down) / 2
    turned = cv2.warpAffine(
        piece, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    shape = cv2.warpAffine(np.ones((down, right), np.uint8), turn, (side, side), flags=cv2.INTER_NEAREST) > 0
    cut = slice(0, min(side, size))
    return _pasted(image, turned[cut, cut], shape[cut, cut], generator)


def change_sample(
    images: Float32[np.ndarray, "V S S 3"],
    present: Bool[np.ndarray, " V"],
    change: Change,
    *,
    seed: int,
    epoch: int,
    sample: str,
) -> tuple[Float32[np.ndarray, "V S S 3"], Bool[np.ndarray, "V S S"]]:
    """Return all views of a sample changed, and where; a missing view stays as it is. For a worker of Grain.

    Args:
      sample: its id: with seed, epoch and the number of the view it decides everything random.
    """
    changed, masks = images.copy(), np.zeros(images.shape[:3], bool)
    for view in np.flatnonzero(present):
        changed[view], masks[view] = change(images[view], generator_of(seed, epoch, sample, int(view)))
    return changed, masks


def _piece(image: np.ndarray, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """A rectangle from anywhere, its colours stretched by up to a tenth and moved by up to a tenth of a deviation."""
    top, left = (int(generator.integers(len(image) - side + 1)) for side in (height, width))
    piece = image[top : top + height, left : left + width]
    stretch, move = generator.uniform(0.9, 1.1, 3), generator.uniform(-0.1, 0.1, 3)
    return (piece * stretch + move).astype(np.float32)


def _pasted(
    image: np.ndarray, piece: np.ndarray, shape: np.ndarray, generator: np.random.Generator
) -> Changed:
    """The image with the part of a piece that its shape tells, anywhere."""
    height, width = shape.shape
    top, left = (int(generator.integers(len(image) - side + 1)) for side in (height, width))
    place = slice(top, top + height), slice(left, left + width)
    changed, mask = image.copy(), np.zeros(image.shape[:2], bool)
    mask[place] = shape
    changed[place] = np.where(shape[..., None], piece, image[place])
    return changed, mask
