"""Banks by view or shared, searched for the nearest row or the hull of several: against the search itself."""

from dataclasses import replace

import numpy as np
import pytest

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.hull import hull_distance
from mvead_jax.bank.memory import MemoryBanks
from mvead_jax.bank.nearest import nearest
from mvead_jax.data.records import DatasetIndex, Sample, View

VIEWS = ("C1", "C2")
HULL = BankScoreConfig(distance="hull", neighbours=5, ridge=0.2)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Five samples, one of which lacks a view, and their features."""
    own = tuple(
        Sample(str(n), "a", "train", tuple(View(v, "x", 0) for v in VIEWS[: 1 if n == 2 else 2]))
        for n in range(5)
    )
    features = np.random.default_rng(0).normal(size=(5, 2, 2, 3, 4)).astype(np.float32)
    return DatasetIndex(tmp_path_factory.mktemp("data"), own, VIEWS), features


@pytest.mark.parametrize("per_view", [True, False])
@pytest.mark.parametrize("score", [BankScoreConfig(), HULL])
def test_distances_are_those_of_the_search_and_training_samples_are_left_out_with_their_rows(
    samples, per_view, score
):
    import jax

    index, features = samples
    memory = MemoryBanks(VIEWS, BankConfig(per_view=per_view), score)
    banks = memory.fill(index, features, jax.random.key(0))
    found = np.asarray(memory.distances(banks, features[:2]))
    left_out = memory.leave_one_out(banks, index, features[[1, 2]], np.array([1, 2]))
    assert np.isnan(left_out[1, 1]).all()  # the missing view
    options = {"k": 5, "ridge": 0.2}
    for at, view in enumerate(VIEWS):
        bank = banks[view if per_view else "shared"]
        others = bank.sample != 1
        for queries, where, maps in (
            (features[0, at], None, found[0, at]),
            (features[1, at], others, left_out[0, at]),
        ):
            queries = queries.reshape(-1, 4)
            expected = (
                hull_distance(queries, bank.rows, where=where, **options)
                if score.distance == "hull"
                else nearest(queries, bank.rows, where=where)[0]
            )
            np.testing.assert_allclose(maps.reshape(-1), expected, rtol=1e-5, atol=1e-6)
    assert (left_out[0] > 0).all()


def test_thresholds_hold_for_the_same_hull_only_and_the_protocol_says_which():
    assert "neighbours" not in BankScoreConfig().deciding()
    assert HULL.deciding() != replace(HULL, ridge=0.3).deciding()
    words = MemoryBanks(VIEWS, BankConfig(), HULL).words()
    assert words == "distance to the affine hull of the 5 nearest patches of its bank, ridge 0.2"
