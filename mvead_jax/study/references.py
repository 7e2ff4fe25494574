"""The stored references of the study: what each check should give, in float64.

    python -m mvead_jax.study.references        makes references.npz anew; about three minutes on two cores

Of large outputs some values are kept, at places spread evenly.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mvead_jax.methods.checks import Check
from mvead_jax.runtime.errors import UserError, run
from mvead_jax.runtime.files import whole
from mvead_jax.study.backbone_checks import backbone_checks
from mvead_jax.study.bank_checks import bank_checks
from mvead_jax.study.method_checks import Recipe, method_checks, methods, recipe_of

FILE = Path(__file__).parent / "references.npz"
_VALUES = 512  # of an output


def all_checks(recipes: Mapping[str, Recipe]) -> list[Check]:
    """Return the checks in the order in which the study makes them: what all methods stand on comes first."""
    return [*backbone_checks(), *bank_checks(), *method_checks(recipes)]


def sampled(value: Any) -> np.ndarray:
    """Return the values of an output that are kept."""
    flat = np.asarray(value).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, _VALUES)).astype(int)]


@cache
def read_references() -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Recipe]]:
    """Return the kept values by check and output, and the recipe of each method's state.

    Raises:
      UserError: the installation lacks the file.
    """
    try:
        with np.load(FILE) as file:
            values: dict[str, dict[str, np.ndarray]] = {}
            recipes: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
            for key in file.files:
                what, *rest, name = key.split("/")
                if rest:
                    recipes.setdefault(what, {})[name] = rest[0], file[key]
                else:
                    values.setdefault(what, {})[name] = file[key]
            return values, recipes
    except (OSError, ValueError) as error:
        raise UserError(
            f"{FILE}: not the references of the study ({error}); install the package again"
        ) from None


def largest_difference(found: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of the kept values, relative to the root mean square of what is expected.

    It is infinite where a value is no number, a whole number differs, or an output is not there.
    """
    if found.keys() != expected.keys():
        return np.inf
    largest = 0.0
    for name, wanted in expected.items():
        own = sampled(found[name])
        if own.shape != wanted.shape or not np.isfinite(own).all():
            return np.inf
        if np.issubdtype(wanted.dtype, np.integer):
            largest = max(largest, 0.0 if np.array_equal(own, wanted) else np.inf)
            continue
        scale = max(float(np.sqrt(np.mean(wanted**2))), np.finfo(np.float32).tiny)
        largest = max(largest, float(np.abs(own.astype(np.float64) - wanted).max()) / scale)
    return largest


def main() -> None:
    """Write the references: "<check>/<output>", and of states "<method>/<kind>/<path>"."""
    recipes = {name: recipe_of(method) for name, method in methods().items()}
    arrays = {
        f"{name}/{kind}/{path}": own
        for name, recipe in recipes.items()
        for path, (kind, own) in recipe.items()
    }
    for check in all_checks(recipes):
        for output, value in check.expected().items():
            arrays[f"{check.name}/{output}"] = sampled(value)
        print(check.name, file=sys.stderr, flush=True)
    with whole(FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    run(main)
