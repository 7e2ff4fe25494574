"""Rates of decisions on labelled samples."""

import math

import pytest
from scipy import stats

from mvead_jax.decision.rates import clopper_pearson, format_decisions, rates


@pytest.mark.parametrize(("hits", "count"), [(0, 16), (1, 16), (8, 16), (16, 16), (0, 1), (37, 400)])
def test_intervals_are_scipys_exact_ones(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(method="exact")
    assert clopper_pearson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_rates_count_what_is_decided_and_labelled():
    decisions = ["fail", "pass", "undecided", "fail", "pass", "undecided", "fail"]
    found = rates(decisions, [0, 0, 0, 1, 1, 1, None])
    assert {word: found[word] for word in ("pass", "fail", "undecided")} == {
        "pass": 2,
        "fail": 3,
        "undecided": 2,
    }
    for key in ("false_alarms", "detections"):
        own = found[key]
        assert (own["rate"], own["count"], own["of"], own["undecided"]) == (0.5, 1, 2, 1)
        assert own["interval"] == list(clopper_pearson(1, 2))
    found = rates(["pass"], [None])
    assert math.isnan(found["false_alarms"]["rate"])
    assert found["false_alarms"]["interval"] == [0.0, 1.0]


def test_the_terminal_hears_rates_and_their_basis_or_nothing():
    levels = {"decision": rates(["fail", "pass", "pass"], [1, 0, 0])}
    told = format_decisions({"protocol": {"decision": "so it was"}, "categories": {"pin": levels}})
    assert "pin: 1 fail, 2 pass; false alarms 0 of 2 (0.0 %, 95 % 0.0 to 84.2); found 1 of 1" in told
    assert told.endswith("so it was")
    assert format_decisions({"protocol": {}, "categories": {"pin": {}}}) == ""
