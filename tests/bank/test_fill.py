import numpy as np
import pytest

from mvead_jax.bank.fill import NOBODY, Keep, PatchRows, fill

# Sample 1 lacks view 2, sample 3 lacks view 0.
PICTURES = np.array([(0, 0), (1, 0), (2, 0), (4, 0), (0, 2), (2, 2), (3, 2), (4, 2)])


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(5, 3, 7, 4)).astype("f4")


@pytest.fixture
def rows(features):
    return PatchRows(features, PICTURES)


def test_slices_and_picks_are_those_of_the_patches_one_after_the_other(features, rows):
    plain = np.concatenate([features[s, v] for s, v in PICTURES])
    assert rows.shape == plain.shape
    for start, stop in ((0, 56), (3, 5), (6, 8), (20, 41), (50, 99), (12, 12)):
        np.testing.assert_array_equal(rows[start:stop], plain[start:stop])
    picks = np.array([55, 0, 29, 7, 28])
    np.testing.assert_array_equal(rows.take(picks), plain[picks])
    np.testing.assert_array_equal(rows.sample[[0, 7, 27, 28, 55]], [0, 1, 4, 0, 4])


def test_one_view_of_an_array_is_not_copied(features):
    whole = features.swapaxes(0, 1).copy().swapaxes(0, 1)  # a view lies in one piece, as attended features do
    pictures = np.array([(s, 1) for s in range(5)])
    assert np.shares_memory(fill(PatchRows(whole, pictures), Keep(), 0).rows, whole)


@pytest.mark.parametrize("projection", [0, 2])
def test_a_coreset_is_some_of_the_rows_and_knows_whose(features, rows, projection):
    bank = fill(rows, Keep("coreset", 0.25, projection), seed=3)
    assert bank.rows.shape == (14, 4)
    for row, sample in zip(bank.rows, bank.sample, strict=True):
        assert (features[sample] == row).all(-1).any()


def test_k_means_centres_are_nobodys(rows):
    bank = fill(rows, Keep("kmeans", 0.25), seed=3)
    assert bank.rows.shape == (14, 4)
    assert bank.rows.dtype == np.float32
    assert (bank.sample == NOBODY).all()
    np.testing.assert_array_equal(bank.rows, fill(rows, Keep("kmeans", 0.25), seed=3).rows)


@pytest.mark.parametrize("kind", ["coreset", "kmeans"])
def test_at_least_one_row_is_kept_and_copies_do_no_harm(kind):
    rows = PatchRows(np.ones((2, 1, 6, 4), "f4"), np.array([(0, 0), (1, 0)]))
    assert len(fill(rows, Keep(kind, 0.001), 0).rows) == 1
    np.testing.assert_array_equal(fill(rows, Keep(kind, 0.5), 0).rows, 1)
