"""The golden cases that the repository carries, and all others that lie beside the checkout."""

from pathlib import Path

import pytest
from oracles.check import cases, families, run

ROOT = Path(__file__).parents[2]
FOLDERS = (
    ROOT / "tests/golden/oracles",
    *(ROOT.parent / "shared" / own for own in ("oracles", "oracles/baselines")),
)
KNOWN = families()


@pytest.mark.parametrize(
    "path",
    [path for folder in FOLDERS for path in cases(folder)],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_a_golden_case_is_within_its_tolerance(path):
    line, passed = run(path, KNOWN)
    if passed is None:
        pytest.skip(line)
    assert passed, line
