"""Where a config comes from: a name of the program's own configs, or a file, with what follows its colon."""

from __future__ import annotations

import re
from pathlib import Path

from mvead_jax.config.validation import nearest
from mvead_jax.runtime.errors import UserError

_NAME = re.compile(r"\w+")


def config_folder() -> Path:
    """Return the folder of the program's own configs: beside the rooms in a wheel, and above them in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Return the names of the program's own configs."""
    return sorted(path.stem for path in config_folder().glob("*.py"))


def config_file(name: str) -> Path:
    """Return the file of one of the program's own configs: "realiad.py"; an argument after its colon stays."""
    return config_folder() / name


def locate(spec: str) -> tuple[Path, str]:
    """Return the file of a config, and its argument: of a name ("realiad", "folder:patchcore") or of a file.

    Raises:
      UserError: there is none (with the nearest name).
    """
    name, _, argument = spec.partition(":")
    if _NAME.fullmatch(name) and (own := config_file(f"{name}.py")).is_file():
        return own, argument
    if Path(name).is_file():
        return Path(name), argument
    if _NAME.fullmatch(name):
        names = config_names()
        raise UserError(
            f"--config {name}: neither a config's name nor a file{nearest(name, names)}; "
            f"the names are {', '.join(names)}"
        )
    files = sorted(str(path) for path in Path("configs").glob("*.py"))
    hint = nearest(name, files) or nearest(Path(name).stem, config_names())
    raise UserError(f"--config {name}: no such file{hint}")
