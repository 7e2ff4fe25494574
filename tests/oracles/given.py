"""What the golden cases of the baselines have in common: given features, recipes by name, steps of an optimiser.

The weights of a case have its `tag` where it has one, else the first of PREFIX-A, PREFIX-B, ... with which a
number of the case comes out; the recipe is its `recipe` where it has one, else the one whose name its file name
goes on with.
"""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from oracles import recipes
from oracles.check import Difference, compare, sampled

from mvead_jax.backbones.checkpoint import Source

_TAGS = string.ascii_uppercase[:8]


def features(case: str, name: str, shape: Sequence[int], *, scale: float = 1, shift: float = 0.2, relu=True):
    """Return float32 features that a case's name and theirs seed, in PyTorch's layout."""
    found = scale * (recipes.draw(case, name, shape) + shift)
    return np.asarray(np.maximum(found, 0) if relu else found, np.float32)


def last(x: Any, axis: int = 1) -> jax.Array:
    """Return an array with PyTorch's axis of channels as the last one."""
    return jnp.moveaxis(jnp.asarray(x), axis, -1)


def first(x: Any) -> np.ndarray:
    """Return an array with channels last in PyTorch's layout."""
    return np.moveaxis(np.asarray(x), -1, 1)


def recipe_of(path: Path, case: Mapping[str, np.ndarray], family: str) -> Path:
    """Return the recipe file of a case's weights."""
    if "recipe" in case:
        return path.with_name(str(case["recipe"]))
    names = [own.stem.removeprefix("recipe_") for own in path.parent.glob(f"recipe_{family}_*.json")]
    fitting = [name for name in names if path.stem == name or path.stem.startswith(f"{name}_")]
    assert fitting, f"{path}: no recipe_{family}_*.json beside it goes with this case"
    return path.with_name(f"recipe_{max(fitting, key=len)}.json")


def settings_of(recipe: Path) -> tuple:
    """Return the values of the tuple at the end of a recipe's note."""
    note = json.loads(recipe.read_text())["note"]
    return ast.literal_eval(note[note.index("(") :])


def fitting(
    case: Mapping[str, np.ndarray], recipe: Path, prefix: str, run: Callable[[dict], dict], key: str
) -> dict[str, Any]:
    """Return run(weights) of the weights of a case; `key`: of its number that tells whether they are the right ones."""
    if "tag" in case:
        return run(recipes.weights(recipe, str(case["tag"])))
    found = {}
    for letter in _TAGS:
        own = run(recipes.weights(recipe, f"{prefix}-{letter}"))
        if np.allclose(own[key], case[key], rtol=1e-3, atol=1e-3):
            return own
        found = found or own
    return found


def near(case: Mapping[str, np.ndarray], name: str, found: Any, relative: float) -> Difference:
    """Compare an array that a case holds whole or sampled, by a share of its largest expected number."""
    whole = name if name in case else f"{name}.full"
    expected = case[whole] if whole in case else case[f"{name}.val"]
    return sampled(case, name, found, relative * max(float(np.abs(expected).max(initial=0)), 1e-30))


def wide(network: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Return a network's graph, parameters and the rest, in float64; for use under jax.enable_x64."""
    graph, *states = nnx.split(network, nnx.Param, ...)
    return graph, *(jax.tree.map(lambda x: jnp.asarray(np.asarray(x), np.float64), own) for own in states)


def compared_step(
    case: Mapping[str, np.ndarray],
    table: Mapping[str, Source],
    gradient: nnx.State | Mapping[str, Any],
    after: nnx.State | Mapping[str, Any],
    relative: float,
    *,
    prefix: str = "step64",
) -> Iterator[Difference]:
    """Compare gradients and parameters after a step at the places of a case, by PyTorch's names.

    Tolerances are shares of the largest number of each kind in the whole case, for some parameters have no
    gradient but rounding.
    """
    leaves = [_by_path(tree) for tree in (gradient, after)]
    expected = [case[f"{prefix}/{kind}"] for kind in ("grad", "after", "gradnorm")]
    allowed = [relative * float(np.abs(own).max()) for own in expected]
    for row, name in enumerate(case[f"{prefix}/names"]):
        found, at = [_released(table[name], own) for own in leaves], case[f"{prefix}/pos"][row]
        # A tensor of fewer numbers than the case samples fills its row up with repeats.
        yield compare(f"grad {name}", found[0][at], expected[0][row], allowed[0])
        yield compare(f"after {name}", found[1][at], expected[1][row], allowed[1])
        yield compare(f"gradnorm {name}", np.linalg.norm(found[0]), expected[2][row], allowed[2])
    if f"{prefix}/grad_norm_total" in case:
        total = np.sqrt(sum(np.square(x).sum() for x in leaves[0].values()))
        expected_total = float(case[f"{prefix}/grad_norm_total"])
        yield compare("grad_norm_total", total, expected_total, relative * expected_total)


def _by_path(tree: nnx.State | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The leaves of a state, or of nested dicts of arrays, by their path."""
    flat = jax.tree_util.tree_leaves_with_path(
        nnx.to_pure_dict(tree) if isinstance(tree, nnx.State) else tree
    )
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in flat}


def _released(source: Source, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return one tensor of the released names, flat in its C order."""
    targets = (source.target,) if isinstance(source.target, str) else source.target
    places = source.transform(np.arange(np.prod(source.shape)).reshape(source.shape))
    found = np.empty(int(np.prod(source.shape)))
    for target, own in zip(targets, places if len(targets) > 1 else (places,), strict=True):
        found[np.asarray(own).reshape(-1)] = leaves[target].reshape(-1)
    return found
