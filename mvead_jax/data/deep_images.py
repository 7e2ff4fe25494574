"""Images that store more than 8 bits a channel, as industrial cameras write them: PNG and TIFF of 16 bits.

A camera of 10 or 12 bits fills the lower part of 16 (0 to 1023, 0 to 4095), so a file does not tell which of
its values is white: `bit_depth` does (bit_depth.py). The backbones see 8 bits a channel, as they were trained
with, so 0 to 2^bit_depth - 1 become 0 to 255.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from mvead_jax.runtime.errors import UserError

BIT_DEPTHS = (8, 10, 12, 14, 16)

_MODES_OF_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags, and a value of the second
_HEADERS = 2**26  # bytes of a file beside its pixels, at most


def stored_bits(image: Image.Image) -> int:
    """Return how many bits a channel of an opened image takes in its file, 8 or less being 8."""
    if image.mode in _MODES_OF_GREY or ";16" in _raw_mode(image):
        return 16
    of_tiff = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
    return 16 if max(np.atleast_1d(of_tiff)) > 8 and image.mode != "1" else 8


def deep_values(
    image: Image.Image, name: str
) -> tuple[UInt16[np.ndarray, ...], UInt8[np.ndarray, "H W"] | None]:
    """Return the values [H,W] or [H,W,3] of an opened image of 16 bits, turned as Pillow decodes it, and the
    upper bits of its alpha channel if it has one.

    Pillow decodes it in any case: it finds what is damaged. It keeps the upper 8 bits of colours only, so
    OpenCV decodes these again, and the two must agree.

    Args:
      name: of the image in messages.

    Raises:
      UserError: a kind of image that can't be read with all its bits.
      Exception: Pillow's, of a damaged file.
    """
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UserError(f"{name}: a TIFF in which 0 is white; save it with 0 as black")
    if image.mode in _MODES_OF_GREY:
        image.load()
        return np.asarray(image).astype(np.uint16), None
    if image.mode not in ("RGB", "RGBA"):
        raise UserError(f"{name}: {image.mode} with 16 bits a channel; save it as grey or RGB")
    if not image.tile or getattr(image, "fp", None) is None:
        raise UserError(f"{name}: Pillow has kept 8 of its 16 bits a channel; give the path of the file")
    content = _encoded(image)
    image.load()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of tags that Pillow reads
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    upper = np.asarray(image)
    values = _colours(found, upper.shape[2])
    if values is None or values.shape != upper.shape or not np.array_equal(values >> 8, upper):
        raise UserError(
            f"{name}: damaged, or a kind of 16-bit image that is not read; copy it again, or save it as RGB"
        )
    return values[..., :3], upper[..., 3] if image.mode == "RGBA" else None


def to_8_bits(values: UInt16[np.ndarray, ...], bit_depth: int, name: str) -> UInt8[np.ndarray, ...]:
    """Return 0 to 2^bit_depth - 1 as 0 to 255, rounded.

    Args:
      name: of the image in messages.

    Raises:
      UserError: a value beyond that range.
    """
    most, largest = 2**bit_depth - 1, int(values.max(initial=0))
    if largest > most:
        needed = bits_of(largest)
        raise UserError(
            f"{name}: its largest value is {largest}, more than the {most} of {bit_depth} bits; train and "
            f"score with data.bit_depth={needed} (or auto, which takes what the training images need)"
        )
    return _levels(bit_depth)[values]


def is_decoded(given: object) -> bool:
    """Return whether a program hands over pixels of 8 bits, and not a file that still has all its bits."""
    if isinstance(given, np.ndarray):
        return given.dtype == np.uint8
    return isinstance(given, Image.Image) and not getattr(given, "tile", None)


def lost_bits(image: Image.Image, bit_depth: int) -> str | None:
    """Return a warning about a decoded image of 8 bits that looks like the upper 8 of 16, None if it does not.

    Pillow keeps only these of colours, so 12 bits in 16 become levels 0 to 15, and nothing in the decoded image
    tells. With all 16 bits in use there is no difference to speak of.

    Args:
      image: RGB. bit_depth: of the training.
    """
    most = (2**bit_depth - 1) >> 8
    if not 8 < bit_depth < 16 or max(high for _, high in image.getextrema()) > most:
        return None
    return (
        f"no value is above {most} of 255, as where only the upper 8 of 16 bits were kept; training had {bit_depth} "
        "bits: give the path, or an array of uint16"
    )


def bits_of(largest: int) -> int:
    """Return the fewest bits, of those that cameras have, that hold a value."""
    return next(bits for bits in BIT_DEPTHS if largest < 2**bits)


@functools.cache
def _levels(bit_depth: int) -> UInt8[np.ndarray, " n"]:
    most = 2**bit_depth - 1
    return ((np.arange(most + 1) * 255 + most // 2) // most).astype(np.uint8)


def _raw_mode(image: Image.Image) -> str:
    """Return how Pillow will unpack the pixels; empty of what is decoded or was never a file."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0].args
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _encoded(image: Image.Image) -> bytes:
    """Return the bytes of the file, no more than its pixels can take; the place in it is the same after."""
    before = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read(8 * image.width * image.height + _HEADERS)
    image.fp.seek(before)
    return content


def _colours(found: np.ndarray | None, channels: int) -> np.ndarray | None:
    """Return what OpenCV decoded with red first and as many channels as Pillow finds; of RGB with one
    transparent colour OpenCV makes four."""
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[2] < channels:
        return None
    return np.ascontiguousarray(found[..., [2, 1, 0, 3][:channels]])
