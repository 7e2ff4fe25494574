"""How the camera was held, as the header of an image says it: EXIF's numbers 1 (upright) to 8.

EXIF may stand in the header as such, or, in a PNG, as the hexadecimal text that ImageMagick writes. Programs
that keep no EXIF write the number into XMP. EXIF counts before XMP, as in Pillow and in browsers.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from PIL import Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TAG = 0x0112
_IN_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")
_XMP_KEYWORD, _XMP_HEADER = b"XML:com.adobe.xmp", b"http://ns.adobe.com/xap/1.0/\0"
_PROFILE = b"Raw profile type "
_SIGNATURE = 8  # bytes before the first chunk of a PNG
_LARGEST = 2**22  # bytes of a chunk, and of the text in it
_MOST_CHUNKS = 100_000


def orientation(image: Image.Image) -> int:
    """Return EXIF's number of an opened image; 1 where its header does not say, or makes no sense.

    Pillow turns a TIFF when it decodes it, and knows its size after that from its tag, not from XMP: the
    number is that of XMP where there is no tag.
    """
    try:
        if image.format == "TIFF":
            own = image.tag_v2
            value = 1 if _TAG in own else _in_xmp(_bytes(image.info.get("xmp", b"")))
        elif image.format == "PNG" and getattr(image, "fp", None) is not None:
            value = _of_png(image.fp)  # Pillow would decode all of it to look behind the pixels
        else:
            value = image.getexif().get(_TAG) or _in_xmp(_bytes(image.info.get("xmp", b"")))
    except Exception:  # a damaged tag must not make a good image unreadable, and fails in many ways
        return 1
    return value if value in TURNS else 1


def _of_png(file: BinaryIO) -> int | None:
    """Return the orientation that any chunk of a PNG tells, before or behind its pixels."""
    found: dict[str, int | None] = {}
    for kind, content in _chunks(file):
        with suppress(Exception):
            if kind == b"eXIf":
                found.setdefault("exif", _in_exif(content))
            else:
                keyword, text = _text(kind, content)
                if keyword == _XMP_KEYWORD:
                    found.setdefault("xmp", _in_xmp(text))
                elif keyword.startswith(_PROFILE):
                    profile = _hexadecimal(text)
                    if profile.startswith(_XMP_HEADER) or keyword == _PROFILE + b"xmp":
                        found.setdefault("xmp", _in_xmp(profile))
                    else:
                        found.setdefault("raw", _in_exif(profile))
    return found.get("exif") or found.get("raw") or found.get("xmp")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks of a PNG that may tell its orientation; the place in the file is
    the same afterwards."""
    before = file.tell()
    try:
        at = _SIGNATURE
        for _ in range(_MOST_CHUNKS):
            file.seek(at)
            header = file.read(8)
            if len(header) < 8:
                return
            length, kind = struct.unpack(">I4s", header)
            if kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") and length <= _LARGEST:
                yield kind, file.read(length)
            at += 12 + length
    finally:
        file.seek(before)


def _text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Return keyword and text of a text chunk."""
    keyword, _, rest = content.partition(b"\0")
    if kind == b"tEXt":
        return keyword, rest
    if kind == b"zTXt":
        return keyword, _inflated(rest[1:])
    packed, text = rest[:1], rest[2:].split(b"\0", 2)[2]  # behind its language and translated keyword
    return keyword, _inflated(text) if packed == b"\1" else text


def _inflated(content: bytes) -> bytes:
    return zlib.decompressobj().decompress(content, _LARGEST)


def _hexadecimal(text: bytes) -> bytes:
    """Return the bytes of a profile as ImageMagick writes it: its name, its length, lines of hexadecimal."""
    _, _, *lines = text.strip().split(b"\n")
    return bytes.fromhex(b"".join(lines).decode("ascii"))


def _in_exif(content: bytes) -> int | None:
    exif = Image.Exif()
    exif.load(content)
    return exif.get(_TAG)


def _in_xmp(content: bytes) -> int | None:
    found = _IN_XMP.search(content)
    return int(found[1]) if found else None


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
