"""Pixel metrics counted in strips of score: near the exact ones with many strips, ADEval's with few."""

import numpy as np
import pytest

from mvead_jax.evaluation.pixels import pixel_metrics
from mvead_jax.evaluation.strips import strip_metrics


def drawn(seed=0, count=6, side=24):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), bool)
    masks[: count // 2, 4:9, 5:12] = masks[1, 15:20, 15:20] = True
    maps = rng.normal(size=masks.shape) + 1.2 * masks
    return maps.astype(np.float32), masks


def in_pieces(maps, masks):
    return lambda: ((maps[at : at + 2], masks[at : at + 2]) for at in range(0, len(maps), 2))


def test_many_strips_come_near_the_exact_metrics_and_few_do_not():
    batches = in_pieces(*drawn())
    exact = {name: own.value for name, own in pixel_metrics(batches).bounds.items()}
    fine = strip_metrics(batches, 100_000, f1_steps=20_000)
    coarse = strip_metrics(batches, 5, f1_steps=4)
    assert fine.keys() == exact.keys()
    for name, value in exact.items():
        assert fine[name] == pytest.approx(value, abs=0.01)  # the highest score counts twice
    assert max(abs(coarse[name] - exact[name]) for name in exact) > 0.02


def test_the_metrics_do_not_depend_on_how_the_maps_are_read():
    maps, masks = drawn()
    whole, pieces = lambda: [(maps, masks)], in_pieces(maps, masks)
    one, other = (strip_metrics(own, 50, f1_steps=20) for own in (whole, pieces))
    assert one == pytest.approx(other, abs=1e-12)


def test_the_curves_of_three_strips_are_those_drawn_by_hand():
    maps = np.array([[[0.0, 0.5, 1.5, 3.0, 2.5, 1.2]]], np.float32)
    masks = np.array([[[False, False, True, True, False, False]]])
    # Defects from the highest: 1 above all strips, 1 in (2, 3] (the highest again), 1 in [1, 2); normals 0, 1, 1, 2.
    recall, fpr = np.array([1, 2, 3, 3]) / 3, np.array([0, 1, 2, 4]) / 4
    found = strip_metrics(lambda: [(maps, masks)], 3)
    assert found["auroc"] == pytest.approx(np.trapezoid(recall, fpr))
    assert found["ap"] == pytest.approx(np.trapezoid(np.array([1, 2 / 3, 3 / 5, 3 / 7]), recall))


@pytest.mark.parametrize("masked", [np.zeros, np.ones], ids=["no defect", "no normal pixel"])
def test_what_is_not_defined_is_no_number(masked):
    maps, masks = drawn()
    found = strip_metrics(lambda: [(maps, masked(masks.shape, bool))], 50, f1_steps=20)
    assert np.isnan(list(found.values())).all()
    assert np.isnan(list(strip_metrics(lambda: [(np.zeros_like(maps), masks)], 50).values())).all()


def test_curves_end_at_the_bounds_so_that_scores_outside_them_cost_area():
    maps, masks = drawn()
    found = strip_metrics(in_pieces(maps, masks), 5000, bounds=(-1.0, 2.0))
    clipped = strip_metrics(in_pieces(np.clip(maps, -1, 2), masks), 5000, bounds=(-1.0, 2.0))
    assert found["auroc"] < clipped["auroc"] - 0.1
