"""The checks of a study: what they compare with, and that they find what is wrong."""

import numpy as np
import pytest

from mvead_jax.methods.checks import Check
from mvead_jax.methods.registry import METHODS
from mvead_jax.study.backbone_checks import backbone_checks
from mvead_jax.study.bank_checks import bank_checks
from mvead_jax.study.correctness import checked
from mvead_jax.study.references import all_checks, largest_difference, read_references, sampled

OWN = {
    name for name, place in METHODS.known.items() if place.startswith("mvead_jax.")
}  # tests register toys too


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in all_checks(read_references()[1])}


def test_every_method_of_the_program_has_a_reference(checks):
    values, recipes = read_references()
    assert {f"scores {name}" for name in OWN} <= values.keys()
    assert recipes.keys() == OWN
    assert values.keys() <= checks.keys()


@pytest.mark.parametrize(
    "name", ["search float32", "search bfloat16", "hull", "attention banded, gather", "objective"]
)
def test_a_check_passes_and_its_reference_is_what_float64_gives_now(checks, name):
    values = read_references()[0][name]
    assert checked(checks[name], values)["status"] == "passed"
    again = checks[name].expected()
    for output, value in values.items():
        np.testing.assert_allclose(sampled(again[output]), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["padim", "rd4ad"])
def test_the_scores_of_a_method_are_those_of_float64(checks, name):
    found = checked(checks[f"scores {name}"], read_references()[0][f"scores {name}"])
    assert found["status"] == "passed"
    assert 0 < found["largest"] < 1e-5


def test_golden_samples_tell_something(checks):
    """Scores that are all the same, or zero, would hide an error."""
    for name in OWN:
        maps = read_references()[0][f"scores {name}"]["maps"]
        assert np.isfinite(maps).all()
        assert maps.std() > 1e-3 * np.abs(maps).max() > 0, name


def test_a_backbone_in_bfloat16_fails_the_check_of_float32():
    (check,) = [own for own in backbone_checks("bfloat16") if own.name == "backbone efficientnet-lite0"]
    found = checked(check, read_references()[0][check.name])
    assert found["status"] == "failed"
    assert "off by" in found["reason"]


def test_a_difference_is_relative_to_the_root_mean_square():
    expected = {"x": np.array([3.0, -4.0]), "n": np.array([1, 2])}
    assert largest_difference({"x": np.float32([3, -4]), "n": np.array([1, 2])}, expected) == 0
    off = largest_difference({"x": np.float32([3, -4.5]), "n": np.array([1, 2])}, expected)
    assert off == pytest.approx(0.5 / np.sqrt(12.5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": np.float32([3, np.nan]), "n": np.array([1, 2])},
        {"x": np.float32([3, -4]), "n": np.array([1, 3])},
        {"x": np.float32([3, -4, 1]), "n": np.array([1, 2])},
        {"x": np.float32([3, -4])},
    ],
)
def test_no_number_another_index_another_shape_or_a_missing_output_is_no_small_difference(wrong):
    assert largest_difference(wrong, {"x": np.array([3.0, -4.0]), "n": np.array([1, 2])}) == np.inf


def test_a_wrong_neighbour_is_found():
    (check, *_) = bank_checks()

    def swapped():
        found = dict(check.compute())
        return found | {"index": np.asarray(found["index"])[:, ::-1]}

    wrong = Check(check.name, swapped, check.expected, check.tolerance, 1)
    assert checked(wrong, read_references()[0][check.name])["status"] == "failed"
