"""What vouches for the files of a scores folder: each metrics file names their SHA-256, and its own.

    "files": {"images.csv": "...", "maps/cap.npz": "...", ...}, "seal": of all else in the metrics file

So what changed since it was written is found before a figure is made of it. A metrics file with neither is
one of an earlier version, and is believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import finite, read_json, sha256, write_json


def write_sealed(path: Path, metrics: Mapping[str, Any], files: Sequence[str]) -> None:
    """Writes a metrics file that vouches for `files` beside it, as they are now."""
    content = dict(metrics) | {"files": {name: sha256(path.parent / name) for name in sorted(files)}}
    write_json(path, content | {"seal": _seal(content)})


def read_sealed(path: Path, what: str) -> Any:
    """The content of a metrics file. Args as of `files.read_json`.

    Raises:
      UserError: missing, not JSON, or changed since it was written.
    """
    content = read_json(path, what)
    if isinstance(content, dict) and ("seal" in content or "files" in content):
        own = {name: value for name, value in content.items() if name != "seal"}
        if content.get("seal") != _seal(own) or not isinstance(content.get("files"), dict):
            raise UserError(f"{path}: changed since it was written; score again")
    return content


def check_files(folder: Path, metrics: Any, names: Sequence[str]) -> None:
    """Compares files with what `metrics`, of `read_sealed`, vouches for.

    Raises:
      UserError: one that is missing or has changed.
    """
    digests = metrics.get("files") if isinstance(metrics, dict) else None
    if digests is None:
        return
    for name in names:
        path = folder / name
        try:
            same = sha256(path) == digests.get(name)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run mvead score") from None
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        if not same:
            raise UserError(f"{path}: changed since it was written; score again")


def _seal(content: Mapping[str, Any]) -> str:
    """Over the JSON as it is read back."""
    return hashlib.sha256(json.dumps(finite(dict(content)), sort_keys=True).encode()).hexdigest()
