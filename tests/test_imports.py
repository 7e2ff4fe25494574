"""What the program loads, and which room may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the first room to the last: a room imports only from itself and from those before it.
ROOMS = (
    *("errors", "processes", "files", "progress", "console", "board", "config", "config_io"),
    *("environment", "sharding"),
    *(
        "data",
        "plan",
        "geometry",
        "rig",
        "backbone",
        "bank",
        "methods",
        "decision",
        "evaluation",
        "report",
        "calibrate",
        "model",
        "scoring",
        "workdir",
        "hold_out",
        "protocol",
        "checkpoint",
        "evaluate",
        "train",
        "scores_folder",
        "to_look_at",
        "score",
        "dry_run",
        "inspector",
        "watch",
        "export",
        "compare",
        "reproduce",
    ),
)


def modules():
    return sorted(path for path in (ROOT / "mvead_jax").rglob("*.py") if path.name != "__init__.py")


def room(path):
    return path.relative_to(ROOT / "mvead_jax").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_before_it(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "mvead_jax":
            names = [f"mvead_jax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mvead_jax."):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("mvead_jax.")]
        for name in names:
            assert ROOMS.index(name.split(".")[1]) <= ROOMS.index(room(path)), f"{path}: {name}"


_BANNED = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "tensorflow"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
"""


def test_importing_everything_loads_neither_torch_nor_tensorflow():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules()]
    code = _BANNED + "\n".join(f"import {name}" for name in names)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
