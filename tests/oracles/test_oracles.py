"""The golden cases that the repository carries; with `make parity` all others too that lie beside the checkout."""

from pathlib import Path

import jax
import pytest
from oracles.check import cases, families, run

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests/golden/oracles"
BESIDE = tuple(ROOT.parent / "shared" / own for own in ("oracles", "oracles/baselines"))
KNOWN = families()


def parameters():
    for folder in (OWN, *BESIDE):
        marks = () if folder == OWN else pytest.mark.parity
        for path in cases(folder):
            yield pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=marks)


@pytest.mark.parametrize("path", list(parameters()))
def test_a_golden_case_is_within_its_tolerance(path):
    with jax.numpy_dtype_promotion("standard"):  # layers of Flax mix float32 constants into float64 cases
        line, passed = run(path, KNOWN)
    if passed is None:
        pytest.skip(line)
    assert passed, line
