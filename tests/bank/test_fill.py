import numpy as np
import pytest

from mvead_jax.bank.config import BankConfig
from mvead_jax.bank.fill import NO_SAMPLE, PatchRows, fill
from mvead_jax.runtime.errors import UserError

# Sample 1 lacks view 2, sample 3 lacks view 0.
IMAGES = np.array([(0, 0), (1, 0), (2, 0), (4, 0), (0, 2), (2, 2), (3, 2), (4, 2)])


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(5, 3, 7, 4)).astype("f4")


@pytest.fixture
def rows(features):
    return PatchRows(features, IMAGES)


def test_slices_and_picks_are_those_of_the_patches_one_after_the_other(features, rows):
    plain = np.concatenate([features[s, v] for s, v in IMAGES])
    assert rows.shape == plain.shape
    for start, stop in ((0, 56), (3, 5), (6, 8), (20, 41), (50, 99), (12, 12)):
        np.testing.assert_array_equal(rows[start:stop], plain[start:stop])
    picks = np.array([55, 0, 29, 7, 28])
    np.testing.assert_array_equal(rows.take(picks), plain[picks])
    np.testing.assert_array_equal(rows.sample[[0, 7, 27, 28, 55]], [0, 1, 4, 0, 4])


def test_one_view_of_an_array_is_not_copied(features):
    whole = features.swapaxes(0, 1).copy().swapaxes(0, 1)  # a view lies in one piece, as attended features do
    images = np.array([(s, 1) for s in range(5)])
    assert np.shares_memory(fill(PatchRows(whole, images), BankConfig(), 0).rows, whole)


@pytest.mark.parametrize("projection", [0, 2])
def test_a_coreset_is_some_of_the_rows_and_knows_their_samples(features, rows, projection):
    bank = fill(rows, BankConfig("coreset", 0.25, projection), seed=3)
    assert bank.rows.shape == (14, 4)
    for row, sample in zip(bank.rows, bank.sample, strict=True):
        assert (features[sample] == row).all(-1).any()


def test_k_means_centres_belong_to_no_sample(rows):
    bank = fill(rows, BankConfig("kmeans", 0.25), seed=3)
    assert bank.rows.shape == (14, 4)
    assert bank.rows.dtype == np.float32
    assert (bank.sample == NO_SAMPLE).all()
    np.testing.assert_array_equal(bank.rows, fill(rows, BankConfig("kmeans", 0.25), seed=3).rows)


@pytest.mark.parametrize("kind", ["coreset", "kmeans"])
def test_at_least_one_row_is_kept_and_copies_do_no_harm(kind):
    rows = PatchRows(np.ones((2, 1, 6, 4), "f4"), np.array([(0, 0), (1, 0)]))
    assert len(fill(rows, BankConfig(kind, 0.001), 0).rows) == 1
    np.testing.assert_array_equal(fill(rows, BankConfig(kind, 0.5), 0).rows, 1)


KINDS = ["full", "coreset", "kmeans"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_row_that_is_no_number_is_refused_with_its_sample_view_and_patch(features, kind, value):
    features[2, 2, 4, 1] = value
    features[3, 1] = np.nan  # an image that is not in the bank
    names = [f"part {n}" for n in range(5)], ["top", "left", "right"]
    with pytest.raises(UserError, match="^sample part 2, view right, patch 4: features are") as error:
        fill(PatchRows(features, IMAGES, *names), BankConfig(kind, 0.25), 0)
    assert f"({value:g})" in str(error.value)
    with pytest.raises(UserError, match="^sample number 2, view number 2, patch 4: features are"):
        fill(PatchRows(features, IMAGES), BankConfig(kind, 0.25), 0)


def test_a_row_that_is_no_number_is_found_wherever_the_check_reads(features, monkeypatch):
    monkeypatch.setattr("mvead_jax.bank.fill._READ_ROWS", 5)
    for row in (0, 4, 5, 33, 55):
        own = features.copy()
        sample, view = IMAGES[row // 7]
        own[sample, view, row % 7, 3] = np.nan
        with pytest.raises(UserError, match=f"sample number {sample}, view number {view}, patch {row % 7}:"):
            fill(PatchRows(own, IMAGES), BankConfig(), 0)
