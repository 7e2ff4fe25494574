"""Parts of the program that are found by name and loaded when they are asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from mvead_jax.runtime.errors import UserError


class Registry:
    """Names of one kind of part and where each is: "module" or "module:attribute".

    Installed packages add names by entry points of `group`; a built-in name cannot be replaced by one.
    """

    def __init__(self, kind: str, known: Mapping[str, str], group: str):
        """Args: kind: what the parts are, as a config field calls them ("method"). known: the built-in ones."""
        self.kind, self.group = kind, group
        self._known = dict(known)

    def places(self) -> dict[str, str]:
        """Return where every part is, by name: built-in ones first, then those of installed packages."""
        installed = {point.name: point.value for point in entry_points(group=self.group)}
        return self._known | {name: place for name, place in installed.items() if name not in self._known}

    def names(self) -> tuple[str, ...]:
        """Return all names."""
        return tuple(self.places())

    def check(self, name: str) -> None:
        """Raise UserError, with the nearest name, unless there is such a part."""
        if name in self._known or name in (names := self.names()):
            return
        close = difflib.get_close_matches(name, names, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ";"
        raise UserError(f"config {self.kind}={name!r}: unknown{hint} expected one of {', '.join(names)}")

    def load(self, name: str) -> Any:
        """Return the part of that name.

        Raises:
          UserError: an unknown name, with the nearest one; or a part of another package that cannot be imported.
        """
        self.check(name)
        place = self.places()[name]
        module, _, attribute = place.partition(":")
        try:
            found = importlib.import_module(module)
            return getattr(found, attribute) if attribute else found
        except (ImportError, AttributeError) as error:
            if name in self._known:
                raise
            raise UserError(
                f"config {self.kind}={name!r}: {place} of an installed package cannot be loaded ({error}); mend "
                "or remove that package"
            ) from error
