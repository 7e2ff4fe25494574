"""The score of an image with what the other views see, against loops."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mvead_jax.config.schema import ScoreConfig
from mvead_jax.postprocess.evidence import image_scores
from mvead_jax.postprocess.statistics import ScoreStatistics

VIEWS, GRID = 3, (2, 3)
PATCHES = GRID[0] * GRID[1]
CONFIG = ScoreConfig(image_evidence="epipolar", image_weight=0.5)


def drawn(cells=1):
    """Maps whose cells are `cells` times finer than the patches, statistics, and a mask without own views."""
    random = np.random.default_rng(3)
    maps = random.gamma(2.0, size=(VIEWS, GRID[0] * cells, GRID[1] * cells)).astype(np.float32)
    statistics = ScoreStatistics(random.uniform(1, 2, VIEWS), random.uniform(0.5, 2, VIEWS))
    mask = random.random((VIEWS, VIEWS, PATCHES, PATCHES)) < 0.4
    mask[range(VIEWS), range(VIEWS)] = False
    mask[0, 1, 2] = False  # a patch without a place in one view
    return maps, statistics, mask


def by_loops(maps, present, mask, statistics, config):
    scores = np.full(VIEWS, -np.inf)
    cells = maps.shape[1] // GRID[0]
    z = (maps - statistics.mean[:, None, None]) / statistics.deviation[:, None, None]
    z = z.reshape(VIEWS, GRID[0], cells, GRID[1], cells).max((2, 4)).reshape(VIEWS, PATCHES)
    for a in range(VIEWS):
        for j in range(PATCHES):
            seen = [
                z[b, k]
                for b in range(VIEWS)
                for k in range(PATCHES)
                if present[b] and b != a and (config.image_evidence == "all" or mask[a, b, j, k])
            ]
            scores[a] = max(scores[a], z[a, j] + config.image_weight * max(seen, default=0))
    return scores


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("evidence", ["epipolar", "all"])
@pytest.mark.parametrize("present", [(1, 1, 1), (1, 0, 1), (0, 1, 0)])
def test_image_scores_are_those_of_the_definition(cells, evidence, present):
    maps, statistics, mask = drawn(cells)
    config, present = replace(CONFIG, image_evidence=evidence), np.array(present, bool)
    expected = by_loops(maps, present, mask, statistics, config)
    given = np.where(present[:, None, None], maps, np.nan)  # whatever stands in a missing view
    found = jax.jit(lambda m: image_scores(m, present, mask, GRID, statistics, config))(given)
    np.testing.assert_allclose(np.asarray(found)[present], expected[present], rtol=1e-5)


def test_without_a_trusted_pair_an_image_has_its_own_standardised_score():
    maps, statistics, mask = drawn()
    found = image_scores(maps, np.ones(VIEWS, bool), np.zeros_like(mask), GRID, statistics, CONFIG)
    expected = (maps.max((1, 2)) - statistics.mean) / statistics.deviation
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_decision_does_not_depend_on_the_evidence_of_images():
    assert CONFIG.deciding() == ScoreConfig().deciding()
