"""The web application: POST /parts, and what tells of the parts that came last.

POST /parts                       the images of a part (upload.py) -> its scores and decision
GET  /parts/<id>/<view>.png       the image under the heat of its scores, of the last parts
GET  / /health /metrics           the last parts as a page, what is loaded, numbers for Prometheus
"""
# No annotations from __future__: FastAPI reads those of the handlers, whose classes are known in `application` only.

import asyncio
import io
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from mvead_jax.runtime.errors import UserError, printable
from mvead_jax.runtime.templates import rendered
from mvead_jax.serving.http.numbers import Numbers
from mvead_jax.serving.http.upload import Limits, Refused, Upload, read_upload
from mvead_jax.serving.inspection import Inspection
from mvead_jax.serving.inspector import Inspector

log = logging.getLogger(__name__)

_POLICY = {"Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"}
_PICTURE = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True)
class Part:
    """A part that was scored. sample: the client's name of it. time: when it was scored."""

    id: str
    sample: str | None
    time: str
    found: Inspection

    @property
    def overlays(self) -> dict[str, str]:
        """The address of the overlay of each view."""
        return {view: f"/parts/{self.id}/{quote(view, safe='')}.png" for view in self.found.sizes}

    @property
    def outcome(self) -> str:
        """Return pass, fail or undecided; scored where the run decides nothing."""
        return "scored" if self.found.decision is None else self.found.decision.decision

    def as_json(self) -> dict[str, Any]:
        own = {"id": self.id, "time": self.time, "sample": self.sample}
        return {**own, **self.found.as_json(), "overlays": self.overlays}


class Parts:
    """The parts that are scored, one after the other, and the last of them."""

    def __init__(self, inspector: Inspector, limits: Limits, keep: int):
        """
        Args:
          keep: how many parts stay to be looked at, with their images of at most 640 pixels.
        """
        self.inspector, self.limits, self._keep = inspector, limits, keep
        self.numbers, self.last = Numbers(), {}
        self._worker = ThreadPoolExecutor(1, "inspector")  # the network keeps all cores busy with one part
        self._waiting = 0

    async def add(self, request: Any) -> Part:
        """Return the part that a request brings. Raises Refused."""
        most = max(len(self.inspector.views(category)) for category in self.inspector.categories)
        begin = time.perf_counter()
        with self._slot():
            upload = await read_upload(request, most, self.limits)
            try:
                found = await self.worked(lambda: self.inspector.inspect(upload.images, upload.category))
            except UserError as error:
                raise Refused(self._status(error, upload), str(error)) from None
        self.numbers.seconds.observe(time.perf_counter() - begin)
        return self._remember(upload, found)

    def _status(self, error: UserError, upload: Upload) -> int:
        """Return 422 where an image is to blame, 400 where it is what was asked for."""
        known = {view for category in self.inspector.categories for view in self.inspector.views(category)}
        images = tuple(f"{image}: " for view, image in upload.images.items() if view in known)
        return 422 if str(error).startswith(images) else 400

    async def worked(self, work: Callable[[], Any]) -> Any:
        """Return what the worker's thread makes of `work`."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _remember(self, upload: Upload, found: Inspection) -> Part:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        part = Part(uuid.uuid4().hex[:16], upload.sample, now, found)
        self.last[part.id] = part
        while len(self.last) > self._keep:
            del self.last[next(iter(self.last))]
        self.numbers.parts.labels(found.category, part.outcome).inc()
        self.numbers.last.labels(found.category).set(found.score)
        log.info("%s %s: %s", found.category, printable(upload.sample or part.id), found.text)
        return part

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Keep one of the places of requests while the block runs; raise Refused where none is free."""
        if self._waiting >= self.limits.waiting:
            raise Refused(503, f"{self._waiting} requests are at work or wait; send again in a moment")
        self._move(1)
        try:
            yield
        finally:
            self._move(-1)

    def _move(self, step: int) -> None:
        self._waiting += step
        self.numbers.waiting.set(self._waiting)

    def close(self) -> None:
        self._worker.shutdown()


def application(inspector: Inspector, limits: Limits | None = None, keep: int = 20) -> Any:
    """Return the FastAPI application that scores by an inspector.

    Args:
      keep: how many of the last parts can be looked at.

    Raises:
      UserError: the extra `serve` is not installed.
    """
    FastAPI, Request, HTTPException, HTMLResponse, JSONResponse, Response = _fastapi()
    parts = Parts(inspector, limits or Limits(), keep)

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        yield
        parts.close()

    app = FastAPI(title="mvead_jax", docs_url=None, redoc_url=None, lifespan=lifespan)

    def refused(status: int, text: str) -> Any:
        parts.numbers.refused.labels(str(status)).inc()
        log.warning("refused (%d): %s", status, text)
        return JSONResponse({"error": text}, status, {"Retry-After": "1"} if status == 503 else None)

    @app.exception_handler(Refused)
    async def of_refusal(_request: Request, error: Refused) -> Any:
        return refused(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Any:
        return refused(error.status_code, f"{request.method} {printable(request.url.path)}: {error.detail}")

    @app.post("/parts")
    async def add(request: Request) -> Any:
        return JSONResponse((await parts.add(request)).as_json())

    @app.get("/parts/{part_id}/{view}.png")
    async def picture(part_id: str, view: str) -> Any:
        if (part := parts.last.get(part_id)) is None:
            raise Refused(404, f"part {part_id}: not one of the last {keep}")
        if view not in part.found.sizes:
            raise Refused(404, f"view {view}: the part has {', '.join(part.found.sizes)}")
        return Response(await parts.worked(lambda: _png(part.found, view)), 200, _PICTURE, "image/png")

    @app.get("/")
    async def page() -> Any:
        shown = [*reversed(parts.last.values())]
        counts = Counter(part.outcome for part in shown)
        text = rendered("mvead_jax.serving.http", "parts.html.jinja", parts=shown, counts=counts)
        return HTMLResponse(text, headers=_POLICY)

    @app.get("/health")
    async def health() -> Any:
        views = {category: list(inspector.views(category)) for category in inspector.categories}
        return {"status": "ok", "model": inspector.digest, "categories": views}

    @app.get("/metrics")
    async def metrics() -> Any:
        return Response(parts.numbers.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _fastapi() -> tuple[Any, ...]:
    """Return the classes of FastAPI that are used, which the extra brings."""
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        from fastapi import FastAPI, Request
        from fastapi.responses import HTMLResponse, JSONResponse, Response
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: pip install '.[serve]' in the checkout") from None
    return FastAPI, Request, HTTPException, HTMLResponse, JSONResponse, Response


def _png(found: Inspection, view: str) -> bytes:
    content = io.BytesIO()
    found.overlay(view).save(content, "PNG", compress_level=1)
    return content.getvalue()
