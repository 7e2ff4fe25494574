"""What the program loads, which room may import which, and that no room but its own knows a method."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mvead_jax.methods.registry import METHODS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mvead_jax"
# From the first room to the last: a room imports only from itself and from those before it.
ROOMS = (
    *("runtime", "the registries", "config", "data", "geometry", "rig", "backbones", "features", "bank"),
    *("training", "methods", "postprocess", "scoring", "decision", "evaluation", "comparison", "report"),
    *("jobs", "serving", "study", "commands"),
)
# Text only, from names to modules: they import nothing but runtime, and so stand above all rooms.
REGISTRIES = ("methods.registry", "backbones.registry")
# Where a text that is the name of a method means something else.
OTHER_NAMES = {
    "evaluation/protocols.py": "protocols of evaluation, which bear the names of the papers that use them",
    "config/schema.py": "the same protocols, as the choices of eval.protocol",
}
# Files, or folders, where a text may hold "banks" as a part of a path.
BANKS = {
    "methods/": "the name of a part of a state",
    "jobs/workdir.py": "the folder by which a workdir of version 1 is told and refused",
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def place(path):
    return path.relative_to(PACKAGE).as_posix()


@pytest.fixture(scope="module")
def trees():
    """Each module of the package, by its place in there."""
    return {place(path): ast.parse(path.read_text()) for path in modules()}


def room(name):
    """The room of a module by its name below the package: "data.realiad"."""
    return "the registries" if name in REGISTRIES else name.split(".")[0]


def imported(tree):
    """The modules of the package that a file imports, wherever in it, by their names below the package."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "mvead_jax":
            names = [f"mvead_jax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mvead_jax."):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("mvead_jax.")]
        yield from (name.removeprefix("mvead_jax.") for name in names)


def texts(tree):
    """The string constants of a file, but for its docstrings."""
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def test_a_room_imports_only_from_rooms_before_it(trees):
    wrong = []
    for where, tree in trees.items():
        own = room(where.removesuffix(".py").replace("/", "."))
        for name in imported(tree):
            other = room(name)
            if ROOMS.index(other) > ROOMS.index(own) or (own == "the registries" and other != "runtime"):
                wrong.append(f"{where}: {name}")
    assert not wrong


NAMES = set(METHODS.names())
FOLDERS = {path.name for path in (PACKAGE / "methods").iterdir() if path.is_dir()}


def names_a_method(where, tree):
    """What in a file outside methods/ is the name of a method, or the folder of one."""
    for name in imported(tree):
        if name.startswith("methods.") and name.split(".")[1] in FOLDERS:
            yield f"{where}: import of {name}"
    yield from (f"{where}: {text!r}" for text in NAMES.intersection(texts(tree)))


def test_no_code_outside_methods_names_a_method(trees):
    allowed = ("methods/", *OTHER_NAMES)
    wrong = [
        one
        for where, tree in trees.items()
        if not where.startswith(allowed)
        for one in names_a_method(where, tree)
    ]
    assert not wrong


def paths_of_banks(tree):
    return [text for text in texts(tree) if "banks" in re.split(r"[/\\]", text)]


def test_no_path_of_banks_is_known_outside_the_model_store(trees):
    wrong = {
        where: paths_of_banks(tree) for where, tree in trees.items() if not where.startswith(tuple(BANKS))
    }
    assert not {where: found for where, found in wrong.items() if found}


def test_no_exception_is_made_for_nothing(trees):
    """Each of them excepts something, which also shows that the tests above find what they look for."""
    assert all(any(names_a_method(where, trees[where])) for where in OTHER_NAMES)
    for start in BANKS:
        assert any(paths_of_banks(tree) for where, tree in trees.items() if where.startswith(start)), start


def test_a_method_knows_no_other_method_but_the_one_that_stands_in_for_it(trees):
    found = set()
    for where, tree in trees.items():
        own = where.removeprefix("methods/").split("/")[0]
        for name in imported(tree) if where.startswith("methods/") else ():
            other = name.removeprefix("methods.").split(".")[0]
            if name.startswith("methods.") and other in METHODS.known and other != own:
                found.add((own, other))
    assert found == {("mvead", "patchcore")}  # MVEAD without fusion, or of one view


def test_the_root_of_the_package_holds_its_init_its_entry_and_rooms_alone():
    inside = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert {path.name for path in inside if not path.is_dir()} == {"__init__.py", "__main__.py"}
    assert {path.name for path in inside if path.is_dir()} == set(ROOMS) - {"the registries"}


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
