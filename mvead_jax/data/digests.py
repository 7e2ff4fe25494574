"""The SHA-256 of every image: what its features, a geometry and a training depend on.

Neither a name nor a time tells images apart: two days of a line may hold the same names, sizes and times. So
the bytes decide. To read them all takes minutes, so what was read is recorded, as git does it: the record is
named by where the files lie, their sizes, times and inodes, and believed while none of these changes. A file
can't be changed or replaced without its time of change (ctime), which nobody can set back.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mvead_jax.data.image_files import ImageFile, ImageFolder, digest, folder_of, source_of
from mvead_jax.data.records import Sample
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.runtime.files import write_text
from mvead_jax.runtime.progress import progress

_THREADS = 8

State = list[int | str]  # of a file; what is not a file has its SHA-256 for a state


def image_paths(samples: Sequence[Sample]) -> list[str]:
    """Return the paths of all images below the data set's root."""
    return [view.image for sample in samples for view in sample.views]


def file_states(root: ImageFolder, paths: Sequence[str]) -> list[State]:
    """Return where each file lies, its size, times and inode. This is cheap: it reads nothing.

    Raises:
      UserError: no such file.
    """
    if (folder := folder_of(root)) is None:
        return [[(root / path).sha256] for path in paths]
    place = folder.resolve()  # a link that leads to another folder than before is another place
    found: list[State] = []
    for path in paths:
        source, made = source_of(root, path)
        try:
            stat = os.stat(place / source)
        except OSError as error:
            raise UserError(f"{folder / source}: {error.strerror}") from None
        # Without the device, whose number changes when the machine starts again.
        times = (stat.st_mtime_ns, stat.st_ctime_ns)
        own = [os.fspath(place / source), stat.st_size, *times, stat.st_ino]
        found.append([*own, made] if made else own)
    return found


def file_digests(root: ImageFolder, paths: Sequence[str], seen: Sequence[State], folder: Path) -> list[str]:
    """Return the hexadecimal SHA-256 of each file, from the record in `folder` or from its bytes; what is
    read is recorded there.

    Args:
      seen: the states of the files before this call.

    Raises:
      DataProblems: every file that can't be read.
    """
    if folder_of(root) is None:
        return [digest(root / path) for path in paths]
    if (found := recorded_digests(seen, folder)) is not None:
        return found
    found = read_digests(root, paths)
    if file_states(root, paths) == seen:  # else something was changed while it was read
        record = _record(seen, folder)
        write_text(record, "\n".join([*found, _seal(record, found)]) + "\n")
    return found


def read_digests(root: ImageFolder, paths: Sequence[str]) -> list[str]:
    """Return the hexadecimal SHA-256 of each file, from its bytes. Raises as `file_digests`."""
    found, problems = [], []
    with progress("reading images", len(paths), "files") as bar, ThreadPoolExecutor(_THREADS) as pool:
        for one in pool.map(lambda path: _digest_or_problem(root / path), paths):
            (problems if isinstance(one, UserError) else found).append(str(one))
            bar.advance()
    if problems:
        raise DataProblems(str(root), problems)
    return found


def recorded_digests(seen: Sequence[State], folder: Path) -> list[str] | None:
    """Return what `file_digests` recorded of files in these states; None if it did not, or the record is
    damaged."""
    record = _record(seen, folder)
    try:
        *found, seal = record.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return found if len(found) == len(seen) and seal == _seal(record, found) else None


def _record(seen: Sequence[State], folder: Path) -> Path:
    return folder / f"{hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:40]}.sha256"


def _seal(record: Path, found: Sequence[str]) -> str:
    return hashlib.sha256(" ".join([record.name, *found]).encode()).hexdigest()


def _digest_or_problem(file: ImageFile) -> str | UserError:
    try:
        return digest(file)
    except UserError as error:
        return error
