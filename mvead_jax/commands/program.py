"""The program `mvead`: its commands by name. A command's module is imported when it is called, and JAX by its job."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import NamedTuple

import mvead_jax
from mvead_jax.config.validation import nearest
from mvead_jax.runtime.errors import UserError, run


class Command(NamedTuple):
    """A command.

    Attributes:
      module: in mvead_jax/commands/; it has `parser()`, and `main(arguments)`.
      about: what it does, in a line.
      always: arguments that it stands for.
    """

    module: str
    about: str
    always: tuple[str, ...] = ()


COMMANDS = {
    "check": Command("check", "say whether a data set can be used"),
    "train": Command("train", "learn what good parts look like"),
    "score": Command("score", "score the test split, or new images (--input)"),
    "watch": Command("score", "score images as they come into a folder: score --watch", ("--watch",)),
    "serve": Command("serve", "score parts that are sent over HTTP (extra: serve)"),
    "export": Command("export", "make one folder to ship of a trained run"),
    "verify": Command("verify", "check an exported folder: hashes and golden samples"),
    "check-weights": Command("check_weights", "compare downloaded weights with published numbers"),
    "compare": Command("compare", "compare two scored runs"),
    "reproduce": Command("reproduce", "make the papers' tables, or a table of your own configs"),
    "geometry": Command("geometry", "estimate how the views see each other, and draw it"),
    "prepare": Command("prepare", "write a data set once as whole samples, for fast reading"),
    "render-rig": Command("render_rig", "render the demo's inspection rig (extra: rig)"),
    "benchmark": Command("benchmark", "time the program beside its peers (in a checkout)"),
    "study-device": Command("study_device", "check a device: right, repeatable, how fast"),
    "completion": Command("completion", "print the completion script of a shell"),
}

_HEAD = """usage: mvead <command> ...

Finds defective parts in images from several fixed cameras, having seen only good parts.

    mvead check DIR                                                    every problem of the images, at once
    mvead train --config folder --workdir runs/own --config.data.root=DIR
    mvead score --workdir runs/own                                     scores, metrics and the report

commands:"""
_FOOT = """
mvead <command> --help says what it reads, writes and ends with; mvead --version prints the version."""


def start() -> None:
    """Run the program as the entry points `mvead` and `python -m mvead_jax` do."""
    run(main)


def main() -> None:
    """Call the command that sys.argv names.

    Raises:
      UserError: no such command.
    """
    name, *rest = sys.argv[1:] or [""]
    if name in ("", "-h", "--help", "help"):
        lines = [f"  {name:<13} {command.about}" for name, command in COMMANDS.items()]
        print(_HEAD, *lines, _FOOT, sep="\n")
        sys.exit(0 if name else 2)
    if name == "--version":
        print(f"mvead_jax {mvead_jax.__version__}")
        return
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}{nearest(name, COMMANDS)}; mvead --help lists them")
    module_of(name).main([*COMMANDS[name].always, *rest])


def module_of(name: str) -> ModuleType:
    """Return the module of a command."""
    return importlib.import_module(f"mvead_jax.commands.{COMMANDS[name].module}")
