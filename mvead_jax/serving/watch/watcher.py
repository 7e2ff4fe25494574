"""Samples scored as they arrive: score.py --watch.

A sample is scored when all views of its model have come, or by the views it has when none has come for a
while. It is scored again if more comes, or an image is replaced; the new line says which one it revises.
Files are read and never moved, renamed or changed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.runtime.files import locked
from mvead_jax.serving.watch.arrivals import Arrival, Arrivals, File, Key
from mvead_jax.serving.watch.journal import Journal

log = logging.getLogger("mvead_jax")

JOURNAL = "decisions.jsonl"
_POLL_SECONDS = 1.0
_LARGEST = 2**29  # bytes of a file: 80 million pixels of 16-bit RGB have fewer


class Inspects(Protocol):
    """What a watcher needs of an Inspector."""

    digest: str
    categories: Sequence[str]

    def views(self, category: str) -> Sequence[str]: ...

    def inspect(self, images: Mapping[str, Any], category: str) -> Any: ...


@dataclass(frozen=True)
class Snapshot:
    """The bytes of an image as they came once: what is hashed is what is scored. name: in messages."""

    name: Path | str
    content: bytes

    def open(self, mode: str = "rb") -> BinaryIO:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return str(self.name)


@dataclass(slots=True)
class _Decided:
    """The last line of a sample: its number, and the images it stands for, by view; no digest of one that
    could not be read. tried: when it was last tried to read these."""

    number: int
    files: dict[str, File]
    digests: dict[str, str | None]
    tried: float = -math.inf

    def is_of(self, files: Mapping[str, File]) -> bool:
        """Whether it stands for all these files."""
        return all(self.files.get(view) == file for view, file in files.items())


class Watcher:
    """Decides about what has arrived, a look at a time."""

    def __init__(self, inspector: Inspects, folder: Path, journal: Journal, timeout: float):
        """
        Args:
          timeout: seconds without news after which a sample is scored by the views it has.

        Raises:
          UserError: the journal has decisions of another model, or lines of another program.
        """
        self._inspector, self._folder, self._journal, self._timeout = inspector, folder, journal, timeout
        self._views = {category: tuple(inspector.views(category)) for category in inspector.categories}
        self._decided: dict[Key, _Decided] = {}
        self._arrivals = Arrivals(folder, self._views, self._decided_files)
        for number, line in enumerate(journal.lines(), 1):
            try:
                model = line["model"]
                self._remember(line)
            except (KeyError, TypeError, AttributeError) as error:
                raise journal.foreign(number, error) from None
            if model != inspector.digest:
                raise UserError(
                    f"--output: {JOURNAL} has decisions of another model than this one; name another folder"
                )

    def look(self, now: float, stop: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
        """Decides about every sample that is ready; returns the lines that were written.

        Args:
          now: in seconds, of any clock that only goes forward.
          stop: asked before each sample.
        """
        self._arrivals.look(now)
        written = []
        for key, arrival in sorted(self._arrivals.samples.items()):
            if stop():
                break
            if self._ready(key, arrival, now) and (line := self._decide(key, arrival, now)):
                written.append(line)
        return written

    def _ready(self, key: Key, arrival: Arrival, now: float) -> bool:
        known = self._decided.get(key)
        if not arrival.settled:
            return False
        if known and known.is_of(arrival.files):  # what could not be read may be readable again
            unread = any(known.digests[view] is None for view in arrival.files)
            return unread and now - known.tried >= self._timeout
        begun = sum(file.size > 0 for file in arrival.files.values())
        return begun == len(self._views[key[0]]) or self._timed_out(arrival, now)

    def _timed_out(self, arrival: Arrival, now: float) -> bool:
        return now - arrival.since >= self._timeout

    def _decide(self, key: Key, arrival: Arrival, now: float) -> dict[str, Any] | None:
        """The line of a sample; None if there is nothing new in it, or if it should be looked at again."""
        files = dict(arrival.files)
        pictures: dict[str, Snapshot] = {}
        unreadable = []
        for view, file in files.items():
            path = self._folder / file.path
            try:
                pictures[view] = _snapshot(path)
            except FileNotFoundError:
                return None  # moved away or taken back; the next look tells
            except UserError as error:
                unreadable.append(str(error))
        digests: dict[str, str | None] = dict.fromkeys(files)
        digests |= {view: hashlib.sha256(one.content).hexdigest() for view, one in pictures.items()}
        known = self._decided.get(key)
        if known and all((view, digest) in known.digests.items() for view, digest in digests.items()):
            known.files.update(files)  # the same images, copied again
            known.tried = now
            return None
        category, sample = key
        try:
            if unreadable:
                raise UserError("; ".join(unreadable))
            result = self._inspector.inspect(pictures, category).as_json()
        except UserError as error:
            if not self._timed_out(arrival, now):
                return None  # it may still be on its way
            result = {"error": str(error), "missing": [v for v in self._views[category] if v not in files]}
        line = self._journal.append(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "category": category,
                "sample": sample,
                "revises": known.number if known else None,
                **result,
                "pictures": {
                    view: {**asdict(file), "sha256": digests[view]} for view, file in sorted(files.items())
                },
                "model": self._inspector.digest,
            }
        )
        self._remember(line, now)
        log.info("%s %s: %s", category, sample, line.get("error") or line["text"])
        return line

    def _decided_files(self, key: Key) -> Mapping[str, File]:
        return self._decided[key].files if key in self._decided else {}

    def _remember(self, line: Mapping[str, Any], now: float = -math.inf) -> None:
        pictures = line["pictures"]
        files = {
            view: File(one["path"], one["size"], one["modified"], one["changed"])
            for view, one in pictures.items()
        }
        digests = {view: one["sha256"] for view, one in pictures.items()}
        self._decided[line["category"], line["sample"]] = _Decided(line["number"], files, digests, now)


def _snapshot(path: Path) -> Snapshot:
    """The bytes of an image.

    Raises:
      FileNotFoundError: it is gone.
      UserError: it can't be read, or is too large for any image that is taken.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    if len(content) > _LARGEST:
        raise UserError(f"{path}: more than {_LARGEST} bytes; put the image there")
    return Snapshot(path, content)


def watch(inspector: Inspects, folder: Path, output: Path, *, timeout: float) -> None:
    """Appends the decisions on what arrives in `folder` to <output>/decisions.jsonl, until asked to stop.

    Raises:
      UserError: no such folder, another watcher at work, or a journal that cannot be gone on with.
      Stopped: SIGTERM came. KeyboardInterrupt: Ctrl-C; both after the sample in hand.
    """
    if not folder.is_dir():
        raise UserError(f"--input {folder}: no such folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from None
    with locked(output), _asked_to_stop() as asked:
        watcher = Watcher(inspector, folder, Journal(output / JOURNAL), timeout)
        log.info("watching %s; decisions go to %s", folder, output / JOURNAL)
        while not asked.is_set():
            watcher.look(time.monotonic(), asked.is_set)
            asked.wait(_POLL_SECONDS)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set; at the end of the block they do what they usually do. A second
    one does so at once."""
    asked, came = threading.Event(), []

    def ask(number, _frame):
        if asked.is_set():
            _stop(number)
        came.append(number)
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        _stop(came[0])


def _stop(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped("stopped watching")
