"""Image files and images of other programs -> upright images of 8 bits a channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvead_jax.data.deep_images import deep_values, stored_bits, to_8_bits
from mvead_jax.data.image_files import ImageFile
from mvead_jax.data.orientation import TURNS, orientation
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_MOST_PIXELS = 80_000_000  # below Pillow's own warning
_MOST_PAGES = 32  # of a TIFF: an image and its overviews, each half as large as the one before, are fewer
_NO_LEVELS = {"F": "floating-point", "I": "32-bit"}  # modes that do not say which value is white
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF's tag, and its bit of a page that is a smaller copy of the first


def open_image(file: ImageFile, bit_depth: int = 8) -> Image.Image:
    """Return the image as 8-bit RGB, upright.

    Args:
      bit_depth: how many bits hold the values of a file that stores 16 a channel (bit_depth.py); a file of
        8 bits is the same whatever it is.

    Raises:
      UserError: not an image, damaged, too large, or with values beyond the bit depth; names the path.
    """
    with opened(file) as image:
        return upright(image, str(file), bit_depth)


def upright(image: Image.Image, name: str, bit_depth: int = 8) -> Image.Image:
    """Return an opened image as 8-bit RGB, turned as its header says.

    Args and raises as `open_image`; name: of the image in messages.
    """
    image = decode(image, name, bit_depth)
    try:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # or Pillow warns; what shows through is dropped either way
        return image.convert("RGB")
    except Exception as error:  # no way from these colours, or no memory
        raise UserError(f"{name}: {_reason(error)}; save the image as RGB") from None


def decode(image: Image.Image, name: str, bit_depth: int = 8) -> Image.Image:
    """Return an opened image with the colours and the transparency that it stores, 8 bits a channel, turned
    as its header says. Args and raises as `upright`."""
    if image.mode in _NO_LEVELS:
        raise UserError(f"{name}: {_NO_LEVELS[image.mode]} pixels; save it with 8 or 16 bits a channel")
    if why := _holds_more(image):
        raise UserError(f"{name}: {why}")
    turn = None if image.format == "TIFF" else TURNS.get(orientation(image))  # Pillow turns TIFFs itself
    try:
        if stored_bits(image) > 8:
            image = _of_16_bits(image, name, bit_depth)
        else:
            image.load()
        return image if turn is None else image.transpose(turn)
    except UserError:
        raise
    except MemoryError:
        raise UserError(
            f"{name}: {image.width} x {image.height} pixels are too many for the memory"
        ) from None
    except Exception as error:  # Pillow's parsers fail in many ways
        raise UserError(f"{name}: damaged {image.format} image ({_reason(error)}); copy it again") from None


def image_size(file: ImageFile) -> tuple[int, int]:
    """Return (width, height) of the upright image from its header alone. Raises as `open_image`."""
    with opened(file) as image:
        width, height = image.size
        return (height, width) if orientation(image) >= 5 else (width, height)


def bits_in_file(file: ImageFile) -> int:
    """Return how many bits a channel takes in a file, 8 or 16, from its header alone. Raises as
    `open_image`."""
    with opened(file) as image:
        return stored_bits(image)


def largest_value(file: ImageFile) -> int:
    """Return the largest value of a file that stores 16 bits a channel. Raises as `open_image`."""
    with opened(file) as image:
        try:
            return int(deep_values(image, str(file))[0].max())
        except UserError:
            raise
        except Exception as error:  # as in `decode`, which says it to who needs the image
            raise UserError(
                f"{file}: damaged {image.format} image ({_reason(error)}); copy it again"
            ) from None


def image_of(given: Any, name: str, bit_depth: int = 8) -> Image.Image:
    """Return what a program hands over as upright 8-bit RGB.

    Args:
      given: a path, anything else that opens (image_files.py), a PIL image, or an array [H,W,3] in the order
        red, green, blue, of uint8, or of uint16 whose values have `bit_depth` bits.
      name: of the image in messages.

    Raises:
      UserError: as `open_image`; or it is none of these.
    """
    if isinstance(given, str):
        return open_image(expanded(given), bit_depth)
    if isinstance(given, Image.Image):
        return upright(given, name, bit_depth)
    if hasattr(given, "open"):
        return open_image(given, bit_depth)
    if not isinstance(given, np.ndarray):
        raise UserError(f"{name}: a {type(given).__name__}; give a path, a PIL image or a uint8 array")
    if given.dtype not in (np.uint8, np.uint16) or given.ndim != 3 or given.shape[2] != 3 or not given.size:
        raise UserError(
            f"{name}: an array of {given.dtype} {list(given.shape)}; give uint8 [H,W,3], or uint16 "
            "of a camera with more than 8 bits, in the order red, green, blue"
        )
    return Image.fromarray(given if given.dtype == np.uint8 else to_8_bits(given, bit_depth, name))


def opened(file: ImageFile) -> Image.Image:
    """Return an image whose header is read and whose pixels are not; to be closed. Raises as `open_image`."""
    try:
        # Pillow closes the file of a path itself.
        image = Image.open(file if isinstance(file, Path) else file.open("rb"), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise UserError(f"{file}: not an image in {', '.join(_FORMATS)}; put the image there") from None
    except UserError:  # of an image that is stored or made, with its own words
        raise
    except Exception as error:  # Pillow's parsers fail in many ways
        raise UserError(f"{file}: {_reason(error)}") from None
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        raise UserError(f"{file}: {image.width} x {image.height} pixels; at most {_MOST_PIXELS} are read")
    if why := _holds_more(image):
        image.close()
        raise UserError(f"{file}: {why}")
    return image


def _of_16_bits(image: Image.Image, name: str, bit_depth: int) -> Image.Image:
    values, alpha = deep_values(image, name)
    found = Image.fromarray(to_8_bits(values, bit_depth, name))
    if alpha is not None:
        found.putalpha(Image.fromarray(alpha))
    return found


def _holds_more(image: Image.Image) -> str | None:
    """Return why an animation or a file of pages can't be used, or None.

    Of a JPEG with others behind it (MPO: a preview, a second eye) the first is the image, by the standard and
    in every viewer. The further pages of a TIFF may be smaller copies of its first.
    """
    try:
        several = image.format != "MPO" and getattr(image, "is_animated", False)
        if several and image.format == "TIFF" and image.tell() == 0:
            several = not _has_overviews_only(image)
    except Exception:  # Pillow's parsers fail in many ways
        return "a damaged list of pages; save the image again"
    return "several images in one file; save the one that is meant" if several else None


def _has_overviews_only(tiff: Image.Image) -> bool:
    """Return whether all pages but the first say that they are smaller copies; the first is at hand after."""
    if int(tiff.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED:
        return False
    for page in range(1, _MOST_PAGES):  # not n_frames, which walks through all pages, and may meet millions
        try:
            tiff.seek(page)
        except EOFError:
            tiff.seek(0)
            return True
        if not int(tiff.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED:
            return False
    return False


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
