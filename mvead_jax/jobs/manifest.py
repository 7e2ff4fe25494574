"""manifest.json of a workdir: SHA-256 of the files that scoring relies on, by path below the workdir."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mvead_jax.data.safe_paths import unsafe_path
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, sha256, write_json


def _is_entry(item: tuple[str, Any]) -> bool:
    name, digest = item
    return unsafe_path(name) is None and isinstance(digest, str)


class Manifest:
    """SHA-256 of the files of a workdir that scoring relies on, by path below the workdir."""

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._path = workdir / "manifest.json"
        self._digests: dict[str, str] = {}
        if self._path.exists():
            self._digests = read_json(self._path, "the SHA-256 of files; delete it to make them again")
        if not isinstance(self._digests, dict) or not all(map(_is_entry, self._digests.items())):
            raise UserError(f"{self._path}: not a manifest; delete it and train again")

    def record(self, place: Path) -> None:
        """Takes a file, or all files of a folder, as they are now."""
        for name in self.names(place):
            del self._digests[name]
        for path in self._files(place):
            self._digests[path.relative_to(self._workdir).as_posix()] = sha256(path)
        write_json(self._path, dict(sorted(self._digests.items())))

    def forget(self, place: Path) -> None:
        """Takes a file, or all files of a folder, out of the manifest."""
        if names := self.names(place):
            for name in names:
                del self._digests[name]
            write_json(self._path, dict(sorted(self._digests.items())))

    def digest(self, *places: Path) -> str:
        """Of the recorded digests of some files and folders: tells one state of them from another."""
        own = {name: self._digests[name] for place in places for name in self.names(place)}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def covers(self, place: Path) -> bool:
        """Whether a file, or any file of a folder, is recorded, and all that are exist unchanged."""
        names = self.names(place)
        return bool(names) and all(self._unchanged(name) for name in names)

    def verify(self, place: Path) -> None:
        """Raises UserError unless a file, or the files of a folder, are exactly those recorded."""
        names = self.names(place)
        if not names:
            raise UserError(f"{place}: not in {self._path}; training has not finished: run mvead train again")
        for name in names:
            if not self._unchanged(name):
                raise UserError(
                    f"{self._workdir / name}: missing or changed since training; run mvead train again"
                )
        for path in self._files(place):
            if path.relative_to(self._workdir).as_posix() not in names:
                raise UserError(f"{path}: not in {self._path}; remove it or train again")

    def _files(self, place: Path) -> list[Path]:
        """The file itself, or the files of a folder but for the hidden ones, which a writer has in hand."""
        if not place.is_dir():
            return [place]
        return sorted(path for path in place.iterdir() if not path.name.startswith("."))

    def names(self, place: Path) -> list[str]:
        """The recorded names of a file, or of all files of a folder."""
        own = place.relative_to(self._workdir).as_posix()
        return [name for name in self._digests if name == own or name.startswith(own + "/")]

    def _unchanged(self, name: str) -> bool:
        path = self._workdir / name
        return path.is_file() and sha256(path) == self._digests[name]
