"""The static costs of the stages: they compile at small sizes, and agree with what is computed by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from benchmarks.compiled_costs import DEVICES, Sizes, costs

SMALL = Sizes("dinov2-small", blocks=1, images=2, side=4, samples=4, rows=4096, queries=64)


@pytest.fixture(scope="module")
def found():
    return {cost.name: cost for cost in costs(SMALL)}


def test_every_stage_compiles_without_being_run(found):
    assert list(found) == ["features", "pre-training", "fusing", "search"]
    assert all(cost.given > 0 and cost.memory >= cost.given for cost in found.values())
    assert found["search"].operations is None  # its loop hides them


def test_what_is_counted_is_what_the_formulas_say(found):
    tokens, patches, width = 17, 16, 384
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    images = 2 * (block + patches * 2 * 14 * 14 * 3 * width)
    # Attention in a loop, as a CPU has it, would hide most of its products: less than the formula.
    assert images <= found["features"].operations == pytest.approx(images, rel=0.1)
    projections = SMALL.samples * SMALL.views * patches * 8 * width**2
    assert found["fusing"].operations == pytest.approx(projections, rel=0.2)  # the keys are few here


def test_what_is_given_is_the_size_of_the_arrays(found):
    bank = SMALL.rows * 384 * 4
    queries, answers = SMALL.queries * 384 * 4, SMALL.queries * (4 + 4 + 4)
    assert found["search"].given == pytest.approx(bank + queries + answers, rel=0.01)


def test_real_iad_fits_the_devices_of_the_docs():
    """The bank of one view is 5.7 GB: what the search sets aside beside it is little. One block stands for seven, which
    share what is set aside."""
    (search,) = costs(Sizes(), ("search",))
    assert search.given > Sizes().rows * 768 * 4
    assert search.aside < 1e9
    (features,) = costs(Sizes(blocks=1), ("features",))
    for memory in DEVICES:
        assert search.memory < 0.9 * memory
        assert features.memory + 6 * 28.4e6 < 0.9 * memory
