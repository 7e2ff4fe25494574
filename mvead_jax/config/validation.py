"""Whether the values of a config have the types and lie within the bounds that its dataclasses state."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable
from typing import Any, Literal

from mvead_jax.runtime.errors import UserError

_TITLES = {str: "names", int: "whole numbers", float: "numbers"}


def number(
    default: float,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a field of a config whose number has bounds: at least, at most, above, below."""
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def check_config(node: Any, prefix: str = "") -> None:
    """Check every field of a config and of its sections.

    Raises:
      UserError: a value of another type than its field's, one that is no choice of a Literal (with the nearest
        choice), or one outside the bounds of `number`.
    """
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        name, value, kind = f"{prefix}{field.name}", getattr(node, field.name), hints[field.name]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, kind):
                raise UserError(f"config {name}={value!r}: expected a section {kind.__name__}")
            check_config(value, f"{name}.")
        else:
            checked(kind, value, name)
            _check_bounds(value, name, field.metadata.get("bounds", {}))


def checked(kind: Any, value: Any, name: str) -> Any:
    """Return `value` if it is of a field's type: str, int, float, bool, a Literal of texts, or a tuple of one type.

    A list becomes a tuple, and a whole number a float where the field wants one.

    Raises:
      UserError: it is of another type, or no choice of the Literal.
    """
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed:
            raise UserError(
                f"config {name}={value!r}: expected one of {', '.join(allowed)}{nearest(value, allowed)}"
            )
        return value
    if typing.get_origin(kind) is tuple:
        part = typing.get_args(kind)[0]
        if not isinstance(value, list | tuple) or not all(type(own) is part for own in value):
            raise UserError(f"config {name}={value!r}: expected a list of {_TITLES[part]}")
        return tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"config {name}={value!r}: expected {kind.__name__}")
    return value


def _check_bounds(value: Any, name: str, bounds: dict[str, float | None]) -> None:
    stated = {words: bound for words, bound in bounds.items() if bound is not None}
    if not stated:
        return
    holds = {
        "at least": lambda bound: value >= bound,
        "at most": lambda bound: value <= bound,
        "above": lambda bound: value > bound,
        "below": lambda bound: value < bound,
    }
    # A number that is not finite lies within no bounds.
    if not math.isfinite(value) or not all(holds[words](bound) for words, bound in stated.items()):
        told = " and ".join(f"{words} {bound:g}" for words, bound in stated.items())
        finite = "" if math.isfinite(value) else "a finite number, "
        raise UserError(f"config {name}={value}: must be {finite}{told}")


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return a hint at the name that was meant, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
