"""The parser that all commands use: one line for every mistake, and the flag that was meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn, get_type_hints

from mvead_jax.config.io import split_overrides
from mvead_jax.config.schema import Config
from mvead_jax.config.validation import nearest
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded

_FIELDS = "--config."


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a `UserError` in one line, without the usage."""

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Return the values of a command line; sys.argv if none is given.

        Raises:
          UserError: an unknown flag (with the nearest one), a flag without its value, or a missing one.
        """
        given = sys.argv[1:] if arguments is None else list(arguments)
        self._check(given, fields=False)
        return self.parse_args(given)

    def parse_with_fields(
        self, arguments: Sequence[str] | None = None
    ) -> tuple[argparse.Namespace, dict[str, str]]:
        """Return the values of a command line, and the fields of a config that it sets by --config.<field>=<value>.

        Raises:
          UserError: as `parse`; a field without a value.
        """
        given = sys.argv[1:] if arguments is None else list(arguments)
        self._check(given, fields=True)
        found, rest = self.parse_known_args(given)
        return found, split_overrides(rest)

    def flags(self) -> list[str]:
        """Return the long flags of the command and of all its parts."""
        return list(dict.fromkeys(self._flags()))

    def parts(self) -> dict[str, Parser]:
        """Return the parsers of the command's parts (`mvead reproduce table1`) by name."""
        choices = [own.choices for own in self._actions if isinstance(own, argparse._SubParsersAction)]
        return dict(choices[0]) if choices else {}

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong as a UserError."""
        raise UserError(f"{message}; see {self.prog} --help")

    def _flags(self) -> Iterator[str]:
        for action in self._actions:
            yield from (flag for flag in action.option_strings if flag.startswith("--"))
        for part in self.parts().values():
            yield from part._flags()

    def _check(self, given: Sequence[str], *, fields: bool) -> None:
        """Raise a UserError at the first flag that there is not, before argparse misses a required one."""
        known = self.flags()
        for argument in given:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            if not name.startswith("--") or name in known or (fields and name.startswith(_FIELDS)):
                continue
            if fields and name[2:].partition(".")[0] in get_type_hints(Config):
                raise UserError(
                    f"unknown argument {name!r}; fields of the config are set by {_FIELDS}{name[2:]}=<value>"
                )
            hint = nearest(name, known) or f"; see {self.prog} --help"
            raise UserError(f"unknown argument {name!r}{hint}")


def command_parser(name: str, description: str | None, *parents: argparse.ArgumentParser) -> Parser:
    """Return the parser of a command; its help begins with the docstring of the command's module."""
    return Parser(
        prog=f"mvead {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=list(parents),
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add what a job needs that begins a run: --config and --workdir."""
    parser.add_argument(
        "--config",
        required=True,
        help="name of a config (realiad, folder:patchcore), or a file: .py, .yaml or .toml",
    )
    parser.add_argument(
        "--workdir", required=True, type=expanded, help="folder of the run; run again to resume"
    )
