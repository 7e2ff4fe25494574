"""data/orientation.py: how a header says that a camera was held, by every format and carrier."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from image_inputs import (
    XMP,
    chunk,
    encoded,
    exif,
    on_its_side,
    pixels,
    raw_profile,
    tiff,
    with_chunk,
    xmp_chunk,
)
from PIL import Image, TiffImagePlugin

from mvead_jax.data.images import image_size, open_image, upright
from mvead_jax.data.orientation import orientation
from mvead_jax.runtime.errors import UserError


def packed_text(profile: bytes) -> bytes:
    keyword, _, text = profile.partition(b"\0")
    return keyword + b"\0\0" + zlib.compress(text)


def in_xmp(number: int, quote: str = '"') -> bytes:
    return XMP.replace(b'="6"', f"={quote}{number}{quote}".encode())


CARRIERS = {
    "eXIf": lambda n: chunk(b"eXIf", exif(n)[6:]),
    "raw text": lambda n: chunk(b"tEXt", raw_profile(exif(n))),
    "raw packed text": lambda n: chunk(b"zTXt", packed_text(raw_profile(exif(n)))),
    "raw APP1": lambda n: chunk(b"tEXt", raw_profile(exif(n), b"APP1")),
    "raw XMP": lambda n: chunk(b"tEXt", raw_profile(in_xmp(n), b"xmp")),
    "XMP": lambda n: xmp_chunk(in_xmp(n)),
    "packed XMP": lambda n: xmp_chunk(in_xmp(n), packed=True),
    "XMP in single quotes": lambda n: xmp_chunk(in_xmp(n, "'")),
    "XMP as an element": lambda n: xmp_chunk(f"<tiff:Orientation>{n}</tiff:Orientation>".encode()),
}


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_png_is_turned_by_every_carrier_as_by_exif(tmp_path, carrier, behind, number):
    reference = tmp_path / "reference.png"
    reference.write_bytes(encoded(Image.fromarray(pixels()), "PNG", exif=exif(number)))
    path = tmp_path / "x.png"
    plain = encoded(Image.fromarray(pixels()), "PNG")
    path.write_bytes(with_chunk(plain, CARRIERS[carrier](number), behind))
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(open_image(reference)))
    assert image_size(path) == image_size(reference) == open_image(path).size


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("number", range(1, 9))
def test_xmp_turns_the_other_formats_too(tmp_path, form, number):
    path = tmp_path / "x"
    if form == "TIFF":
        own = TiffImagePlugin.ImageFileDirectory_v2()
        own[700] = in_xmp(number)
        own.tagtype[700] = 7
        options = {"tiffinfo": own}
    else:
        options = {"xmp": in_xmp(number)} | ({"lossless": True} if form == "WEBP" else {})
    path.write_bytes(encoded(Image.fromarray(pixels()), form, **options))
    reference = tmp_path / "reference"
    options = {"lossless": True} if form == "WEBP" else {}
    reference.write_bytes(encoded(Image.fromarray(pixels()), form, exif=exif(number), **options))
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(open_image(reference)))
    assert image_size(path) == open_image(path).size


def test_exif_counts_before_xmp_and_a_raw_profile_before_it_too():
    plain = encoded(Image.fromarray(pixels()), "PNG")
    for first in ("eXIf", "raw text"):
        both = with_chunk(with_chunk(plain, CARRIERS[first](3)), CARRIERS["XMP"](6))
        assert orientation(Image.open(io.BytesIO(both))) == 3


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 9\nnot hexadecimal\n"),
        chunk(b"tEXt", b"Raw profile type exif\0"),
        chunk(b"zTXt", b"Raw profile type exif\0\0not packed"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not packed"),
        chunk(b"iTXt", b"XML:com.adobe.xmp"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.replace(b'"6"', b'"66"')),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.replace(b'"6"', b'"0"')),
        chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        chunk(b"eXIf", b""),
        struct.pack(">I", 2**31) + b"tEXt",
    ],
    ids=lambda content: repr(content[4:60]),
)
def test_a_carrier_that_makes_no_sense_leaves_an_image_as_it_is(damaged):
    content = with_chunk(encoded(Image.fromarray(pixels()), "PNG"), damaged, behind=True)
    assert orientation(Image.open(io.BytesIO(content))) == 1


def test_a_text_that_unpacks_without_end_is_not_unpacked_to_its_end():
    bomb = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(100_000_000), 9))
    content = with_chunk(encoded(Image.fromarray(pixels()), "PNG"), bomb, behind=True)
    tracemalloc.start()
    assert orientation(Image.open(io.BytesIO(content))) == 1
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_an_image_that_pillow_has_decoded_already_is_turned_too():
    image = Image.open(io.BytesIO(with_chunk(on_its_side(), CARRIERS["raw text"](6), behind=True)))
    image.load()
    np.testing.assert_array_equal(np.asarray(upright(image, "view top")), pixels())


# Pages.


@pytest.mark.parametrize("kinds", [(0, 0), (0, 2), (1, 0), (1, 1), (0, 1, 0)], ids=str)
def test_pages_that_are_no_overviews_of_the_first_are_not_guessed_from(tmp_path, kinds):
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(*kinds))
    for read in (open_image, image_size):
        with pytest.raises(UserError, match=r"x.tif: several images in one file"):
            read(path)


@pytest.mark.parametrize("kinds", [(0, 1), (0, 1, 1, 1)], ids=str)
def test_the_image_of_a_tiff_with_overviews_is_its_first_page(tmp_path, kinds):
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(*kinds))
    np.testing.assert_array_equal(np.asarray(open_image(path)), pixels())
    assert image_size(path) == pixels().shape[1::-1]
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(upright(image, "view top")), pixels())
