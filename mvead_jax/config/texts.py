"""A config as a YAML or TOML file: the config that it starts from, and the fields that differ.

config: folder:patchcore        # or base: ...; a name, or a file beside this one
seed: 3
data:
  root: /data/parts
  categories: [lid, box]
"""

from __future__ import annotations

import tomllib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mvead_jax.config.validation import nearest
from mvead_jax.runtime.errors import UserError

SUFFIXES = (".yaml", ".yml", ".toml")
_START = ("config", "base")


class _Loader(yaml.SafeLoader):
    """YAML of plain values, in which no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                problem=f"{twice!r} stands twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_text_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the config that a YAML or TOML file starts from, as `--config` takes it, and its other fields.

    Raises:
      UserError: it is no such file, or names no config to start from.
    """
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "YAML"
        told = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--config {path}: not {kind} in UTF-8 ({told})") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected fields with values, such as `config: folder`")
    given = [key for key in _START if key in values]
    if len(given) != 1 or not isinstance(values[given[0]], str):
        likely = next((key for key in values if nearest(key, _START)), None) if not given else None
        raise UserError(
            f"--config {path}: give one field `config` with the name or the file of the config to start from"
            + (f"; did you mean it by {likely!r}?" if likely else "")
        )
    start = values.pop(given[0])
    name, colon, argument = start.partition(":")
    if (path.parent / name).is_file() and Path(name).suffix:
        start = f"{path.parent / name}{colon}{argument}"
    return start, values
