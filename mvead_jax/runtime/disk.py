"""Bytes that are about to be written, and whether the disks have them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class Part:
    """What a job writes into one folder.

    Attributes:
      what: for people. folder: where, it need not be there yet.
      bytes: of all of it. there: of it that an earlier run left, and that is not written again.
    """

    what: str
    folder: Path
    bytes: int
    there: int = 0

    @property
    def missing(self) -> int:
        return max(0, self.bytes - self.there)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 where there is none."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # gone by now
                continue
    return found


def check_room(parts: Sequence[Part]) -> None:
    """Compare what is missing with the free bytes of each disk.

    Raises:
      UserError: a disk has evidently less.
    """
    by_disk: dict[int, list[Part]] = {}
    for part in parts:
        by_disk.setdefault(os.stat(_existing(part.folder)).st_dev, []).append(part)
    for own in by_disk.values():
        needed = sum(part.missing for part in own)
        free = shutil.disk_usage(_existing(own[0].folder)).free
        if needed > free:
            what = ", ".join(f"{part.what} {amount(part.missing)} in {part.folder}" for part in own)
            hint = ""
            if any(part.what == "features" and part.missing for part in own):
                hint = ", name another folder by --config.features.cache"
            raise UserError(
                f"{_existing(own[0].folder)}: {amount(needed)} needed ({what}), {amount(free)} free; "
                f"make room{hint}"
            )


def describe(parts: Sequence[Part]) -> str:
    """Return one line: what will be written where, and what of it is there."""
    words = []
    for part in parts:
        there = f" ({amount(min(part.there, part.bytes))} of it there)" if part.there else ""
        words.append(f"{part.what} {amount(part.bytes)}{there} in {part.folder}")
    return ", ".join(words)


def amount(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
