"""What must fail: changes that are larger than rounding, which the checks must find, or their passing means nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.bank.nearest import nearest
from mvead_jax.methods.checks import Check
from mvead_jax.study.backbone_checks import backbone_checks
from mvead_jax.study.budget import FAILED, PASSED, Budget, Item, not_run
from mvead_jax.study.correctness import checked
from mvead_jax.study.references import read_references
from mvead_jax.study.repeatability import TOLERANCE, Repeated, programs_kept, relative_difference

_SHARE = 0.88
_PRODUCT = 1e-5  # a matrix product of float32 is this near to float64, and one of bfloat16 is not


def controls(budget: Budget, kept: Repeated) -> list[Item]:
    """Return an item for each control: it passes if the check that it disturbs fails."""
    found = [
        budget.item("control", "bfloat16 matrix products", 2, _products, _SHARE),
        *(_backbone(budget, check) for check in backbone_checks("bfloat16")),
    ]
    if "float32" not in kept.outcomes:
        return [
            *found,
            *(not_run(name, "no run to compare with") for name in ("another seed", "bfloat16 run")),
        ]
    first = kept.outcomes["float32"]

    def seed() -> dict[str, Any]:
        with programs_kept(kept.folder / f"programs-{jax.process_index()}"):
            other = kept.run("seed", "float32", seed=1)
        return _must_exceed(
            relative_difference(first.scores, other.scores), TOLERANCE, "the scores of seed 1"
        )

    found.append(budget.item("control", "another seed", 50, seed, _SHARE))
    if "bfloat16" not in kept.outcomes:
        return [*found, not_run("bfloat16 run", "the runs in bfloat16 did not run")]

    def rounded() -> dict[str, Any]:
        other = kept.outcomes["bfloat16"]
        how = "the scores of a run with backbone.precision=bfloat16"
        return _must_exceed(relative_difference(first.scores, other.scores), TOLERANCE, how)

    return [*found, budget.item("control", "bfloat16 run", 0.1, rounded, _SHARE)]


def _must_exceed(difference: float, tolerance: float, how: str) -> dict[str, Any]:
    found = {"status": PASSED, "how": how, "difference": difference, "tolerance": tolerance}
    if not difference > tolerance:
        reason = f"{how} differ by {difference:.2g} only, within the tolerance {tolerance:g}: the check sees nothing"
        found |= {"status": FAILED, "reason": reason}
    return found


def _backbone(budget: Budget, check: Check) -> Item:
    def work() -> dict[str, Any]:
        found = checked(check, read_references()[0][check.name])
        return _must_exceed(found["largest"], check.tolerance, "features with backbone.precision=bfloat16")

    return budget.item("control", f"bfloat16 {check.name}", check.seconds, work, _SHARE)


def _products() -> dict[str, Any]:
    """A product under JAX's own setting; where the device ignores that, distances of features that were rounded."""
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((256, 256), np.float32) for _ in range(2))
    exact = x.astype(np.float64) @ y.astype(np.float64)

    def off(found: Any, expected: np.ndarray) -> float:
        return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.sqrt(np.mean(expected**2)))

    with jax.default_matmul_precision("bfloat16"):
        heeded = off(jnp.matmul(x, y), exact)
    if heeded > _PRODUCT:
        return _must_exceed(
            heeded, _PRODUCT, "a matrix product under jax.default_matmul_precision('bfloat16')"
        )
    rounded = jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32)
    expected = np.sqrt(((x[:, None] - y[None]).astype(np.float64) ** 2).sum(2)).min(1)
    how = "distances of features rounded to bfloat16 (this device ignores jax.default_matmul_precision)"
    return _must_exceed(off(nearest(rounded, jnp.asarray(y))[0], expected), _PRODUCT, how)
