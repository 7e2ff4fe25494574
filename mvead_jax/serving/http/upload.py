"""The images of a part as an HTTP client sends them: a multipart body, read within limits into the memory.

A file's field names its view; the name that the client gives its file is not looked at. No file is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from mvead_jax.data.images import image_size
from mvead_jax.runtime.errors import UserError, printable
from mvead_jax.serving.watch.watcher import Snapshot

_TEXTS = ("category", "sample")  # the fields that are no images
_LONGEST_TEXT = 200  # bytes of one
_DRAINED = 4  # times the limit is read and dropped, so that the client gets its answer


@dataclass(frozen=True)
class Limits:
    """What one client may ask for. most_bytes: of the body of a request. most_pixels: of an image. waiting:
    requests that may be read or scored at a time. seconds: in which a body must have come."""

    most_bytes: int = 64 * 2**20
    most_pixels: int = 40_000_000
    waiting: int = 8
    seconds: float = 60.0


class Refused(Exception):
    """A request that gets no scores. status: of HTTP; the text is the answer's error."""

    def __init__(self, status: int, text: str):
        super().__init__(printable(text))
        self.status = status


@dataclass(frozen=True)
class Upload:
    """The images of one part by view, its category and its name; None where the client gives none."""

    images: Mapping[str, Snapshot]
    category: str | None = None
    sample: str | None = None


async def read_upload(request: Any, most_files: int, limits: Limits) -> Upload:
    """Return what a POST request has brought.

    Args:
      request: of Starlette. most_files: images that a part can have.

    Raises:
      Refused: more than a limit, no multipart body, or a field that is no image of a view.
    """
    from starlette.formparsers import MultiPartException, MultiPartParser

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, "send multipart/form-data, with a file for each view in the field of its name")
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _body(request, limits.most_bytes)
    except TimeoutError:
        raise Refused(408, f"the images did not come within {limits.seconds:g} seconds; send again") from None

    async def once() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(
        request.headers,
        once(),
        max_files=most_files,
        max_fields=len(_TEXTS),
        max_part_size=_LONGEST_TEXT,
    )
    parser.spool_max_size = limits.most_bytes + 1  # stays in the memory
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the multipart body can't be read: {error.message}") from None
    try:
        images, texts = await _fields(form)
    finally:
        await form.close()
    for image in images.values():
        _check(image, limits.most_pixels)
    return Upload(images, **texts)


async def _fields(form: Any) -> tuple[dict[str, Snapshot], dict[str, str]]:
    """Return the images and the texts of a form by the names of their fields. Raises Refused."""
    images, texts = {}, {}
    for name, value in form.multi_items():
        if name in images or name in texts:
            raise Refused(400, f"field {name}: is there twice; send one file for each view")
        if not isinstance(value, str):
            images[name] = Snapshot(f"view {name}", await value.read())
        elif name in _TEXTS:
            texts[name] = value
        else:
            raise Refused(400, f"field {name}: a text; send the image of a view as a file, with a filename")
    return images, texts


def _check(image: Snapshot, most_pixels: int) -> None:
    """Raise Refused unless the header is that of an image within the limit."""
    if not image.content:
        raise Refused(422, f"{image}: an empty file; leave the field out where there is no image")
    try:
        width, height = image_size(image)
    except UserError as error:
        raise Refused(422, str(error)) from None
    if width * height > most_pixels:
        raise Refused(413, f"{image}: {width} x {height} pixels; at most {most_pixels} are taken")


async def _body(request: Any, most: int) -> bytes:
    """Return the body of a request. What is too much is read and dropped for a while, and then refused."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _DRAINED * most:
            break
        if size > most:
            chunks.clear()
        else:
            chunks.append(chunk)
    if size > most:
        raise Refused(413, f"the images of the part have more than {most} bytes in all; send smaller files")
    return b"".join(chunks)
