import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mvead_jax.evaluation import metrics
from mvead_jax.evaluation.ranking import curve
from mvead_jax.report.charts import HEIGHT, WIDTH, _path, histogram, precision_recall, roc, round_ticks
from mvead_jax.report.heat import halves, heat_colours, heat_scale
from mvead_jax.report.thumbnails import outline, read_outline


def points(path):
    return np.array([pair.split() for pair in path.removeprefix("M").rstrip("Z").split("L")], float)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=40))
def test_the_area_under_the_curves_is_the_metric_beside_them(pairs):
    scores, labels = map(np.array, zip((9, 0), (0, 1), *pairs, strict=True))
    ranked = curve(scores, labels)
    false, true = roc(ranked)
    assert np.trapezoid(true, false) == pytest.approx(metrics.auroc(ranked).value)
    recall, precision = precision_recall(ranked)
    assert np.trapezoid(precision, recall) == pytest.approx(metrics.average_precision(ranked).value)


def test_a_path_keeps_its_ends_and_bends_only():
    x = np.linspace(0, 1, 1001)
    assert points(_path(x, x)).tolist() == [[0, HEIGHT], [WIDTH, 0]]
    step = points(_path(np.repeat([0.0, 0.5, 1], 2), np.array([0, 0.25, 0.25, 1, 1, 1])))
    assert step.tolist() == [[0, 120], [0, 90], [98, 90], [98, 0], [196, 0]]


def test_a_histogram_counts_every_sample_once():
    scores = np.array([1.0, 2, 2, 3, 10])
    found = histogram(scores, np.array([0, 0, 0, 1, 1]), 4.0)
    assert found["counts"] == {0: 3, 1: 2}
    for label, count in found["counts"].items():
        heights = HEIGHT - points(found["steps"][label])[:, 1]
        assert heights[1:-1:2].sum() * found["top"] / HEIGHT == pytest.approx(count, abs=0.05)
    assert found["threshold"] == pytest.approx(WIDTH / 3)
    assert histogram(np.array([2.0]), np.array([-1]), None)["counts"] == {-1: 1}


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_are_a_few_numbers_within_the_axis(low, width):
    ticks = round_ticks(low, low + width)
    assert 2 <= len(ticks) <= 5
    assert min(ticks) >= low - 1e-4 * width
    assert max(ticks) <= low + width * (1 + 1e-4)


def test_heat_begins_at_nine_tenths_and_numbers_survive():
    values = np.arange(1001, dtype=np.float32)
    assert heat_scale(values) == pytest.approx((900, 999))
    assert heat_scale(np.append(values, np.nan)) == pytest.approx((900, 999))
    colours = heat_colours()
    assert len(colours) == 256
    assert len(set(colours)) > 250
    assert halves(np.array([1.0])) == "ADw="


def test_an_outline_goes_round_pieces_and_holes():
    mask = np.zeros((40, 40), bool)
    mask[4:20, 4:20] = True
    mask[10:14, 10:14] = False
    mask[30, 30] = True
    pieces = outline(mask).removesuffix("Z").split("Z")
    boxes = sorted((points(piece).min(0).tolist(), points(piece).max(0).tolist()) for piece in pieces)
    expected = [([100, 100], [500, 500]), ([250, 250], [350, 350]), ([750, 750], [775, 775])]
    for (low, high), (wanted_low, wanted_high) in zip(boxes, expected, strict=True):
        assert low == pytest.approx(wanted_low, abs=3)
        assert high == pytest.approx(wanted_high, abs=3)
    assert outline(np.zeros((5, 5), bool)) == ""


def test_an_outline_goes_round_what_labels_call_a_defect(tmp_path):
    levels = np.zeros((40, 40), np.uint8)
    levels[10:14, 10:14] = 128
    levels[14:16, 10:14] = 127  # as a soft edge has it: an area at a level between is refused
    Image.fromarray(levels).save(tmp_path / "mask.png")
    assert read_outline(tmp_path / "mask.png") == outline(levels == 128) != ""
