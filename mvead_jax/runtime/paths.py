"""Paths as people type them on a command line or in a config."""

from __future__ import annotations

import os
from pathlib import Path

from mvead_jax.runtime.errors import UserError


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading `~` or `~user` replaced by that home folder.

    A shell expands `~` at the beginning of a word only, so in `--workdir=~/runs/x` it arrives here. A folder
    that is really called `~` is written `./~`, which a `Path` forgets: give the text of the command line, as
    `parser.add_argument("--workdir", type=expanded)` does.

    Raises:
      UserError: the system knows no home folder of that user.
    """
    text = os.fspath(path)
    found = os.path.expanduser(text)
    if text.startswith("~") and found == text:
        raise UserError(
            f"{text}: the system knows no home folder of {text.partition('/')[0]!r}; write the path in full, "
            f"or ./{text} for a folder of that name"
        )
    return Path(found)
