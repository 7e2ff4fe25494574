"""Memory banks on disk: one safetensors file for each view, and the manifest that vouches for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from safetensors import SafetensorError, safe_open

from mvead_jax.data.safe_paths import unsafe_path
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, remove, sha256, write_json, write_tensors

_SUFFIX = ".safetensors"


def write_banks(
    folder: Path,
    banks: Mapping[str, Float32[np.ndarray, "M D"]],
    facts: Mapping[str, Any],
    samples: Mapping[str, Int32[np.ndarray, " M"]] | None = None,
) -> None:
    """Makes <folder>/<name>.safetensors for every bank the only banks of the folder.

    Args:
      facts: JSON that goes into each header.
      samples: whose each row is, as in `mvead_jax.bank.fill.Bank`.
    """
    if folder.is_dir():
        for path in folder.iterdir():  # of an earlier training, or of a writer that was killed
            if path.stem not in banks or path.name.startswith("."):
                remove(path)
    for name, rows in banks.items():
        tensors = {"bank": np.ascontiguousarray(rows, np.float32)}
        if samples is not None:
            tensors["sample"] = np.ascontiguousarray(samples[name], np.int32)
        # One metadata entry: safetensors orders several of them at random.
        write_tensors(folder / f"{name}{_SUFFIX}", tensors, {"facts": json.dumps(facts, sort_keys=True)})


def read_samples(folder: Path) -> dict[str, Int32[np.ndarray, " M"]]:
    """Whose each row of the banks is, by name. Raises as `map_banks`."""
    found = {}
    for path in _bank_files(folder):
        with _opened(path) as file:
            found[path.stem] = file.get_tensor("sample")
    return found


def map_banks(folder: Path) -> dict[str, Float32[np.memmap, "M D"]]:
    """The banks by name, memory-mapped: a slice of rows reads these rows from the disk and no others.

    So a bank larger than memory can be searched block by block, and a process of several load its part.

    Raises:
      UserError: no banks, or a file that is none.
    """
    banks = {}
    for path in _bank_files(folder):
        with _opened(path) as file, path.open("rb") as raw:
            shape = file.get_slice("bank").get_shape()  # safetensors has checked the header
            header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))["bank"]
            if header["dtype"] != "F32":
                raise ValueError(f"holds {header['dtype']}, not F32")
            if len(shape) != 2 or not all(shape):
                raise ValueError(f"holds an array {shape}, not rows of features")
            begin = raw.tell() + header["data_offsets"][0]
        banks[path.stem] = np.memmap(path, np.dtype("<f4"), "r", begin, tuple(shape))
    return banks


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts that were written with the banks of a folder. Raises as `map_banks`."""
    with _opened(_bank_files(folder)[0]) as file:
        return json.loads(file.metadata()["facts"])


def _bank_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob(f"*{_SUFFIX}"))
    if not paths:
        raise UserError(f"{folder}: no memory banks; run scripts/train.py")
    return paths


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a memory bank ({error}); train again") from None


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
            raise UserError(
                f"{place}: not in {self._path}; training has not finished: run scripts/train.py again"
            )
        for name in names:
            if not self._unchanged(name):
                raise UserError(
                    f"{self._workdir / name}: missing or changed since training; run train.py again"
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
