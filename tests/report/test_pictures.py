import numpy as np
import pytest
from fake_realiad import write_realiad
from PIL import Image

from mvead_jax.data.realiad import load_index
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.report.pictures import _telling, draw_category, heat_scale


@pytest.fixture
def found(tmp_path):
    index = load_index(write_realiad(tmp_path, size=40), ["cap"]).select(split="test")
    rng = np.random.default_rng(0)
    return index.root, [
        ScoredSample(one, index.views, rng.random((5, 4, 4), np.float32) + 5 * bool(one.label))
        for one in index.samples
    ]


def drawn(root, found, path, scale=None):
    scale = scale or heat_scale(np.concatenate([one.maps.ravel() for one in found]))
    draw_category(root, found, path, scale, "these samples")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_sheet_is_the_same_each_time_and_shows_the_heat(found, tmp_path):
    root, samples = found
    first = drawn(root, samples, tmp_path / "a.png")
    assert (first == drawn(root, samples, tmp_path / "b.png")).all()
    flat = [ScoredSample(one.sample, one.views, np.zeros_like(one.maps)) for one in samples]
    colourful = np.ptp(first, axis=2).max()
    assert colourful > 60
    assert np.ptp(drawn(root, flat, tmp_path / "c.png"), axis=2).max() < 20  # the pictures are grey


def test_the_outline_of_the_defect_is_drawn(found, tmp_path):
    root, samples = found
    flat = [
        ScoredSample(one.sample, one.views, np.zeros_like(one.maps)) for one in samples if one.sample.label
    ]
    with_outline = drawn(root, flat, tmp_path / "a.png")
    for one in flat:
        for view in one.sample.views:
            if view.mask:
                Image.new("L", (40, 40)).save(root / view.mask)
    assert (with_outline != drawn(root, flat, tmp_path / "b.png")).any()


def test_a_mask_of_zeros_and_ones_has_an_outline_too(found, tmp_path):
    root, samples = found
    first = drawn(root, samples, tmp_path / "a.png")
    for one in samples:
        for view in one.sample.views:
            if view.mask:
                with Image.open(root / view.mask) as mask:
                    ones = (np.asarray(mask) > 0).astype(np.uint8)
                Image.fromarray(ones).save(root / view.mask)
    assert (drawn(root, samples, tmp_path / "b.png") == first).all()


def test_calm_samples_stay_calm_on_the_scale_of_others(found, tmp_path):
    root, samples = found
    normal = [one for one in samples if not one.sample.label]
    bare = drawn(root, normal, tmp_path / "a.png", (9.0, 10.0))
    assert np.ptp(bare, axis=2).max() < 20  # no heat
    assert np.ptp(drawn(root, normal, tmp_path / "b.png"), axis=2).max() > 60


def test_a_missing_view_leaves_its_place_empty(found, tmp_path):
    root, samples = found
    one = samples[0]
    less = ScoredSample(
        type(one.sample)(one.sample.id, "cap", "test", one.sample.views[1:]), one.views, one.maps.copy()
    )
    less.maps[0] = np.nan
    assert drawn(root, [less], tmp_path / "a.png").size


def test_telling_samples_are_the_extremes_each_once(found):
    _, samples = found
    chosen = _telling(samples)
    assert len({one.sample.id for _, one in chosen}) == len(chosen) == 5
    assert max(samples, key=lambda one: one.score) is chosen[0][1]
    reasons = [why for why, _ in chosen]
    assert reasons == ["defective, highest"] * 2 + ["defective, lowest", "normal, highest", "normal, lowest"]
