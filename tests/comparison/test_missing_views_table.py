"""The table of runs with views left out: means over draws and cells, and what is lost in the same cells."""

import math

import pytest

from mvead_jax.comparison.missing_views_table import missing_views_table
from mvead_jax.jobs.missing_views import Left


def test_a_cell_is_the_mean_of_its_draws_and_losses_are_of_the_same_cells():
    lines = [Left("usb", 0, 0, 0.9, 0.9), Left("usb", 1, 0, 0.7, 0.8), Left("usb", 1, 1, 0.5, math.nan)]
    other = [Left("usb", 0, 0, 0.8, 0.8), Left("usb", 1, 0, 0.4, 0.6), Left("usb", 1, 1, 0.4, 0.6)]
    nothing = [Left("usb", 0, 0, math.nan, math.nan)]
    table = missing_views_table({"run": {"a": lines, "b": other, "c": nothing}}, {"run": {}}, 2, 0)
    (row,) = table.content["rows"]
    assert row["sample AUROC"]["0"]["mean"] == pytest.approx(85)
    assert row["sample AUROC"]["1"] == pytest.approx({"mean": 50, "error": 10})
    assert row["defects still seen"]["1"]["mean"] == pytest.approx(
        60
    )  # a draw without a seen defect has none
    assert row["cells"]["0"] == pytest.approx({"a/usb": 90, "b/usb": 80})
    assert "-35.0 +/- 5.0" in table.text  # -30 and -40


def test_a_run_that_cannot_do_without_so_many_views_has_no_figure_there():
    found = {
        "one": {"a": [Left("usb", 0, 0, 0.9, 0.9), Left("usb", 1, 0, 0.8, 0.8)]},
        "joint": {"a": [Left("usb", 0, 0, 0.9, 0.9)]},
    }
    table = missing_views_table(found, {"one": {}, "joint": {}}, 1, 0)
    assert table.content["rows"][1]["sample AUROC"]["1"]["mean"] is None
