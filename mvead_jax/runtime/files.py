"""Files that are either whole or absent."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mvead_jax.runtime.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


log = logging.getLogger(__name__)

LOCK = ".lock"  # of a folder that someone works in; it is empty
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{12})-\d+\.tmp", re.DOTALL)  # machine
_LONG_AGO = 24 * 3600  # seconds


@contextmanager
def whole(path: Path, named_by: str = "") -> Iterator[Path]:
    """A temporary path beside `path`; it takes its place when the block ends without an error.

    What stands there, a file or a folder of files, is on the disk before it has its name. What killed writers
    left in the folder goes.

    Args:
      named_by: the option of the command line that names `path`, for the error.

    Raises:
      UserError: the disk refuses (full, read-only), naming the file.
    """
    temporary = path.with_name(f".{path.name}.{_machine()}-{secrets.randbelow(10**12)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing_in(path.parent):
            try:
                yield temporary
                for written in temporary.rglob("*") if temporary.is_dir() else (temporary,):
                    if not written.is_dir():
                        with written.open("rb") as file:
                            os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                with suppress(OSError):
                    _discard(temporary)
    except OSError as error:
        raise UserError(f"{named_by} {path}: {error.strerror or error}".lstrip()) from error


@contextmanager
def _writing_in(folder: Path) -> Iterator[None]:
    """Shares the folder with other writers while the block runs. Who is alone in it first removes what killed
    ones left.

    The lock is that of the folder itself, which the kernel keeps for this machine, whatever the file system,
    and which it sees across containers.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # someone else is at work, or there are no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_leftovers(folder)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left in a folder in which nobody of this machine writes; what another
    machine left, or this one before its last start, only after a day: its writer can't be seen from here."""
    with suppress(OSError):
        for path in folder.iterdir():
            if not (found := _TEMPORARY.fullmatch(path.name)):
                continue
            with suppress(OSError):
                if found[1] == _machine() or time.time() - path.lstat().st_mtime > _LONG_AGO:
                    _discard(path)


@functools.cache
def _machine() -> str:
    """This machine since its last start; no other has the same, whatever its name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:12]
    except OSError:  # not Linux
        return hashlib.sha256(f"{socket.gethostname()} {uuid.getnode()}".encode()).hexdigest()[:12]


def _discard(path: Path) -> None:
    """Removes a file or a folder with all in it; none is fine."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of `folder` while the block runs; where there is no such lock it says so.

    The lock is that of a file .lock in it, which stays: network file systems lock files for all machines, but
    folders for each by itself. The system gives it up when its owner dies, however it dies. Where no such
    file is and none can be made, for the folder can't be written, there is nothing to keep out.

    Args:
      shared: several may have it so at a time, and none without: for readers.
      wait: until it is free, for work of moments.

    Raises:
      UserError: another process has it, unless `wait`.
    """
    if fcntl is None:
        log.warning("%s: this system has no locks; do not run two at once here", folder)
        yield
        return
    if (handle := _open_lock(folder)) is None:
        yield
        return
    try:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the second is SMB's word for it
            raise UserError(
                f"{folder}: another process is at work here; wait for it or choose another folder"
            ) from None
        except OSError as error:  # a network file system without locks
            log.warning("%s: can't be locked (%s); do not run two at once here", folder, error.strerror)
        yield
    finally:
        os.close(handle)


def _open_lock(folder: Path) -> int | None:
    """A handle of the folder's .lock, made if it is missing; None if that can't be.

    Raises:
      UserError: no such folder, or the disk refuses.
    """
    path = folder / LOCK
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno not in (EACCES, EPERM, EROFS):
                raise
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY)
        return None
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from error


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
