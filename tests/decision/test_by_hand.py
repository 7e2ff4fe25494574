"""A user's threshold: what is read as one, what is refused, and what it amounts to."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvead_jax.decision.by_hand import SCHEMA, check_before_training, scores_digest, thresholds_of
from mvead_jax.decision.calibration import Calibration
from mvead_jax.decision.conformal import threshold
from mvead_jax.decision.decide import BY_USER, decide_by
from mvead_jax.runtime.errors import UserError

MODEL = scores_digest("models", {"evidence": "none"})


def saved(path, **changes):
    content = {"schema": SCHEMA, "model": MODEL, "thresholds": {"bolt": 52.3, "cap": 1}} | changes
    path.write_text(json.dumps(content))
    return str(path)


def test_a_number_is_the_threshold_of_every_category_and_a_file_has_one_for_each(tmp_path):
    assert thresholds_of("", ["bolt"], MODEL) == {}
    assert thresholds_of("-1.5", ["bolt", "cap"], MODEL) == {"bolt": -1.5, "cap": -1.5}
    found = thresholds_of(saved(tmp_path / "threshold.json"), ["cap", "bolt"], MODEL)
    assert found == {"cap": 1.0, "bolt": float(np.float32(52.3))}


def test_what_is_no_threshold_is_refused_in_one_line(tmp_path):
    path = tmp_path / "threshold.json"
    other = scores_digest("models", {"evidence": "all"})
    cases = {
        "52,3": "threshold '52,3': neither a number nor a file",
        "x" * 5000: "neither a number nor a file",
        "nan": "threshold nan: must be a finite number",
        "1e300": "threshold 1e300: must be a finite number",
        saved(path): None,
        saved(tmp_path / "a", schema="something"): "no file of thresholds .*schema 'something'",
        saved(tmp_path / "b", thresholds={"bolt": "52"}): "threshold of bolt: '52'",
        saved(tmp_path / "c", thresholds={"bolt": 10**400}): "no file of thresholds",
        saved(tmp_path / "d", thresholds=[1]): "no file of thresholds",
        saved(tmp_path / "e", model=other): "chosen for another model, or for scores by other settings",
        saved(tmp_path / "f", thresholds={"bolt": 1.0}): "no threshold of cap; choose one in the report",
    }
    for text, message in cases.items():
        if message is None:
            thresholds_of(text, ["bolt", "cap"], MODEL)
            continue
        with pytest.raises(UserError, match=message) as error:
            thresholds_of(text, ["bolt", "cap"], MODEL)
        assert "\n" not in str(error.value)


def test_a_training_takes_numbers_only(tmp_path):
    for text in ("", "3", "-0.5"):
        check_before_training(text)
    with pytest.raises(UserError, match="a file belongs to a trained model"):
        check_before_training(saved(tmp_path / "threshold.json"))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(-1, 11))
def test_the_target_that_a_threshold_amounts_to_makes_no_higher_threshold(held_out, lowest):
    """Whatever fails by the user's threshold fails by the conformal one of that target too."""
    held_out = np.array(held_out, np.float32)
    calibration = Calibration(("C1",), tuple(map(str, range(len(held_out)))), {"1": held_out[:, None]}, True)
    of_score = {}
    for score in range(-1, 12):
        made = decide_by(
            ("C1",), np.array([score], np.float32), np.ones(1, bool), lowest, "max", "user", calibration
        )
        of_score[score] = made
        assert (made.decision == "fail") == (score >= lowest)
    target = of_score[0].false_alarms
    assert target == (1 + sum(held_out >= lowest)) / (len(held_out) + 1)
    if target < 1:
        conformal = threshold(held_out, target + 1e-9)  # 2/6 as a decimal is less than 2/6
        assert conformal < lowest
    for made in of_score.values():
        assert made.p_value <= target or made.decision == "pass"


def test_a_score_that_is_typed_as_it_is_printed_fails():
    score = np.float32(52.3)  # a little less than 52.3
    lowest = thresholds_of("52.3", ["bolt"], MODEL)["bolt"]
    made = decide_by(("C1",), np.array([score]), np.ones(1, bool), lowest, "max", "user")
    assert made.decision == "fail"
    assert made.reason() == f"the sample scores 1.0 x its threshold; highest in C1 ({BY_USER})"
    assert made.p_value is None
    assert np.isnan(made.false_alarms)
