"""The decision on one sample: what it says, and what it leaves open."""

import re

import numpy as np
import pytest

from mvead_jax.bank.config import BankScoreConfig
from mvead_jax.decision.calibration import (
    Calibration,
    check_size,
    pattern_name,
    patterns,
    read_calibrations,
    write_calibrations,
)
from mvead_jax.decision.decide import OPTIMISTIC, decide, decide_by, located
from mvead_jax.runtime.errors import UserError

VIEWS = ("C1", "C2", "C3")
ALL = np.ones(3, bool)


def ids(count):
    return tuple(f"{n:03d}" for n in range(count))


def calibration_of(scores, independent=True, **others):
    """The scores with all views, and of other patterns under their names."""
    scores = np.asarray(scores, np.float32)
    others = {name: np.asarray(own, np.float32) for name, own in others.items()}
    return Calibration(VIEWS, ids(len(scores)), {"111": scores} | others, independent)


@pytest.fixture
def plain():
    """20 samples: C1 around 10, C2 around 1, C3 around 2."""
    rng = np.random.default_rng(0)
    return calibration_of(rng.normal(size=(20, 3)) * 0.1 + [10, 1, 2])


def test_a_sample_fails_if_its_highest_view_is_beyond_those_of_the_held_out(plain):
    highest = plain.scores["111"].max()
    assert decide(plain, [highest, 1, 2], ALL, 0.05).decision == "pass"  # a tie is no evidence
    found = decide(plain, [highest * 2, 1, 2], ALL, 0.05)
    assert (found.decision, found.p_value, found.score) == ("fail", 1 / 21, 2 * highest)
    assert found.threshold == highest
    assert found.text() == "defective: the sample scores 2.0 x its threshold; C1 2.0 x its view threshold"


def test_the_blamed_view_is_the_one_least_like_its_own_pictures_not_the_highest(plain):
    limit = plain.scores["111"].max()
    found = decide(plain, [limit + 0.01, 4, 2], ALL, 0.05)
    assert (found.decision, found.blamed) == ("fail", "C2")  # both p = 1/21, C2 is 3 times its threshold
    assert found.view("C1").p_value == found.view("C2").p_value == 1 / 21
    assert found.view("C3").p_value > 0.1
    assert found.ratio < found.view("C2").ratio
    assert re.fullmatch(
        "the sample scores 1.001 x its threshold; C2 3.* x its view threshold", found.reason()
    )


def test_whatever_fails_has_a_view_beyond_its_own_threshold():
    rng = np.random.default_rng(1)
    for _ in range(300):
        calibration = calibration_of(rng.normal(size=(19, 3)) + rng.normal(size=3) * 3)
        found = decide(calibration, rng.normal(size=3) * 3 + 3, ALL, 0.1)
        if found.decision == "fail":
            own = found.view(found.blamed)
            assert own.score > own.threshold
            assert own.p_value <= 0.1


def test_a_view_beyond_its_own_threshold_alone_does_not_fail_a_sample(plain):
    found = decide(plain, [9.9, 8, 2], ALL, 0.05)
    assert found.decision == "pass"
    assert found.view("C2").p_value == 1 / 21
    assert found.text().startswith("good: the sample scores 0.9")


def test_the_place_is_the_centre_of_the_highest_patch_in_stored_pixels(plain):
    maps = {"C1": np.zeros((4, 8), np.float32)}
    maps["C1"][3, 1] = 1
    found = located(decide(plain, [40, 1, 2], ALL, 0.05), maps, {"C1": (640, 400)})
    assert found.place == (120.0, 350.0)
    assert found.text().endswith("x its view threshold, at (120, 350)")


def test_scores_that_may_be_negative_are_told_without_a_ratio():
    calibration = calibration_of(np.linspace(-3, -1, 60).reshape(20, 3))
    found = decide(calibration, [-2, 1.5, -2], ALL, 0.1)
    assert (
        found.text()
        == "defective: the sample scores 1.5, its threshold is -1.1; C2 1.5, its view threshold is -1.14"
    )


@pytest.mark.parametrize("pattern", [[1, 0, 1], [0, 0, 1], [1, 1, 0]])
def test_without_fusion_a_missing_view_leaves_the_scores_of_the_others(plain, pattern):
    present = np.array(pattern, bool)
    own = plain.scores["111"][:, present]
    alone = Calibration(tuple(np.array(VIEWS)[present]), plain.samples, {"1" * own.shape[1]: own}, True)
    for scores in ([10.1, 1, 2.1], [9, 3, 8]):
        found = decide(plain, np.where(present, scores, np.nan), present, 0.05)
        expected = decide(alone, np.array(scores)[present], np.ones(own.shape[1], bool), 0.05)
        assert (found.decision, found.p_value, found.threshold) == (
            expected.decision,
            expected.p_value,
            expected.threshold,
        )
        assert found.views == expected.views
        assert found.missing == tuple(np.array(VIEWS)[~present])


def test_with_fusion_a_missing_view_asks_for_scores_without_it():
    rng = np.random.default_rng(2)
    full, lower = rng.random((20, 3)), rng.random((20, 3)) / 2
    calibration = calibration_of(full, independent=False, **{"110": lower})
    present = np.array([True, True, False])
    found = decide(calibration, [0.7, 0.1, np.nan], present, 0.05)
    assert (found.decision, found.threshold) == ("fail", lower[:, :2].max().astype(np.float32))
    found = decide(calibration, [np.nan, 0.1, 0.7], ~np.array([True, False, False]), 0.05)
    assert (found.decision, found.p_value, found.threshold) == ("undecided", None, None)
    assert found.text() == "undecided: 0 held-out samples scored without C1, too few for 0.05"


def test_held_out_samples_that_lack_a_view_calibrate_what_they_have(plain):
    plain.scores["111"][:5, 1] = np.nan
    assert decide(plain, [10, 1, 2], ALL, 0.05).decision == "undecided"
    assert decide(plain, [10, 1, 2], ALL, 0.1).calibration == 15
    present = np.array([True, False, True])
    assert decide(plain, [10, np.nan, 2], present, 0.05).calibration == 20


def test_a_score_that_is_no_number_is_no_decision(plain):
    with pytest.raises(ValueError, match="nan"):
        decide(plain, [np.nan, 1, 2], ALL, 0.05)
    with pytest.raises(ValueError, match="False"):
        decide(plain, [1, 1, 2], ~ALL, 0.05)


def test_a_threshold_of_test_labels_is_flagged():
    for lowest, decision in ((2.0, "fail"), (2.1, "pass")):
        found = decide_by(VIEWS, np.array([1, 2, np.nan]), np.array([True, True, False]), lowest)
        assert (found.decision, found.basis, found.p_value) == (decision, "test_labels", None)
        assert OPTIMISTIC in found.text()


def test_all_patterns_up_to_five_views_then_one_missing():
    for views in range(1, 6):
        names = [pattern_name(one) for one in patterns(views)]
        assert names[0] == "1" * views
        assert len(set(names)) == len(names) == 2**views - 1
        assert "0" * views not in names
    assert [pattern_name(one).count("0") for one in patterns(7)] == [0, *[1] * 7]


def test_a_calibration_survives_its_file(tmp_path, plain):
    other = calibration_of(np.full((3, 3), 0.25), independent=False, **{"011": np.ones((3, 3))})
    path = tmp_path / "decision.safetensors"
    scored = BankScoreConfig().deciding()
    write_calibrations(path, {"a/b": plain, "böl t": other}, scored, {"model": "x"})
    found, by, facts = read_calibrations(path)
    assert (by, facts) == (scored, {"model": "x"})
    assert list(found) == ["a/b", "böl t"]
    for own, expected in zip(found.values(), (plain, other), strict=True):
        assert (own.views, own.samples, own.independent) == (VIEWS, expected.samples, expected.independent)
        assert own.scores.keys() == expected.scores.keys()
        for name, rows in own.scores.items():
            np.testing.assert_array_equal(rows, expected.scores[name])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="not the calibration of a decision"):
        read_calibrations(path)


def test_only_settings_that_change_scores_tell_calibrations_apart():
    assert BankScoreConfig(weight=2, search="bfloat16").deciding() == BankScoreConfig().deciding()
    assert BankScoreConfig("epipolar", weight=2).deciding() != BankScoreConfig("epipolar").deciding()


@pytest.mark.parametrize(
    ("count", "target", "training", "fix"),
    [
        (12, 0.05, 40, "hold out more of the 40 by decision.held_out=0.475 or accept .*false_alarms=0.077"),
        (12, 0.05, None, "train with a larger decision.held_out or accept decision.false_alarms=0.077"),
        (
            0,
            0.1,
            8,
            "needs 9 good .* there are 0; take more than the 8 training samples",
        ),
    ],
)
def test_too_few_held_out_samples_are_refused_with_what_would_do(count, target, training, fix):
    with pytest.raises(UserError, match=fix) as error:
        check_size("pin", count, target, training)
    assert "\n" not in str(error.value)
    check_size("pin", 19, 0.05)
    check_size("pin", 12, 0.077)
