"""Names that a config may give to things that live in modules of their own: backbones, methods, readers.

A registry is a dictionary from a name to "module" or "module:attribute". Nothing is imported before it is
asked for, and an installed package adds names through an entry point of the registry's group.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class Registry:
    """The values that one field of a config may have.

    Attributes:
      kind: the field, as "backbone.name"; errors name it.
      known: name -> "module" or "module:attribute" of the program's own.
      group: entry point group in which installed packages add names. A name of the program's own wins.
      hints: what other programs call the same things -> our names; they only serve error messages.
    """

    kind: str
    known: Mapping[str, str]
    group: str
    hints: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Return all names, the program's own first and in their order, then those of installed packages."""
        return tuple(self._places())

    def load(self, name: str) -> Any:
        """Return the module or attribute that a name stands for; it is imported now.

        Raises:
          UserError: no such name (with the nearest one and all names), or an installed package whose module
            can't be imported.
        """
        self.check(name)
        module, _, attribute = self._places()[name].partition(":")
        try:
            found = importlib.import_module(module)
            return getattr(found, attribute) if attribute else found
        except (ImportError, AttributeError) as error:
            if name in self.known:
                raise  # a bug of this program
            raise UserError(
                f"config {self.kind}={name!r}: {module}, which an installed package registers in "
                f"{self.group}, can't be loaded ({error}); mend or remove that package"
            ) from error

    def check(self, name: str) -> None:
        """Raise a UserError unless there is such a name; nothing is imported."""
        names = self.names()
        if name not in names:
            nearest = self._nearest(name, names)
            hint = f"did you mean {nearest!r}? " if nearest else ""
            raise UserError(
                f"config {self.kind}={name!r}: there is none of that name, {hint}expected one of "
                f"{', '.join(names)}"
            )

    def _places(self) -> dict[str, str]:
        """Return name -> "module" or "module:attribute" of all names."""
        others = {one.name: one.value for one in entry_points(group=self.group)}
        return dict(self.known) | {name: others[name] for name in sorted(others.keys() - self.known.keys())}

    def _nearest(self, name: str, names: tuple[str, ...]) -> str | None:
        """Return the name that was most likely meant, or None."""
        said = _plain(name)
        means = {_plain(other): ours for other, ours in self.hints.items()} | {
            _plain(one): one for one in names
        }
        close = difflib.get_close_matches(said, means, n=1)
        return means[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").rpartition("/")[2]
