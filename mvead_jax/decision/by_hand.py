"""Thresholds of a user: one number for every category, or the file that the report saves.

    {"schema": "mvead_jax threshold 1", "model": "<scores_digest>", "thresholds": {"bolt": 52.3}}

A sample fails if its score is at least its category's threshold. The file names the model, and the settings of
its scores, by the digest that the protocol of the report has as `scores_digest`: it is refused for any other.
No false-alarm rate is promised, for whoever sets a threshold may have looked at the scores before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json
from mvead_jax.runtime.paths import expanded

SCHEMA = "mvead_jax threshold 1"


def scores_digest(models: str, scored: Mapping[str, Any]) -> str:
    """Return what tells scores that one threshold fits from others.

    Args:
      models: digest of the files of the models. scored: settings, as `ScoreConfig.deciding`.
    """
    return hashlib.sha256(json.dumps([models, dict(scored)], sort_keys=True).encode()).hexdigest()


def number_of(text: str) -> float | None:
    """Return the threshold that a text is, with the precision of scores; None if it is no number.

    Raises:
      UserError: a number that is not finite.
    """
    try:
        value = float(text)
    except ValueError:
        return None
    if not _is_number(value):
        raise UserError(f"threshold {text}: must be a finite number")
    return float(np.float32(value))


def check_before_training(text: str) -> None:
    """Raise UserError unless decision.threshold is empty or a number: a file belongs to a trained model."""
    if text and number_of(text) is None:
        raise UserError(
            f"config decision.threshold={text!r}: is no number; a file belongs to a trained model: name it by "
            "score.py --threshold"
        )


def thresholds_of(text: str, categories: Sequence[str], digest: str) -> dict[str, float]:
    """Return the threshold of each category; none where `text` is empty.

    Args:
      text: decision.threshold: a number, or the path of a file.
      digest: `scores_digest` of the scores that are decided about.

    Raises:
      UserError: neither a number nor such a file; one of another model, or without one of the categories.
    """
    if not text:
        return {}
    if (value := number_of(text)) is not None:
        return dict.fromkeys(categories, value)
    path = expanded(text)
    if not os.path.isfile(path):  # which takes any text, however long
        raise UserError(f"threshold {text!r}: neither a number nor a file; name one of them")
    return _read(path, categories, digest)


def _read(path: Path, categories: Sequence[str], digest: str) -> dict[str, float]:
    content = read_json(path, "a file of thresholds that the report saved")
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        model, found = content["model"], dict(content["thresholds"])
        if odd := [name for name, value in found.items() if not _is_number(value)]:
            raise ValueError(f"threshold of {odd[0]}: {found[odd[0]]!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no file of thresholds ({error}); save it from the report") from None
    if model != digest:
        raise UserError(
            f"{path}: chosen for another model, or for scores by other settings (section score); choose the "
            "threshold in the report of this run"
        )
    if lacking := [name for name in categories if name not in found]:
        raise UserError(
            f"{path}: no threshold of {', '.join(lacking)}; choose one in the report and save the file again, or "
            "score the others by --config.data.categories"
        )
    return {name: float(np.float32(found[name])) for name in categories}


def _is_number(value: Any) -> bool:
    limit = float(np.finfo(np.float32).max)
    return isinstance(value, int | float) and not isinstance(value, bool) and -limit <= value <= limit
