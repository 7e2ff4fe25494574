"""decisions.jsonl: one line for each decision, whole or not at all, never changed afterwards."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mvead_jax.runtime.errors import UserError

log = logging.getLogger(__name__)


class Journal:
    """The lines of a file, and how to add one. A last line that a killed writer left unfinished is cut off; a
    whole one of which only the end of the line is missing gets it.

    Attributes:
      count: of the lines; line i has "number" i + 1. None is kept in memory.
    """

    def __init__(self, path: Path):
        """
        Raises:
          UserError: the disk refuses, or the last line is none of a journal.
        """
        self._path, self.count, whole = path, 0, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                file.seek(0)
                for line in file:
                    if line.endswith(b"\n"):
                        self.count, whole = self.count + 1, whole + len(line)
                    elif self._is_whole(line):
                        file.write(b"\n")
                        self.count, whole = self.count + 1, whole + len(line) + 1
                    else:
                        log.warning("%s: its last line was not finished; cut off, decided again", path)
                file.truncate(whole)
                os.fsync(file.fileno())
            _sync_folder(path.parent)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error

    def lines(self) -> Iterator[dict[str, Any]]:
        """The objects, in order.

        Raises:
          UserError: a line that is none of a journal, or a disk that refuses.
        """
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    yield self._parsed(number, line)
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror or error}") from error

    def append(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a line and gives it its number; it is on the disk when this returns.

        Raises:
          UserError: the disk refuses.
        """
        line = {"number": self.count + 1, **fields}
        text = json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n"
        try:
            with self._path.open("ab", buffering=0) as file:
                content = text.encode("utf-8", "backslashreplace")  # half a character as JSON writes it
                if file.write(content) != len(content):
                    raise OSError("the disk took half of a line")
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"{self._path}: {error.strerror or error}; nothing is decided twice: make room and run again"
            ) from error
        self.count += 1
        return line

    def foreign(self, number: int, error: Exception) -> UserError:
        """The error of a line that another program wrote."""
        reason = f"no {error}" if isinstance(error, KeyError) else error
        return UserError(
            f"{self._path}: line {number} is not one of score.py --watch ({reason}); name another --output"
        )

    def _is_whole(self, line: bytes) -> bool:
        """Whether a last line without its end is whole; if not, it must begin as the next one would."""
        begin = b'{"number": %d, ' % (self.count + 1)
        if not line.startswith(begin[: len(line)]):
            raise self.foreign(self.count + 1, ValueError("it begins otherwise"))
        try:
            return bool(self._parsed(self.count + 1, line))
        except UserError:
            return False

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line.decode())
            if found["number"] != number:
                raise ValueError(f"its number is {found['number']}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.foreign(number, error) from None
        return found


def _sync_folder(folder: Path) -> None:
    """Makes the name of a new file outlive a power cut, where folders can be synchronised."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
