"""Files that are either whole or absent."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mvead_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


log = logging.getLogger(__name__)


@contextmanager
def whole(path: Path, named_by: str = "") -> Iterator[Path]:
    """A temporary path beside `path`; it takes its place when the block ends without an error.

    What stands there, a file or a folder of files, is on the disk before it has its name.

    Args:
      named_by: the option of the command line that names `path`, for the error.

    Raises:
      UserError: the disk refuses (full, read-only), naming the file.
    """
    mine = f".{path.name}.{socket.gethostname()}-"
    temporary = path.with_name(f"{mine}{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{glob.escape(mine)}*.tmp"):
            if not _is_running(leftover.name.removeprefix(mine).removesuffix(".tmp")):
                _discard(leftover)  # its writer was killed
        yield temporary
        for written in temporary.rglob("*") if temporary.is_dir() else (temporary,):
            if not written.is_dir():
                with written.open("rb") as file:
                    os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{named_by} {path}: {error.strerror or error}".lstrip()) from error
    finally:
        with suppress(OSError):
            _discard(temporary)


def _discard(path: Path) -> None:
    """Removes a file or a folder with all in it; none is fine."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keeps other processes out of `folder` while the block runs; where there is no such lock it says so.

    The system gives the lock up when its owner dies, however it dies.

    Args:
      shared: several may have it so at a time, and none without: for readers.

    Raises:
      UserError: another process has it.
    """
    if fcntl is None:
        log.warning("%s: this system has no locks; do not run two at once here", folder)
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(
            f"{folder}: another process is at work here; wait for it or choose another folder"
        ) from None
    except OSError as error:  # a network file system without locks
        log.warning("%s: can't be locked (%s); do not run two at once here", folder, error.strerror)
    try:
        yield
    finally:
        os.close(handle)


def _is_running(process: str) -> bool:
    if os.name == "nt":
        return True  # there os.kill does not ask, it kills
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it.

    Raises:
      UserError: the disk refuses, naming the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error


def remove(path: Path) -> None:
    """Removes a file that may be gone already.

    Raises:
      UserError: the disk refuses, naming the file.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with NaN and infinity as null, whole or not at all."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file, whole or not at all.

    Raises:
      UserError: the disk refuses, naming the file.
    """
    with whole(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata)
        except SafetensorError as error:  # as it tells of a full disk
            raise UserError(f"{path}: {error}") from error


def append_line(path: Path, text: str) -> None:
    """Appends a line; what a killed writer left of the last one becomes a line of its own.

    Raises:
      UserError: the disk refuses, naming the file.
    """
    try:
        with path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(file):
                file.write(b"\n")
            file.write(text.encode() + b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Takes the lines of a JSONL out that `keep` refuses, and those that are no JSON object: what a killed
    writer left, or damage. Without such a line, or without the file, nothing is written."""
    if not path.exists():
        return
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    kept = [line for line in lines if (event := _event(line)) is not None and keep(event)]
    if rest or len(kept) < len(lines):
        with whole(path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_json(path: Path, what: str) -> Any:
    """The JSON of `path`.

    Args:
      what: what the file is, for the message: "a workdir of train.py".

    Raises:
      UserError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); expected {what}") from None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finite(value: Any) -> Any:
    """JSON with NaN and infinity as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
