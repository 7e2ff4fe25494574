"""The map, the loss and the scores against loops; background and missing views."""

import jax
import numpy as np
from multiflow_flows import features

from mvead_jax.methods.multiflow.objective import anomaly_map, flow_loss

B, V, H, W, C = 2, 3, 4, 3, 5
Z, LOG_DET = features(0, B, V, H, W, C), features(1, B, V, H, W)
FOREGROUND = np.random.default_rng(2).random((B, V, H, W)) < 0.6
PRESENT = np.array([[True, True, False], [True, False, False]])


def oracle(foreground):
    z, log_det = np.asarray(Z, "f8"), np.asarray(LOG_DET, "f8")
    found = np.zeros((B, V, H, W))
    for at in np.ndindex(found.shape):
        m = float(foreground[at])
        found[at] = (0.5 * sum((m * value) ** 2 for value in z[at]) - m * log_det[at]) / C
    return found


def test_the_map_is_the_formula_patch_by_patch_and_the_background_is_zero():
    found = jax.jit(jax.vmap(anomaly_map))(Z, LOG_DET, FOREGROUND)
    np.testing.assert_allclose(found, oracle(FOREGROUND), atol=1e-6)
    assert not found[~FOREGROUND].any()
    np.testing.assert_allclose(jax.vmap(anomaly_map)(Z, LOG_DET), oracle(np.ones_like(FOREGROUND)), atol=1e-6)


def test_the_loss_is_the_mean_over_the_images_that_there_are():
    maps = oracle(FOREGROUND)
    given = maps.astype("f4")
    np.testing.assert_allclose(flow_loss(given), maps.mean(), rtol=1e-6)
    np.testing.assert_allclose(flow_loss(given, PRESENT), maps[PRESENT].mean(), rtol=1e-6)
    given[~PRESENT] = np.nan
    np.testing.assert_allclose(jax.jit(flow_loss)(given, PRESENT), maps[PRESENT].mean(), rtol=1e-6)
    assert flow_loss(given, np.zeros_like(PRESENT)) == 0


def test_what_is_not_finite_in_the_background_still_shows_in_the_loss():
    broken = Z.at[0, 0, 0, 0, 0].set(np.nan)
    foreground = FOREGROUND.copy()
    foreground[0, 0, 0, 0] = False
    assert np.isnan(flow_loss(jax.vmap(anomaly_map)(broken, LOG_DET, foreground)))
