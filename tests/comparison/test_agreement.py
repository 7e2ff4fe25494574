import numpy as np
import pytest

from mvead_jax.comparison.agreement import rank_changes, score_differences


def test_differences_are_relative_to_the_median_score():
    found = score_differences(np.array([1.0, 2.0, 0.0]), np.array([1.0, 2.5, 0.25]))
    assert (found["equal"], found["count"], found["at"]) == (1, 3, 1)
    assert found["largest"] == found["relative_largest"] == 0.5
    assert found["relative_mean"] == pytest.approx(0.25)


def test_a_nan_is_the_largest_difference_and_agrees_with_nothing():
    found = score_differences(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    assert not found["relative_largest"] <= 1e9


def test_two_that_change_places_move_both():
    found = rank_changes(np.array([3.0, 2.0, 1.0, 0.0]), np.array([2.0, 3.0, 1.0, 0.0]))
    assert (found["moved"], found["count"]) == (2, 4)
    assert found["kendall_tau"] == pytest.approx(4 / 6)
    assert rank_changes(np.array([1.0]), np.array([2.0]))["moved"] == 0
