"""The JSON of a result: values, types and the table of docs/serving.md say the same keys, and all is plain JSON."""

import json
import re
import types
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
import pytest

from mvead_jax.decision.calibration import Calibration
from mvead_jax.decision.decide import decide, decide_by, located
from mvead_jax.serving.inspection import Inspection
from mvead_jax.serving.result import DecisionJson, ResultJson, ViewJson

ROOT = Path(__file__).parents[2]
VIEWS = ("left", "right", "top")
SAMPLES = tuple(map(str, range(20)))
SCORES = {"111": np.arange(60, dtype=np.float32).reshape(20, 3)}
HELD_OUT = Calibration(VIEWS, SAMPLES, SCORES, independent=True)
DECISIONS = {
    "none": lambda scores, present: None,
    "held out": lambda scores, present: decide(HELD_OUT, scores, present, 0.1),
    "undecided": lambda scores, present: decide(HELD_OUT, scores, present, 0.01),
    "by the user": lambda scores, present: decide_by(VIEWS, scores, present, 40.0, basis="user"),
}


def inspection(kind, present):
    maps = np.arange(12, dtype=np.float32).reshape(3, 2, 2) * 7
    maps[~present] = np.nan
    scores = maps.max((1, 2))
    sizes = {view: (64, 48) for view, has in zip(VIEWS, present, strict=True) if has}
    found = DECISIONS[kind](scores, present)
    if found is not None:
        found = located(found, dict(zip(VIEWS, maps, strict=True)), sizes)
    return Inspection("lid", VIEWS, maps, scores, scores, sizes, decision=found, warnings=("too tall",))


def conforms(value, kind):
    """Whether a value is of a type of result.py, and of exactly that: an int of NumPy is none of Python."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        same = isinstance(value, dict) and list(value) == list(hints)
        return same and all(conforms(value[key], hints[key]) for key in hints)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin is types.UnionType:
        return any(conforms(value, one) for one in inner)
    if origin is list:
        return type(value) is list and all(conforms(one, inner[0]) for one in value)
    if origin is dict:
        return type(value) is dict and all(
            type(key) is str and conforms(value[key], inner[1]) for key in value
        )
    return value is None if kind is type(None) else type(value) is kind


@pytest.mark.parametrize("missing", [False, True], ids=["all views", "one missing"])
@pytest.mark.parametrize("kind", DECISIONS)
def test_a_result_has_exactly_the_types_that_are_told_and_comes_back_from_its_text(kind, missing):
    found = inspection(kind, np.array([True, not missing, True]))
    assert conforms(found.as_json(), ResultJson), found.as_json()
    assert json.loads(found.to_json()) == found.as_json()
    assert "\n" not in found.to_json()
    assert (found.as_json()["decision"] is None) == (kind == "none")
    assert found.as_json()["missing"] == (["right"] if missing else [])


def test_what_conforms_is_not_what_is_only_similar():
    found = inspection("held out", np.ones(3, bool)).as_json()
    assert not conforms({**found, "score": np.float32(1)}, ResultJson)
    assert not conforms({**found, "missing": ("left",)}, ResultJson)
    assert not conforms({key: found[key] for key in found if key != "text"}, ResultJson)
    assert not conforms({**found, "decision": {**found["decision"], "basis": "guess"}}, ResultJson)


def test_the_documentation_lists_every_key_in_its_order():
    text = (ROOT / "docs/serving.md").read_text().split("### The result as JSON")[1]
    told = re.findall(r"^\| `([\w.]+)` \|", text.split("Latency")[0], re.MULTILINE)
    assert told == [*get_type_hints(ResultJson), *(f"decision.{key}" for key in get_type_hints(DecisionJson))]
    assert all(f"`{key}`" in text for key in get_type_hints(ViewJson))
