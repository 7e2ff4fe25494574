"""The first question: does the device compute what float64 says?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mvead_jax.methods.checks import Check
from mvead_jax.study.budget import FAILED, PASSED, Budget, Item, not_run
from mvead_jax.study.references import all_checks, largest_difference, read_references

_SHARE = 0.5


def correctness(budget: Budget) -> list[Item]:
    """Return an item for each check."""
    (references, recipes), found = read_references(), []
    for check in all_checks(recipes):
        if check.name not in references:
            found.append(not_run(check.name, "there is no stored reference: an installed package brings it"))
            continue

        def work(check: Check = check) -> dict[str, Any]:
            return checked(check, references[check.name])

        found.append(budget.item("correctness", check.name, check.seconds, work, _SHARE))
    return found


def checked(check: Check, reference: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return how far a check is from its reference, and the digest of all that it gave."""
    values = {name: np.asarray(value) for name, value in check.compute().items()}
    largest = largest_difference(values, reference)
    found = {
        "status": PASSED if largest <= check.tolerance else FAILED,
        "largest": largest,
        "tolerance": check.tolerance,
        "digest": digest(*(values[name] for name in sorted(values))),
    }
    if found["status"] == FAILED:
        found["reason"] = f"off by {largest:.2g} of the root mean square, more than {check.tolerance:g}"
    return found


def digest(*arrays: Any) -> str:
    """Return the first 16 digits of the SHA-256 over arrays with their shapes and types."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(f"{array.shape} {array.dtype};".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
