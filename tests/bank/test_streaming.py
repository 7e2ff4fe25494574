import numpy as np
import pytest

from mvead_jax.bank import streaming as module
from mvead_jax.bank.coreset import greedy_coreset
from mvead_jax.bank.streaming import streaming_coreset


def features(rows=3000, width=24, seed=0):
    random = np.random.default_rng(seed)
    centres = 5 + 4 * random.normal(size=(40, width))
    return (centres[np.sort(random.integers(40, size=rows))] + random.normal(size=(rows, width))).astype("f4")


def blocks_of(rows, *lengths):
    """Blocks of those lengths, over and over."""
    at, turn = 0, 0
    while at < len(rows):
        yield rows[at : at + lengths[turn % len(lengths)]]
        at, turn = at + lengths[turn % len(lengths)], turn + 1


def radius(points, chosen):
    return np.sqrt(np.stack([((points - points[c]) ** 2).sum(1) for c in chosen]).min(0).max())


@pytest.mark.parametrize("lengths", [(3000,), (700, 1, 41)])
def test_what_fits_is_selected_as_if_it_were_in_memory(lengths, monkeypatch):
    rows = features()
    monkeypatch.setattr(module, "_READ_ELEMENTS", 1200 * 24)
    found = streaming_coreset(blocks_of(rows, *lengths), 100, seed=2, projection_dim=8)
    np.testing.assert_array_equal(found, greedy_coreset(rows, 100, seed=2, projection_dim=8))


def test_what_does_not_fit_keeps_the_stated_radius():
    """Sorted by cluster, so that every block is news."""
    rows = features()
    exact = radius(rows, greedy_coreset(rows, 60, seed=0, projection_dim=None))
    found = streaming_coreset(blocks_of(rows, 250), 60, seed=0, projection_dim=24, most_rows=400)
    assert len(set(found.tolist())) == 60
    assert found.max() < 3000
    assert radius(rows, found) < 1.3 * exact  # the bound is 2 (t + 1) times the best possible radius


def test_fewer_rows_than_asked_for_are_all_taken():
    np.testing.assert_array_equal(streaming_coreset(blocks_of(features(10), 4), 20, seed=0), np.arange(10))


@pytest.mark.parametrize(
    ("blocks", "settings", "message"),
    [
        ([], {}, "no rows"),
        ([np.ones((3, 2))], {"size": 0}, "size=0"),
        ([np.ones((3, 2))], {"most_rows": 3}, "at least twice size"),
        ([np.ones((3, 2)), np.ones((3, 4))], {}, r"\(3, 4\) must be"),
        ([np.ones((3, 2)), np.full((3, 2), np.nan)], {}, "row 3 are not finite"),
    ],
)
def test_what_it_cannot_take_is_refused(blocks, settings, message):
    with pytest.raises(ValueError, match=message):
        streaming_coreset(blocks, **({"size": 2, "seed": 0} | settings))
