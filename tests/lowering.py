"""Lowering for accelerators that are not here: what a program becomes, short of running it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

BACKENDS = {"cuda": "gpu", "tpu": "tpu"}  # a platform of jax.export -> what jax.default_backend() says there


@pytest.fixture(scope="module", params=list(BACKENDS))
def platform(request):
    """A platform that functions are traced for: those that ask which backend they run on are told that one.

    What was traced before is forgotten, and what is traced here is forgotten afterwards: a trace for another
    backend must not be run on this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: BACKENDS[request.param])
        jax.clear_caches()
        yield request.param
    jax.clear_caches()


def shape(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def shapes_of(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: shape(*leaf.shape, dtype=leaf.dtype), tree)


def lowered(function: Callable, platform: str, *arguments: Any, **static: Any) -> jax.export.Exported:
    """Return the program of a function for a platform; raises where an operation has no lowering there."""
    exported = jax.export.export(jax.jit(partial(function, **static)), platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)
    return exported
