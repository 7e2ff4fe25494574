"""Memory banks on disk: one safetensors file for each view, and the manifest that vouches for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mvead_jax.errors import UserError
from mvead_jax.files import read_json, sha256, whole, write_json

_SUFFIX = ".safetensors"


def write_banks(
    folder: Path, banks: Mapping[str, Float32[np.ndarray, "M D"]], facts: Mapping[str, Any]
) -> list[Path]:
    """Writes <folder>/<name>.safetensors for every bank, with `facts` (JSON) in each header."""
    paths = []
    for name, rows in banks.items():
        path = folder / f"{name}{_SUFFIX}"
        with whole(path) as temporary:
            # One metadata entry: safetensors orders several of them at random.
            save_file(
                {"bank": np.ascontiguousarray(rows)}, temporary, {"facts": json.dumps(facts, sort_keys=True)}
            )
        paths.append(path)
    return paths


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts that were written with the banks of a folder. Raises as `read_banks`."""
    facts: dict[str, Any] = {}
    for path in _bank_files(folder):
        with _opened(path) as file:
            facts = json.loads(file.metadata()["facts"])
    return facts


def read_banks(folder: Path) -> tuple[dict[str, Float32[np.ndarray, "M D"]], dict[str, Any]]:
    """The banks of a folder by name, and their facts.

    Raises:
      UserError: no banks, or a file that is none.
    """
    banks = {}
    for path in _bank_files(folder):
        with _opened(path) as file:
            banks[path.stem] = file.get_tensor("bank")
    return banks, read_facts(folder)


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
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a memory bank ({error}); train again") from None


class Manifest:
    """SHA-256 of the files of a workdir that scoring relies on, by path below the workdir."""

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._path = workdir / "manifest.json"
        self._digests: dict[str, str] = read_json(self._path, "a manifest") if self._path.exists() else {}

    def add(self, *paths: Path) -> None:
        """Records files as they are now."""
        for path in paths:
            self._digests[path.relative_to(self._workdir).as_posix()] = sha256(path)
        write_json(self._path, dict(sorted(self._digests.items())))

    def covers(self, folder: Path) -> bool:
        """Whether any recorded file lies in `folder`, and all that do are there unchanged."""
        prefix = folder.relative_to(self._workdir).as_posix() + "/"
        names = [name for name in self._digests if name.startswith(prefix)]
        return bool(names) and all(self._unchanged(name) for name in names)

    def verify(self, folder: Path) -> None:
        """Raises UserError unless the files of `folder` are exactly those recorded."""
        prefix = folder.relative_to(self._workdir).as_posix() + "/"
        names = {name for name in self._digests if name.startswith(prefix)}
        if not names:
            raise UserError(
                f"{folder}: not in {self._path}; training has not finished: run scripts/train.py again"
            )
        for name in sorted(names):
            if not self._unchanged(name):
                raise UserError(
                    f"{self._workdir / name}: missing or changed since training; run train.py again"
                )
        for path in folder.glob(f"*{_SUFFIX}"):
            if path.relative_to(self._workdir).as_posix() not in names:
                raise UserError(f"{path}: not in {self._path}; remove it or train again")

    def _unchanged(self, name: str) -> bool:
        path = self._workdir / name
        return path.is_file() and sha256(path) == self._digests[name]
