"""What study.json holds: schema.json, in the part of JSON Schema that it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


@cache
def schema() -> Mapping[str, Any]:
    """Return the schema."""
    return json.loads((Path(__file__).parent / "schema.json").read_text(encoding="utf-8"))


def problem_of(value: Any, wanted: Mapping[str, Any], place: str = "it") -> str:
    """Return the first thing in which a value does not fit a schema, or nothing."""
    if "enum" in wanted and value not in wanted["enum"]:
        return f"{place} is {value!r}, expected one of {', '.join(map(repr, wanted['enum']))}"
    if "type" in wanted and not any(_is_a(value, name) for name in _names(wanted["type"])):
        return f"{place} is {type(value).__name__}, expected {' or '.join(_names(wanted['type']))}"
    if isinstance(value, dict):
        own = wanted.get("properties", {})
        if lacking := [name for name in wanted.get("required", ()) if name not in value]:
            return f"{place} lacks {lacking[0]}"
        if wanted.get("additionalProperties") is False and (odd := sorted(value.keys() - own.keys())):
            return f"{place} has {odd[0]}, which is not known"
        parts = [(value[name], own[name], f"{place}.{name}") for name in value if name in own]
    elif isinstance(value, list) and "items" in wanted:
        parts = [(one, wanted["items"], f"{place}[{at}]") for at, one in enumerate(value)]
    else:
        parts = []
    return next((found for part in parts if (found := problem_of(*part))), "")


def _names(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else types


def _is_a(value: Any, name: str) -> bool:
    """Return whether a value is of a type of JSON; true and false are no numbers."""
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
