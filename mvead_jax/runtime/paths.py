"""Paths as people type them on a command line or in a config."""

from __future__ import annotations

import os
from pathlib import Path

from mvead_jax.runtime.errors import UserError


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading `~` or `~user` replaced by that home folder.

    A shell expands `~` at the beginning of a word only, so in `--workdir=~/runs/x` it arrives here. A folder
    that is really called `~` is written `./~`.

    Raises:
      UserError: the system knows no home folder of that user.
    """
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: the system knows no home folder of {path.parts[0]!r}; write the path in full, or "
            f"./{path} for a folder of that name"
        ) from None
