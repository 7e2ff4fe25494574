"""Images as cameras and programs store them (docs/own_data.md)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from input_cases import Case, of_check, own_data
from mask_inputs import square
from PIL import Image, TiffImagePlugin

from mvead_jax.data.images import open_image, upright

CASES: list[Case] = []


def add(table: str, what: str, says: str, run: Callable[[Path], str]) -> None:
    CASES.append(Case(table, what, says, run))


WIDTH, HEIGHT = 40, 30


def pixels() -> np.ndarray:
    """Return 8-bit colours [H,W,3] of a scene that looks different from every side."""
    y, x, c = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), np.arange(3), indexing="ij")
    return ((x * 5 + y * 3 + c * 40) % 256).astype(np.uint8)


def deep(bits: int, grey: bool = False) -> np.ndarray:
    """Return the scene with as many bits in 16."""
    values = np.round(pixels().astype(np.float64) * (2**bits - 1) / 255).astype(np.uint16)
    return values[..., 0] if grey else values


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def by_opencv(values: np.ndarray, suffix: str) -> bytes:
    """Return a file of 16 bits a channel."""
    return cv2.imencode(suffix, values[..., ::-1] if values.ndim == 3 else values)[1].tobytes()


def deep_data(values: Callable[[], np.ndarray], suffix: str, **fields):
    """Return a case: the check of a data set of images of 16 bits."""

    def run(folder: Path) -> str:
        root = own_data(folder)
        for number, path in enumerate(sorted(root.glob("t*/*/*/*.png"))):
            path.unlink()
            path.with_suffix(suffix).write_bytes(by_opencv(np.roll(values(), number, axis=0), suffix))
        for path in root.glob("ground_truth/*/*/*.png"):
            Image.fromarray(square()[:HEIGHT, :WIDTH]).save(path)
        return of_check(root, **fields)

    return run


def image(make: Callable[[], bytes], expected: np.ndarray | None = None):
    """Return a case: `open_image` of bytes; what is taken has the expected pixels."""

    def run(folder: Path) -> str:
        path = folder / "x.bin"
        path.write_bytes(make())
        found = np.asarray(open_image(path))
        wanted = pixels() if expected is None else expected
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= 40  # of what is stored with a loss
        return "taken"

    return run


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, extra: bytes, behind: bool = False) -> bytes:
    """Return a PNG with one more chunk, before or behind its pixels."""
    at = png.index(b"IEND" if behind else b"IDAT") - 4
    return png[:at] + extra + png[at:]


def on_its_side(form: str = "PNG", **options) -> bytes:
    """Return the scene as a camera on its side stores it."""
    return encoded(Image.fromarray(np.rot90(pixels())), form, **options)


def exif(number: int = 6) -> bytes:
    own = Image.Exif()
    own[0x0112] = number
    return own.tobytes()


def raw_profile(content: bytes, name: bytes = b"exif") -> bytes:
    """Return a profile as ImageMagick writes it."""
    lines = [content.hex()[at : at + 72] for at in range(0, 2 * len(content), 72)]
    text = f"\n{name.decode()}\n{len(content):8d}\n" + "\n".join(lines) + "\n"
    return b"Raw profile type " + name + b"\0" + text.encode()


def xmp_chunk(content: bytes = XMP, packed: bool = False) -> bytes:
    head = b"XML:com.adobe.xmp\0" + (b"\1" if packed else b"\0") + b"\0\0\0"
    return chunk(b"iTXt", head + (zlib.compress(content) if packed else content))


def tiff(*kinds: int, sizes: int = 2) -> bytes:
    """Return a TIFF of pages with these values of NewSubfileType, each smaller than the one before."""
    pages = []
    for number, kind in enumerate(kinds):
        own = TiffImagePlugin.ImageFileDirectory_v2()
        own[254] = kind
        own.tagtype[254] = 4
        page = Image.fromarray(pixels())
        page = page.resize((WIDTH // sizes**number, HEIGHT // sizes**number)) if sizes > 1 else page
        page.encoderinfo = {"tiffinfo": own}
        pages.append(page)
    first, *rest = pages
    info = first.encoderinfo["tiffinfo"]
    return encoded(first, "TIFF", save_all=True, append_images=rest, tiffinfo=info)


DEPTH, TURNED = "bit depth", "orientation and pages"
twelve = "noted: 5 training images store 16 bits a channel, their largest value is 4095: read as 12 bits"
add(DEPTH, "12 bits in a grey PNG of 16", twelve, deep_data(lambda: deep(12, grey=True), ".png"))
add(DEPTH, "12 bits in an RGB PNG of 16", twelve, deep_data(lambda: deep(12), ".png"))
add(DEPTH, "12 bits in a grey TIFF of 16", twelve, deep_data(lambda: deep(12, grey=True), ".tif"))
add(DEPTH, "12 bits in an RGB TIFF of 16", twelve, deep_data(lambda: deep(12), ".tiff"))
add(
    DEPTH,
    "10 bits in an RGB PNG of 16",
    twelve.replace("4095", "1023").replace("12", "10"),
    deep_data(lambda: deep(10), ".png"),
)
add(
    DEPTH,
    "16 bits in an RGB PNG",
    twelve.replace("4095", "65535").replace("12", "16"),
    deep_data(lambda: deep(16), ".png"),
)
add(
    DEPTH,
    "8 bits in an RGB PNG of 16",
    twelve.replace("4095", "255").replace("12", "8"),
    deep_data(lambda: deep(8), ".png"),
)
add(DEPTH, "12 bits, and `data.bit_depth=12`", "taken", deep_data(lambda: deep(12), ".png", bit_depth="12"))
add(
    DEPTH,
    "12 bits, and `data.bit_depth=10`",
    "refused: its largest value is 4095, more than the 1023 of 10 bits",
    deep_data(lambda: deep(12), ".png", bit_depth="10"),
)
add(
    DEPTH,
    "floating point",
    "refused: floating-point pixels; save it with 8 or 16 bits a channel",
    image(lambda: encoded(Image.fromarray(pixels()).convert("F"), "TIFF")),
)
add(
    DEPTH,
    "32 bits a channel",
    "refused: 32-bit pixels; save it with 8 or 16 bits a channel",
    image(lambda: encoded(Image.fromarray(pixels()[..., 0].astype(np.int32)), "TIFF")),
)

add(TURNED, "JPEG, EXIF", "taken", image(lambda: on_its_side("JPEG", exif=exif(), quality=95, subsampling=0)))
add(TURNED, "PNG, EXIF", "taken", image(lambda: on_its_side(exif=exif())))
add(
    TURNED,
    "PNG, EXIF behind the pixels",
    "taken",
    image(lambda: with_chunk(on_its_side(), chunk(b"eXIf", exif()[6:]), behind=True)),
)
add(TURNED, "PNG, XMP", "taken", image(lambda: with_chunk(on_its_side(), xmp_chunk())))
add(TURNED, "PNG, packed XMP", "taken", image(lambda: with_chunk(on_its_side(), xmp_chunk(packed=True))))
add(
    TURNED,
    "PNG, EXIF as ImageMagick's text",
    "taken",
    image(lambda: with_chunk(on_its_side(), chunk(b"tEXt", raw_profile(exif())))),
)
add(
    TURNED,
    "PNG, EXIF as ImageMagick's packed text",
    "taken",
    image(
        lambda: with_chunk(
            on_its_side(),
            chunk(
                b"zTXt",
                raw_profile(exif(), b"APP1").partition(b"\0")[0]
                + b"\0\0"
                + zlib.compress(raw_profile(exif(), b"APP1").partition(b"\0")[2]),
            ),
        )
    ),
)
add(TURNED, "WEBP, EXIF", "taken", image(lambda: on_its_side("WEBP", exif=exif(), lossless=True)))
add(TURNED, "WEBP, XMP", "taken", image(lambda: on_its_side("WEBP", xmp=XMP, lossless=True)))
add(TURNED, "JPEG, XMP", "taken", image(lambda: on_its_side("JPEG", xmp=XMP, quality=95, subsampling=0)))
add(TURNED, "a TIFF with its overviews", "taken", image(lambda: tiff(0, 1, 1)))
add(
    TURNED,
    "a TIFF of two images",
    "refused: several images in one file; save the one that is meant",
    image(lambda: tiff(0, 0)),
)
add(
    TURNED,
    "a TIFF whose first page is the overview",
    "refused: several images in one file; save the one that is meant",
    image(lambda: tiff(1, 0, sizes=1)),
)
several = {"save_all": True, "append_images": [Image.fromarray(pixels()[::-1])]}
add(
    TURNED,
    "an animated WEBP, as a file",
    "refused: several images in one file; save the one that is meant",
    image(lambda: encoded(Image.fromarray(pixels()), "WEBP", **several)),
)
for form in ("WEBP", "PNG", "GIF"):

    def opened(folder: Path, form=form) -> str:
        upright(Image.open(io.BytesIO(encoded(Image.fromarray(pixels()), form, **several))), "view top")
        return "taken"

    add(
        TURNED,
        f"an animated {form}, as a PIL image",
        "refused: view top: several images in one file; save the one that is meant",
        opened,
    )
