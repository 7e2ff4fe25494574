"""What study.json holds: schema.json, a JSON Schema."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

_MOST = 200  # characters of a message, which repeats the value


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads((Path(__file__).parent / "schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema)


def problem_of(study: Any) -> str:
    """Return where a value does not fit the schema and how, in one line; nothing if it fits."""
    error = best_match(_validator().iter_errors(study))
    return "" if error is None else f"{error.json_path}: {error.message}"[:_MOST]
