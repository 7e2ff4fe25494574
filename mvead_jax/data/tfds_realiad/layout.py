"""Where prepared data lies, and what of it is not finished; without TFDS, which takes a second to load.

<root>/<category>/realiad/<config>/1.0.0/    as prepare.py writes it: a category is whole or not there
<root>/realiad/<config>/1.0.0/               as the builder alone writes it, all categories in one
<root>/unfinished.json                       while prepare.py is at work, and if it was killed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_json

NAME, VERSION = "realiad", "1.0.0"
REAL_IAD = "real_iad"  # the reader (data/readers.py) that prepared data is of if it does not say so
_UNFINISHED = "unfinished.json"

Undone = dict[str, str]  # of a category
_UNDONE = ("category", "images", "lists")


def builder_folder(root: Path, category: str, config: str) -> Path:
    """Return where prepare.py writes a category."""
    return root / category / NAME / config / VERSION


def prepared_folders(root: Path) -> list[Path]:
    """Return the folders of all prepared data below `root`; sorted."""
    found = [
        *root.glob(f"*/{NAME}/*/{VERSION}/metadata.json"),
        *root.glob(f"{NAME}/*/{VERSION}/metadata.json"),
    ]
    return sorted(path.parent for path in found)


def is_prepared(root: Path) -> bool:
    """Return whether `root` is a folder of prepared data, finished or not."""
    return (root / _UNFINISHED).is_file() or bool(prepared_folders(root))


def prepared_from(root: Path) -> set[str]:
    """Return the readers of the data sets that were prepared into `root`; none of what is not finished.

    Raises:
      UserError: a metadata.json is missing or damaged.
    """
    contents = [
        read_json(folder / "metadata.json", "metadata of mvead prepare") for folder in prepared_folders(root)
    ]
    return {str(own.get("reader", REAL_IAD)) for own in contents if isinstance(own, dict)}


def seal_of(metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all of a metadata.json but the seal that is in it."""
    content = {key: value for key, value in metadata.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_unfinished(root: Path) -> list[Undone]:
    """Return what prepare.py has not done yet.

    Raises:
      UserError: the file is damaged.
    """
    path = root / _UNFINISHED
    if not path.is_file():
        return []
    entries = read_json(path, "a list of mvead prepare")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in _UNDONE)
        for entry in entries
    ):
        raise UserError(f"{path}: not what mvead prepare writes; delete it and run that again")
    return entries


def write_unfinished(root: Path, undone: Sequence[Undone]) -> None:
    """Write down what is not done yet; no file when all is."""
    if undone:
        write_json(root / _UNFINISHED, list(undone))
    else:
        (root / _UNFINISHED).unlink(missing_ok=True)
